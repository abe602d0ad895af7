"""The process that is thrown away, as `subserve.check.process` starts it, with an errand."""

import os
import sys


def main() -> int:
    """Run the errand and return the exit code."""
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of this file, which was put there because it is run as one
    package = __file__.rpartition("/check/")[0]
    # Behind all else, as in `subserve.coordinator.__main__`.
    sys.path.append(package.rpartition("/")[0])

    from subserve.check.child import run
    from subserve.check.errand import Errand

    errand = Errand.from_json(sys.argv[1])
    sys.path[:] = errand.sys_path
    os.set_inheritable(errand.events_fd, False)
    os.set_inheritable(errand.crash_fd, False)
    return run(errand)


if __name__ == "__main__":
    sys.exit(main())
