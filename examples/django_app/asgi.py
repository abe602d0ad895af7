"""The ASGI entry point: ``examples.django_app.asgi:application``."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.django_app.settings")
_project = get_asgi_application()

# What follows needs the settings and the apps, which the line above has set up.
from examples.django_app.startup import prepare  # noqa: E402
from examples.django_app.static_files import AsgiStaticFiles  # noqa: E402

prepare()
application = AsgiStaticFiles(_project)
