"""The program of the process that runs tests: ``child.py FD``, see `subserve.testing.hosting`."""

import sys


def main() -> None:
    """Make `subserve` importable, and go there."""
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of this file, which was put there because it is run as one
    package = __file__.rpartition("/testing/")[0]
    # Behind all else: it may be the folder of other installed packages, which must not come before
    # the standard library.
    sys.path.append(package.rpartition("/")[0])

    from subserve.testing.hosting import main as host

    host(int(sys.argv[1]))


if __name__ == "__main__":
    main()
