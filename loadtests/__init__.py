"""Programs that put a running server under load, each run with ``python -m loadtests.NAME``."""
