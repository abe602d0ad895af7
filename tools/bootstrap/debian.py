"""Packages of Debian, unpacked into a folder of the checkout; nothing gets installed.

apt does the finding, the fetching and the checking of signatures, with lists, cache and status of
its own, so it needs no root and leaves the machine's alone.  The mirror is the machine's own.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

from tools.bootstrap.steps import StepFailed, ask, combine, run, say

# Suites that may carry what the machine's own does not: the release under way, by its name as
# long as it has no other, then by its role.
NEWER_SUITES = ("forky", "testing", "sid")

KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
)

# Read after the machine's own configuration, so that a proxy set there holds, and these win.
# Hooks on update belong to the machine's lists; without sandbox, because `_apt` may not be able to
# enter the checkout; without locks, because nobody else uses these folders.
CONFIG = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{folder}/state";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Cache::archives "{folder}/archives";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
APT::Sandbox::User "root";
Debug::NoLocking "true";
"""


class Mirror(NamedTuple):
    """An archive that the machine is set up to use, and the suites it takes from there."""

    uri: str
    suites: Tuple[str, ...]


def parse_mirrors(listing: str) -> List[Mirror]:
    """Read lines of ``URI|CODENAME|RELEASE`` and return each archive once.

    Archives of security updates are left out: they hold only parts of a release.
    """
    suites: Dict[str, List[str]] = {}
    for line in listing.splitlines():
        uri, _, names = line.strip().partition("|")
        if not uri or "security" in uri or "security" in names:
            continue
        known = suites.setdefault(uri, [])
        # `bookworm-updates` and the like are parts as well.
        for name in names.split("|"):
            if name and "-" not in name and name not in known:
                known.append(name)
    return [Mirror(uri, tuple(names)) for uri, names in suites.items()]


def sources(mirror: str, suite: str, architecture: str, keyring: Optional[str]) -> str:
    """Return the sources.list line for one suite of one mirror."""
    options = "arch=" + architecture
    if keyring is not None:
        options += " signed-by=" + keyring
    return "deb [{}] {} {} main\n".format(options, mirror, suite)


def fetch(cache: Path, packages: List[str], tree: Path, own_suite_first: bool = False) -> None:
    """Unpack `packages` and all that they depend on into `tree`, which must not exist.

    Tries the newer suites of each mirror and the machine's own, in this order or, with
    `own_suite_first`, the other way round; raises `StepFailed` if none has the packages.
    """
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise StepFailed("no {} on this machine".format(tool))
    listing = ask(["apt-get", "indextargets", "--format", "$(REPO_URI)|$(CODENAME)|$(RELEASE)"])
    architecture = ask(["dpkg", "--print-architecture"]).strip()
    keyring = next((path for path in KEYRINGS if os.path.exists(path)), None)
    mirrors = parse_mirrors(listing)
    if not mirrors:
        raise StepFailed("apt-get knows no mirror")
    failures: List[StepFailed] = []
    for mirror in mirrors:
        newer = [suite for suite in NEWER_SUITES if suite not in mirror.suites]
        own = list(mirror.suites)
        for suite in own + newer if own_suite_first else newer + own:
            line = sources(mirror.uri, suite, architecture, keyring)
            try:
                _fetch_from(cache, line, suite, packages, tree)
            except StepFailed as failure:
                say("  " + failure.what.splitlines()[0])
                failures.append(failure)
            else:
                return
    raise combine("no suite has " + " ".join(packages), failures)


def _fetch_from(cache: Path, source: str, suite: str, packages: List[str], tree: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="apt-", dir=str(cache)))
    try:
        for name in ("state", "lists/partial", "cache", "archives/partial"):
            (folder / name).mkdir(parents=True)
        # An empty status: nothing counts as installed, so the C library is fetched as well.
        (folder / "status").write_text("")
        (folder / "sources.list").write_text(source)
        config = folder / "apt.conf"
        config.write_text(CONFIG.format(folder=folder))
        apt = ["apt-get", "-q", "-y", "-c", str(config)]
        run(apt + ["update"], "reading Debian's package list, " + suite, 300)
        run(
            apt + ["--no-install-recommends", "--download-only", "install"] + packages,
            "fetching {} from Debian {}".format(" ".join(packages), suite),
            900,
        )
        unpacked = folder / "tree"
        for package in sorted((folder / "archives").glob("*.deb")):
            ask(["dpkg", "-x", str(package), str(unpacked)], timeout=120)
        # Only a whole tree gets the name that a later run looks for.
        tree.parent.mkdir(parents=True, exist_ok=True)
        unpacked.rename(tree)
    finally:
        shutil.rmtree(str(folder), ignore_errors=True)


def relocate(tree: Path, program: Path, patchelf: str) -> None:
    """Make `program` use the C library and the other shared libraries of its own `tree`.

    The machine's may be older than what the packages were built against.  RPATH and not RUNPATH,
    for it holds for the libraries that extension modules want as well.
    """
    libraries, loader = find_loader(tree)
    run(
        [patchelf, "--set-interpreter", str(loader)]
        + ["--force-rpath", "--set-rpath", str(libraries), str(program)],
        "pointing {} at the libraries beside it".format(program.name),
        60,
    )


def find_loader(tree: Path) -> Tuple[Path, Path]:
    """Return the folder of shared libraries in `tree` and the dynamic loader, on any architecture.

    Raises `StepFailed` unless there is exactly one of each.
    """
    libraries = sorted(path.parent for path in tree.glob("usr/lib/*/libc.so.6"))
    loaders = sorted(path for folder in libraries for path in folder.glob("ld*.so.*"))
    if len(libraries) != 1 or len(loaders) != 1:
        raise StepFailed("{} holds no C library, or more than one".format(tree))
    return libraries[0], loaders[0]
