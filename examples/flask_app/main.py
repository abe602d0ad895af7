"""The entry points: ``examples.flask_app.main:app``, or ``--factory ...main:create_app``."""

from collections.abc import Mapping

from flask import Flask

from examples.flask_app import config, csrf, errors, store
from examples.flask_app.downloads import downloads
from examples.flask_app.pages import pages
from examples.flask_app.status import status
from subserve import current_worker


def create_app(overrides: Mapping[str, object] | None = None) -> Flask:
    """Return a new app, configured by the environment and then by `overrides`."""
    app = Flask(__name__)
    app.config.update(config.from_environment())
    app.config.update(overrides or {})
    _warn_of_development_key(app)
    store.prepare(app.config["DATA_DIR"])
    app.teardown_appcontext(store.close)
    csrf.install(app)
    errors.install(app)
    for blueprint in (pages, downloads, status):
        app.register_blueprint(blueprint)
    return app


def _warn_of_development_key(app: Flask) -> None:
    worker = current_worker()
    one_is_enough = worker is None or worker.index == 0
    if app.config["SECRET_KEY"] == config.DEVELOPMENT_SECRET_KEY and one_is_enough:
        app.logger.warning(
            "sessions are signed with the public development key: set POSTCARDS_SECRET_KEY"
        )


app = create_app()
