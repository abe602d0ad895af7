"""``python -m subserve`` is the command line."""

import sys

from subserve.cli import main

sys.exit(main())
