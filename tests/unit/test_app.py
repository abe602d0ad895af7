"""Find the app, load it, and tell which interface it speaks."""

import functools
import importlib
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from subserve.app import interface_of, load
from subserve.errors import AppLoadError


@pytest.fixture(autouse=True)
def _imports_are_undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    importlib.invalidate_caches()


class Project:
    """A folder with modules, to load an app from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, text: str = "") -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def load(self, target: str, *, factory: bool = False) -> Any:
        return load(target, factory=factory, app_dir=str(self.folder))

    def complaint(self, target: str, *, factory: bool = False) -> str:
        with pytest.raises(AppLoadError) as caught:
            self.load(target, factory=factory)
        return str(caught.value)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


# ---- load


def test_an_attribute_of_a_module(project: Project) -> None:
    project.add("shop.py", "app = 'a'; application = 'b'; other = 'c'")
    assert project.load("shop:other") == "c"
    assert sys.path[0] == str(project.folder)


def test_a_module_of_a_package(project: Project) -> None:
    project.add("shop/__init__.py")
    project.add("shop/web/asgi.py", "application = 'b'")
    assert project.load("shop.web.asgi:application") == "b"


@pytest.mark.parametrize("target", ["shop", "shop:"])
def test_the_attribute_may_be_left_out(project: Project, target: str) -> None:
    project.add("shop.py", "app = 'a'; application = 'b'")
    assert project.load(target) == "a"


def test_the_second_default(project: Project) -> None:
    project.add("shop.py", "application = 'b'")
    assert project.load("shop") == "b"


def test_neither_default(project: Project) -> None:
    project.add("shop.py", "api = 1")
    assert project.complaint("shop") == (
        "module shop has neither app nor application; give shop:attribute"
    )


def test_dotted_attributes(project: Project) -> None:
    project.add("shop.py", "class site:\n    class web:\n        app = 'a'")
    assert project.load("shop:site.web.app") == "a"


@pytest.mark.parametrize("attribute", ["api", "app.api", "app..x", "app.", "a:b"])
def test_no_such_attribute(project: Project, attribute: str) -> None:
    project.add("shop.py", "app = 'a'")
    assert project.complaint(f"shop:{attribute}") == f"module shop has no attribute {attribute}"


@pytest.mark.parametrize(
    ("target", "name"),
    [("shop:app", "shop"), ("shop.web:app", "shop"), ("store.web:app", "store.web")],
)
def test_a_missing_module(project: Project, target: str, name: str) -> None:
    project.add("store/__init__.py")
    assert project.complaint(target) == (
        f"no module named {name} in {project.folder} or on sys.path; "
        "run subserve from the project's directory or give --app-dir"
    )


def test_a_module_that_is_no_package(project: Project) -> None:
    project.add("store.py", "app = 1")
    assert project.complaint("store.web:app").startswith("no module named store.web in ")


@pytest.mark.parametrize(
    "statement",
    ["import not_installed", "import store.missing", "from store import missing", "import shop.x"],
)
def test_an_import_in_vain_inside_the_module_is_the_apps_own_error(
    project: Project, statement: str
) -> None:
    project.add("store/__init__.py")
    project.add("shop.py", f"{statement}\napp = 1")
    with pytest.raises(ImportError) as caught:
        project.load("shop:app")
    assert not isinstance(caught.value, AppLoadError)


def test_an_import_in_vain_below_the_package_of_the_app(project: Project) -> None:
    project.add("shop/__init__.py")
    project.add("shop/web.py", "import shop.models\napp = 1")
    with pytest.raises(ModuleNotFoundError, match=re.escape("shop.models")):
        project.load("shop.web:app")


@pytest.mark.parametrize("raised", ["ValueError('x')", "SystemExit(1)", "KeyboardInterrupt"])
def test_what_the_module_raises_is_passed_on(project: Project, raised: str) -> None:
    project.add("shop.py", f"raise {raised}")
    with pytest.raises((ValueError, SystemExit, KeyboardInterrupt)):
        project.load("shop:app")


def test_a_syntax_error_is_passed_on(project: Project) -> None:
    project.add("shop.py", "def app(:")
    with pytest.raises(SyntaxError):
        project.load("shop:app")


@pytest.mark.parametrize(
    ("target", "instead"),
    [
        ("shop.py", "shop:app"),
        ("shop.py:api", "shop:api"),
        ("./src/shop.py:api", "src.shop:api"),
        ("src/shop:api", "src.shop:api"),
        ("../shop/web.py", "shop.web:app"),
    ],
)
def test_a_path(project: Project, target: str, instead: str) -> None:
    assert project.complaint(target) == f"{target} is a path; name the module: {instead}"


@pytest.mark.parametrize("target", [":app", "shop-web:app", ".shop:app", "shop..web:app", "1:app"])
def test_a_name_that_no_module_has(project: Project, target: str) -> None:
    assert project.complaint(target) == (
        f"{target}: expected module:attribute, such as myproject.asgi:app"
    )


def test_the_folder_is_put_on_the_path_once(project: Project) -> None:
    project.add("shop.py", "app = 'a'")
    project.load("shop")
    project.load("shop")
    assert sys.path.count(str(project.folder)) == 1


def test_a_relative_folder(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.add("src/shop.py", "app = 'a'")
    monkeypatch.chdir(project.folder)
    assert load("shop", factory=False, app_dir="src") == "a"
    assert sys.path[0] == str(project.folder / "src")


# ---- factories


def test_a_factory(project: Project) -> None:
    project.add("shop.py", "def create_app(): return 'made'")
    assert project.load("shop:create_app", factory=True) == "made"


def test_a_class_is_a_factory_of_instances(project: Project) -> None:
    project.add("shop.py", "class App: pass")
    assert type(project.load("shop:App", factory=True)).__name__ == "App"


def test_what_a_factory_raises_is_passed_on(project: Project) -> None:
    project.add("shop.py", "def create_app(): raise LookupError('x')")
    with pytest.raises(LookupError):
        project.load("shop:create_app", factory=True)


def test_a_factory_that_is_none(project: Project) -> None:
    project.add("shop.py", "app = 5")
    assert (
        project.complaint("shop:app", factory=True) == "--factory: shop:app is not a function but 5"
    )


def test_an_async_factory(project: Project) -> None:
    # It was called, and what it returned, a coroutine that nobody awaits, was not callable.
    project.add("shop.py", "async def create_app(): ...")
    assert project.complaint("shop:create_app", factory=True) == (
        "--factory: shop:create_app is async; what needs a loop belongs in lifespan"
    )


# ---- interfaces


async def asgi(scope: object, receive: object, send: object) -> None: ...


def wsgi(environ: object, start_response: object) -> list[bytes]:
    return []


def wrapping[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return wrapper


class AsgiCall:
    async def __call__(self, scope: object, receive: object, send: object) -> None: ...


class AsgiPlainCall:
    def __call__(self, scope: object, receive: object, send: object) -> object:
        return asgi(scope, receive, send)


class WrappedCall:
    @wrapping
    async def __call__(self, scope: object, receive: object, send: object) -> None: ...


class StaticCall:
    __call__ = staticmethod(asgi)


class WsgiCall:
    def __call__(self, environ: object, start_response: object) -> list[bytes]:
        return []


class CallInSlot:
    """As Sentry's middleware is made: what is called is decided for each instance."""

    __slots__ = ("__call__",)

    def __init__(self, function: Callable[..., object]) -> None:
        self.__call__ = function


class PepClass:
    """The class of PEP 3333: calling it is making an instance, which is the response."""

    def __init__(self, environ: object, start_response: object) -> None: ...

    def __iter__(self) -> Iterator[bytes]:
        yield b""


class Endpoint:
    """As Starlette's `HTTPEndpoint`: calling it is making an instance, which is awaited."""

    def __init__(self, scope: object, receive: object, send: object) -> None: ...

    def __await__(self) -> Iterator[None]:
        yield


class Proxy:
    """As objects that stand in front of another and know nothing of it."""

    def __init__(self, behind: object) -> None:
        self._behind = behind

    def __getattr__(self, name: str) -> object:
        return getattr(self._behind, name)

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._behind(*args, **kwargs)  # type: ignore[operator]


async def asgi_with_settings(settings: object, scope: object, receive: object, send: object): ...


async def asgi_with_defaults(scope: object, receive: object = None, send: object = None): ...


ASGI_APPS = {
    "function": asgi,
    "function with defaults": asgi_with_defaults,
    "instance": AsgiCall(),
    "bound method": AsgiCall().__call__,
    "plain __call__ that returns a coroutine": AsgiPlainCall(),
    "lambda": lambda scope, receive, send: asgi(scope, receive, None),
    "decorated function": wrapping(asgi),
    "decorated __call__": WrappedCall(),
    "static __call__": StaticCall(),
    "__call__ in a slot": CallInSlot(asgi),
    "partial": functools.partial(asgi_with_settings, None),
    "class to await": Endpoint,
    "decorated lambda": wrapping(lambda scope, receive, send: asgi(scope, receive, None)),
}

WSGI_APPS = {
    "function": wsgi,
    "instance": WsgiCall(),
    "bound method": WsgiCall().__call__,
    "decorated function": wrapping(wsgi),
    "__call__ in a slot": CallInSlot(wsgi),
    "partial": functools.partial(lambda settings, environ, start_response: [], None),
    "optional argument": lambda environ, start_response, extra=None: [],
    "class of PEP 3333": PepClass,
    "proxy": Proxy(wsgi),
}


@pytest.mark.parametrize("app", ASGI_APPS.values(), ids=ASGI_APPS)
def test_asgi_apps(app: object) -> None:
    assert interface_of(app) == "asgi"


@pytest.mark.parametrize("app", WSGI_APPS.values(), ids=WSGI_APPS)
def test_wsgi_apps(app: object) -> None:
    assert interface_of(app) == "wsgi"


def test_apps_of_flask() -> None:
    flask = pytest.importorskip("flask")
    app = flask.Flask("shop")
    assert interface_of(app) == interface_of(app.wsgi_app) == "wsgi"


def test_apps_of_starlette_and_fastapi() -> None:
    fastapi = pytest.importorskip("fastapi")
    from starlette.applications import Starlette
    from starlette.endpoints import HTTPEndpoint

    assert interface_of(fastapi.FastAPI()) == interface_of(Starlette()) == "asgi"
    assert interface_of(HTTPEndpoint) == "asgi"


def test_apps_of_django() -> None:
    pytest.importorskip("django")
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler

    assert interface_of(ASGIHandler.__new__(ASGIHandler)) == "asgi"
    assert interface_of(WSGIHandler.__new__(WSGIHandler)) == "wsgi"


def test_annotations_that_only_a_type_checker_can_read() -> None:
    # Types imported under TYPE_CHECKING: evaluating them to count the arguments was a NameError.
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Nothing:  # type: ignore[name-defined]  # noqa: F821
        return []

    assert interface_of(app) == "wsgi"


async def _async_factory() -> None: ...


async def _async_of_one(scope: object) -> None: ...


async def _async_of_two(environ: object, start_response: object) -> None: ...


class _Asgi2:
    def __init__(self, scope: object) -> None: ...

    async def __call__(self, receive: object, send: object) -> None: ...


NO_APPS = {
    "None": (None, "the app is not callable but None"),
    "text": ("shop", "the app is not callable but 'shop'"),
    "module": (SimpleNamespace(), "the app is not callable but namespace()"),
    "factory": (lambda: wsgi, "the app takes no argument; if it makes the app, give --factory"),
    # An async one was taken for an ASGI app, and answered each request with 500.
    "async factory": (_async_factory, "the app takes no argument; if it makes the app, give"),
    "ASGI 2 function": (lambda scope: asgi, "as ASGI 2 apps do; wrap it with asgiref"),
    "async function of one": (_async_of_one, "as ASGI 2 apps do; wrap it with asgiref"),
    "async function of two": (_async_of_two, "cannot tell what the app speaks"),
    "ASGI 2 class": (_Asgi2, "the app is the class _Asgi2; name an instance, or --factory"),
    "class of instances": (AsgiCall, "the app is the class AsgiCall; name an instance"),
    "function of four": (lambda a, b, c, d: None, "cannot tell what the app speaks"),
    "any arguments": (lambda *args: None, "cannot tell what the app speaks; give --interface"),
    "builtin": (print, "cannot tell what the app speaks; give --interface asgi or wsgi"),
    "Mock": (mock.Mock(), "cannot tell what the app speaks; give --interface asgi or wsgi"),
    "MagicMock": (mock.MagicMock(), "cannot tell what the app speaks"),
    "AsyncMock": (mock.AsyncMock(), "cannot tell what the app speaks"),
}


@pytest.mark.parametrize(("app", "complaint"), NO_APPS.values(), ids=NO_APPS)
def test_what_is_no_app_or_might_be_either(app: object, complaint: str) -> None:
    with pytest.raises(AppLoadError, match=re.escape(complaint)):
        interface_of(app)


def test_a_long_representation_is_cut() -> None:
    with pytest.raises(AppLoadError) as caught:
        interface_of(["x" * 1000])
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("given", ["asgi", "wsgi"])
@pytest.mark.parametrize("app", [mock.Mock(), lambda *args: None, wsgi, asgi, AsgiCall])
def test_what_is_given_is_believed(app: object, given: Any) -> None:
    assert interface_of(app, given) == given


@pytest.mark.parametrize("given", ["auto", "asgi", "wsgi"])
def test_what_cannot_be_called_is_not(given: Any) -> None:
    with pytest.raises(AppLoadError, match="not callable"):
        interface_of(5, given)
