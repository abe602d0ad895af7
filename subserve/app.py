"""Find the app that ``module:attribute`` names, load it, and tell which interface it speaks."""

import importlib
import inspect
import sys
from annotationlib import Format
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from subserve.errors import AppLoadError

type Interface = Literal["asgi", "wsgi"]

_DEFAULT_ATTRIBUTES = ("app", "application")


def load(target: str, *, factory: bool, app_dir: str) -> Any:
    """Import and return the app.

    Raises `AppLoadError` where `target` names nothing; what the import or the factory raises is
    passed on as it is, so that its traceback is the app's own.
    """
    module_name, _, attribute = target.partition(":")
    _check_spelling(target, module_name)
    directory = str(Path(app_dir).resolve())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    module = _import(module_name, directory)
    app = _attribute(module, module_name, attribute)
    if not factory:
        return app
    if not callable(app):
        raise AppLoadError(f"--factory: {target} is not a function but {app!r:.80}")
    if inspect.iscoroutinefunction(app):
        raise AppLoadError(f"--factory: {target} is async; what needs a loop belongs in lifespan")
    return app()


def _check_spelling(target: str, module_name: str) -> None:
    path, _, attribute = target.partition(":")
    if path.endswith(".py") or "/" in path:
        dotted = path.removesuffix(".py").strip("./").replace("/", ".")
        raise AppLoadError(f"{target} is a path; name the module: {dotted}:{attribute or 'app'}")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise AppLoadError(f"{target}: expected module:attribute, such as myproject.asgi:app")


def _import(module_name: str, directory: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only a part of the name itself: what the app imports in vain is the app's own error.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise AppLoadError(
            f"no module named {error.name} in {directory} or on sys.path; "
            "run subserve from the project's directory or give --app-dir"
        ) from None


def _attribute(module: Any, module_name: str, attribute: str) -> Any:
    if not attribute:
        for name in _DEFAULT_ATTRIBUTES:
            if hasattr(module, name):
                return getattr(module, name)
        raise AppLoadError(
            f"module {module_name} has neither app nor application; give {module_name}:attribute"
        )
    found = module
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise AppLoadError(f"module {module_name} has no attribute {attribute}") from None
    return found


def interface_of(app: Any, given: Literal["auto", "asgi", "wsgi"] = "auto") -> Interface:
    """Tell ASGI 3 from WSGI (PEP 3333) by how the app is called, unless it is `given`.

    Raises `AppLoadError` for what is neither, and names the remedy.
    """
    if given != "auto" and callable(app):
        return given
    if not callable(app):
        raise AppLoadError(f"the app is not callable but {app!r:.80}")
    arguments = _required_positional(app)
    if inspect.isclass(app):
        # PEP 3333 has such an app: making an instance is the call, iterating over it the response.
        if arguments == 2 and hasattr(app, "__iter__"):
            return "wsgi"
        if arguments == 3 and hasattr(app, "__await__"):
            return "asgi"
        raise AppLoadError(f"the app is the class {app.__name__}; name an instance, or --factory")
    call = app if inspect.isroutine(app) else type(app).__call__
    is_async = inspect.iscoroutinefunction(inspect.unwrap(call))
    if is_async and _takes_three(app):
        return "asgi"
    match arguments:
        case 3:
            return "asgi"
        case 2 if not is_async:
            return "wsgi"
        case 1:
            raise AppLoadError(
                "the app takes one argument, as ASGI 2 apps do; "
                "wrap it with asgiref.compatibility.guarantee_single_callable"
            )
        case 0:
            raise AppLoadError("the app takes no argument; if it makes the app, give --factory")
        case _:
            raise AppLoadError("cannot tell what the app speaks; give --interface asgi or wsgi")


def _signature(app: Callable[..., Any]) -> inspect.Signature:
    # As text: evaluated, an annotation raises NameError for a type that is imported under
    # TYPE_CHECKING only (PEP 649).
    return inspect.signature(app, annotation_format=Format.STRING)


def _takes_three(app: Callable[..., Any]) -> bool:
    try:
        _signature(app).bind("scope", "receive", "send")
    except TypeError:
        return False
    return True


def _required_positional(app: Callable[..., Any]) -> int | None:
    """Return how many positional arguments a call needs, None where that cannot be told."""
    try:
        parameters = _signature(app).parameters.values()
    except TypeError, ValueError:
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    positional = [
        p
        for p in parameters
        if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD} and p.default is p.empty
    ]
    return len(positional)
