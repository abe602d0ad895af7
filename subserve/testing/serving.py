"""The program of a served app: ``serving.py FD``, started by `subserve.testing.served`.

It serves until its standard input ends, which happens also when whoever started it is killed: no
server outlives its tests.  Options come as a line on standard input, where it can be reached goes
as a line to descriptor FD.
"""

import json
import sys


def main() -> int:
    """Serve, and return the exit code, which is as on the command line."""
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of this file, which was put there because it is run as one
    order = json.loads(sys.stdin.readline())
    sys.path[:] = order["sys_path"]
    package = __file__.rpartition("/testing/")[0]
    sys.path.append(package.rpartition("/")[0])

    from subserve import signals
    from subserve.api import Server
    from subserve.errors import SubserveError, tell

    signals.leave_interrupts_to_others()
    try:
        server = Server(order["app"], **order["options"])
        server.start()
        with open(int(sys.argv[1]), "w", encoding="utf-8") as ready:
            json.dump(list(server.urls), ready)
        sys.stdin.read()
        return server.drain()
    except SubserveError as error:
        return tell(error)


if __name__ == "__main__":
    sys.exit(main())
