"""What `asgi.py` and `wsgi.py` do before the first request."""

import fcntl
import logging
from concurrent.futures import ThreadPoolExecutor

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from subserve import current_worker

logger = logging.getLogger(__name__)


def prepare() -> None:
    """Warn of the development key, and bring a SQLite database of our own up to date.

    Call it after ``django.setup()``.
    """
    worker = current_worker()
    one_is_enough = worker is None or worker.index == 0
    if settings.SECRET_KEY == settings.DEVELOPMENT_SECRET_KEY and one_is_enough:
        logger.warning("the secret key is the public development key: set DJANGO_SECRET_KEY")
    if settings.MIGRATE_ON_START:
        # Some servers import apps while their event loop runs, and in such a thread Django
        # refuses to touch the database. A thread of our own has no loop.
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="migrate") as pool:
            pool.submit(_migrate).result()


def _migrate() -> None:
    # Workers start at the same time: the first one that has the lock migrates, the others find
    # nothing left to do. Locks of separate open files also exclude threads of one process.
    with open(settings.DATA_DIR / "migrate.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                logger.info("migrating %s", connection.settings_dict["NAME"])
                call_command("migrate", verbosity=0, interactive=False)
        finally:
            connection.close()
