"""A serving process as the supervisor starts it: ``__main__.py FD NAME``.

FD is the control channel; the first message on it says what to serve.
"""

import sys


def main() -> int:
    """Serve and return the exit code."""
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of this file, which was put there because it is run as one
    package = __file__.rpartition("/coordinator/")[0]
    # Behind all else: it may be the folder of other installed packages, which must not come before
    # the standard library.
    sys.path.append(package.rpartition("/")[0])

    from subserve.coordinator.supervised import main as serve

    return serve(int(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    sys.exit(main())
