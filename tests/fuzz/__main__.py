"""``make fuzz``: fuzz all targets in turn, or some, until the time is up or something is found."""

import argparse
import logging
import random
import sys
import time
import traceback

from tests.fuzz import corpus
from tests.fuzz.engine import Finding, fuzz
from tests.fuzz.targets import TARGETS

ROUND_SECONDS = 20.0
"""For one target, before the next has its turn."""


def main() -> int:
    """Return 1 if something was found, else 0."""
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(names)}")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="a random one, unless given")
    parser.add_argument(
        "--keep", action="store_true", help="add what reached new code to the corpus"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    logging.getLogger("subserve").setLevel(logging.CRITICAL)

    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    chosen = [t for t in TARGETS if not arguments.targets or t.name in arguments.targets]
    pools = {target.name: corpus.read(target.name) for target in chosen}
    end = time.monotonic() + 60 * arguments.minutes
    while (left := end - time.monotonic()) > 0:
        for target in chosen:
            report = fuzz(
                target,
                pools[target.name],
                seed=seed,
                seconds=min(ROUND_SECONDS, left / len(chosen)),
            )
            print(f"{target.name}, seed {seed}: {report.inputs} inputs, {len(report.kept)} kept")
            if report.finding is not None:
                tell(report.finding)
                return 1
            pools[target.name] += report.kept
            if arguments.keep:
                corpus.add(target.name, report.kept)
        seed += 1
    return 0


def tell(finding: Finding) -> None:
    """Print what was found, in a form that a corpus can take."""
    traceback.print_exception(finding.error)
    print(f"found in {finding.target}; a line for its corpus, and a test:\n{finding.data!r}")


if __name__ == "__main__":
    sys.exit(main())
