"""Which module may import what: the layers, and one owner for each hazard.

Read from the sources, not from what is loaded, so that an import inside a function counts, too.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import subserve

PACKAGE = Path(subserve.__file__).parent  # of the checkout, or of the wheel
SOURCES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = sorted(SOURCES)

LAYER_0 = {
    "subserve.assignment",
    "subserve.binds",
    "subserve.config",
    "subserve.crash",
    "subserve.errors",
    "subserve.identity",
    "subserve.lifecycle",
    "subserve.messages",
    "subserve.options",
    "subserve.policy",
    "subserve.supervisor.lifecycle",
    "subserve.supervisor.plan",
    "subserve.supervisor.policy",
    "subserve.trust",
}
"""Values in, values out."""

LAYER_1 = {
    "subserve.app",
    "subserve.certificates",
    "subserve.channel",
    "subserve.descriptors",
    "subserve.interpreter",
    "subserve.interrupt",
    "subserve.listener",
    "subserve.log",
    "subserve.memory",
    "subserve.pidfile",
    "subserve.privileges",
    "subserve.scoreboard",
    "subserve.scratch",
    "subserve.signals",
    "subserve.systemd",
    "subserve.title",
    "subserve.tls",
}
"""One effect each."""

EFFECTS = {
    "_interpreters",
    "_socket",
    "_ssl",
    "_thread",
    "asyncio",
    "concurrent",
    "ctypes",
    "mmap",
    "multiprocessing",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for module in MODULES:
        yield module, ast.parse(SOURCES[module].read_text(encoding="utf-8"))


def is_for_types(node: ast.AST) -> bool:
    """Tell whether `node` is an ``if TYPE_CHECKING:``, whose imports never happen."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def nodes(module: str, *, types: bool) -> Iterator[ast.AST]:
    """Yield all nodes of a module, those that are there for types only if `types` is true."""
    todo: list[ast.AST] = [ast.parse(SOURCES[module].read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        yield node
        if types or not is_for_types(node):
            todo += ast.iter_child_nodes(node)


def imports(module: str, *, types: bool = True) -> set[str]:
    """Return what a module imports; of ours, each module by its full name."""
    found = set()
    for node in nodes(module, types=types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from subserve import tls` imports subserve.tls
            submodules = names & set(MODULES)
            found |= submodules if submodules == names else {node.module, *submodules}
    return found


def ours(module: str, *, types: bool = True) -> set[str]:
    found = imports(module, types=types)
    return {name for name in found if name.split(".")[0] == "subserve"} - {"subserve"}


def under(*packages: str) -> set[str]:
    return {m for m in MODULES if any(m == p or m.startswith(f"{p}.") for p in packages)}


def importers(top: str) -> set[str]:
    """Return the modules of ours that import `top`, or a module below it."""
    return {
        module
        for module in MODULES
        if any(name == top or name.startswith(f"{top}.") for name in imports(module))
    }


def test_the_walk_finds_what_there_is() -> None:
    assert "subserve.worker.bootstrap" in MODULES
    assert "subserve.extensions" in MODULES
    assert "asyncio" in imports("subserve.worker.bootstrap")
    assert "subserve.worker.runner" in imports("subserve.worker.bootstrap"), "in a function"
    assert "subserve.tls" in imports("subserve.coordinator.server"), "from subserve import tls"
    assert {*LAYER_0, *LAYER_1} <= set(MODULES)


# ---- layers


@pytest.mark.parametrize("module", sorted(LAYER_0))
def test_layer_0_is_pure(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(module)} & EFFECTS
    assert ours(module) <= LAYER_0


@pytest.mark.parametrize("module", sorted(LAYER_1))
def test_layer_1_imports_nothing_above_it(module: str) -> None:
    assert ours(module) <= LAYER_0 | LAYER_1


def test_coordinator_and_worker_never_import_each_other() -> None:
    assert not importers("subserve.worker") & under("subserve.coordinator")
    assert not importers("subserve.coordinator") & under("subserve.worker")


def test_the_coordinator_imports_nothing_that_a_worker_is_made_of() -> None:
    """The main interpreter stays small, and loads no code that a private copy is for."""
    parts = under("subserve.worker", "subserve.http", "subserve.extensions")
    for module in under("subserve.coordinator") | LAYER_0 | LAYER_1:
        assert not ours(module) & parts


def test_lanes_and_extensions_do_not_know_who_uses_them() -> None:
    users = under("subserve.worker", "subserve.coordinator", "subserve.cli")
    for module in under("subserve.http", "subserve.extensions"):
        assert not ours(module) & users


def test_only_the_command_line_starts_the_coordinator() -> None:
    outside = importers("subserve.coordinator") - under("subserve.coordinator")
    # The supervisor starts a process of it, and shares the banner with it.
    assert outside == {"subserve.api", "subserve.cli", "subserve.supervisor.server"}
    assert "subserve.coordinator.banner" in imports("subserve.supervisor.server")
    assert not ours("subserve.supervisor.server") & importers("subserve.coordinator.handle")
    assert importers("subserve.cli") == {"subserve.__main__"}


def test_the_command_line_is_the_only_one_to_check_apps() -> None:
    assert importers("subserve.check") - under("subserve.check") == {"subserve.cli"}
    # The worker's side is entered from a thread's text, and is a worker like any other.
    assert importers("subserve.worker") & under("subserve.check") == {"subserve.check.probe"}
    assert not importers("subserve.coordinator") & under("subserve.check")


def test_nothing_that_serves_imports_what_tests_do() -> None:
    assert importers("subserve.testing") <= under("subserve.testing")


def test_the_plugin_costs_next_to_nothing_until_it_is_used() -> None:
    code = (
        "import pytest, sys; before = {*sys.modules}; import subserve.testing.plugin; "
        "print(*sorted({*sys.modules} - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert loaded.stdout.split() == [
        "subserve",
        "subserve.identity",
        "subserve.testing",
        "subserve.testing.plugin",
    ]


def test_what_hosts_test_interpreters_loads_none_of_the_tests_code() -> None:
    for module in ("child", "hosting", "link", "process", "task"):
        assert "pytest" not in imports(f"subserve.testing.{module}")
    assert not ours("subserve.testing.hosting") & under("subserve.worker", "subserve.extensions")


def test_the_package_itself_imports_nothing_but_the_identity() -> None:
    """An app imports `subserve` for `current_worker`: it gets no server with it."""
    assert ours("subserve") == {"subserve.identity", "subserve.api"}, "the latter when it is used"
    code = "import sys, subserve; print(*[m for m in sys.modules if m.startswith('subserve.')])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert loaded.stdout.split() == ["subserve.identity"]
    assert ours("subserve.identity") == set()


def test_nothing_imports_in_a_ring() -> None:
    seen: dict[str, bool] = {}  # True while it is being visited

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert not seen.get(module), f"a ring: {' -> '.join([*path, module])}"
        if module in seen:
            return
        seen[module] = True
        for imported in sorted(ours(module, types=False) & set(MODULES)):
            visit(imported, (*path, module))
        seen[module] = False

    for module in MODULES:
        visit(module, ())


# ---- one owner for each hazard


@pytest.mark.parametrize(
    ("hazard", "owners"),
    [
        # Extensions only ask which interpreter they are in: see the calls below.
        ("_interpreters", {"subserve.interpreter"} | under("subserve.extensions")),
        ("concurrent.interpreters", set()),
        # What an app does with them is watched there.
        ("signal", {"subserve.signals", "subserve.check.watch"}),
        ("ssl", {"subserve.certificates", "subserve.tls", "subserve.worker.connections"}),
        ("_ssl", {"subserve.certificates"}),
        ("mmap", {"subserve.scoreboard"} | under("subserve.extensions")),
        (
            "importlib",
            {"subserve.app", "subserve.check.distributions"} | under("subserve.extensions"),
        ),
        ("resource", {"subserve.descriptors"}),
        ("argparse", {"subserve.cli", "subserve.testing.plugin"}),
        ("tomllib", {"subserve.config"}),
        (
            "faulthandler",
            {
                *("subserve.signals", "subserve.coordinator.server", "subserve.check.child"),
                "subserve.testing.hosting",
            }
            | under("subserve.extensions"),
        ),
        (
            "atexit",
            {"subserve.worker.threads", "subserve.check.watch"} | under("subserve.extensions"),
        ),
    ],
)
def test_owners_in_the_standard_library(hazard: str, owners: set[str]) -> None:
    assert importers(hazard) <= owners


@pytest.mark.parametrize(
    ("hazard", "others"), [("_imp", set()), ("ctypes", {"subserve.interrupt"})]
)
def test_only_extensions_touch_the_import_machinery(hazard: str, others: set[str]) -> None:
    assert importers(hazard) <= under("subserve.extensions") | others
    assert importers(hazard), "nobody: is the name right?"


THIRD_PARTY = {
    "hypercorn": {"subserve.http.hypercorn_lane", "subserve.http.hypercorn_mended"},
    "h2": {
        "subserve.http.hypercorn_lane",
        "subserve.http.hypercorn_mended",
        "subserve.http.h2.connection",
        "subserve.http.h2.engine",
        "subserve.http.h2.inbox",
    },
    "hpack": {"subserve.http.h2.answers", "subserve.http.h2.engine"},
    "h11": {"subserve.http.hypercorn_lane", "subserve.http.hypercorn_mended"},
    "wsproto": {"subserve.http.hypercorn_lane", "subserve.http.hypercorn_mended"},
    "uvloop": {"subserve.worker.loops"},
    "watchfiles": {"subserve.supervisor.reload"},
    "_pytest": {"subserve.testing.session"},
    "pytest": {
        "subserve.testing.controller",
        "subserve.testing.player",
        "subserve.testing.plugin",
        "subserve.testing.reports",
        "subserve.testing.served",
        "subserve.testing.session",
        "subserve.testing.worker",
    },
}


def test_owners_of_third_party_packages() -> None:
    for module in MODULES:
        for name in {name.split(".")[0] for name in imports(module)}:
            if name not in {"subserve", *sys.stdlib_module_names}:
                assert module in THIRD_PARTY.get(name, set()), f"{module} imports {name}"


def calls(tree: ast.AST, names: Iterable[str]) -> Iterator[str]:
    """Yield the names of the calls of functions or methods that have one of `names`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "attr", None) or getattr(function, "id", None)
            if name in names:
                yield name


@pytest.mark.parametrize(
    ("names", "owners"),
    [
        ({"bind", "create_server", "start_server", "start_unix_server"}, {"subserve.listener"}),
        ({"new_config", "create", "destroy"}, {"subserve.interpreter"}),
        ({"memfd_create"}, {"subserve.scoreboard", "subserve.supervisor.process"}),
        ({"ftruncate"}, {"subserve.scoreboard", "subserve.pidfile"}),
        (
            {"_exit"},
            {"subserve.coordinator.server", "subserve.check.child", "subserve.testing.hosting"},
        ),
        (
            {"fork", "forkpty", "posix_spawn", "Popen"},
            {
                *("subserve.worker.loops", "subserve.supervisor.process"),
                *("subserve.check.process", "subserve.testing.process", "subserve.testing.served"),
            },
        ),
        ({"chdir"}, set()),
        ({"umask"}, {"subserve.listener", "subserve.privileges"}),
        ({"setuid", "setgid", "setgroups", "initgroups"}, {"subserve.privileges"}),
        ({"set_wakeup_fd"}, {"subserve.signals"}),
        ({"basicConfig"}, set()),
        ({"eval", "exec", "__import__"}, {"subserve.interpreter"}),
    ],
    ids=lambda value: "-".join(sorted(value)) or "nobody",
)
def test_owners_of_calls(names: set[str], owners: set[str]) -> None:
    # `inspect.Signature.bind` is no bind(2), and a scoreboard is no interpreter.
    exempt = {
        # `Sockets.bind` asks the listener to.
        "bind": {"subserve.app", "subserve.supervisor.server"},
        "create": {"subserve.coordinator.crew", "subserve.check.child"},
    }
    for module, tree in trees():
        for name in calls(tree, names):
            assert module in owners | exempt.get(name, set()), f"{module} calls {name}"


def test_only_dates_come_from_the_clock_on_the_wall() -> None:
    """It jumps; whatever waits looks at the monotonic one."""
    dates = {
        *("subserve.http.h1.response", "subserve.http.h2.answers"),
        *("subserve.tls", "subserve.certificates"),
    }
    for module, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.time":
                assert module in dates, f"{module} asks for the time of day"


def test_the_worker_is_named_by_text_where_it_is_started() -> None:
    source = SOURCES["subserve.coordinator.handle"].read_text(encoding="utf-8")
    assert "from subserve.worker.bootstrap import main" in source
    assert "subserve.worker" not in {*imports("subserve.coordinator.handle")}
