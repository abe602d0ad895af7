"""The WSGI entry point: ``examples.django_app.wsgi:application``."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.django_app.settings")
_project = get_wsgi_application()

# What follows needs the settings and the apps, which the line above has set up.
from examples.django_app.startup import prepare  # noqa: E402
from examples.django_app.static_files import WsgiStaticFiles  # noqa: E402

prepare()
application = WsgiStaticFiles(_project)
