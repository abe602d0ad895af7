"""Static files without a second server: Django's own handlers, with our headers.

The handlers stand in front of the project, so the middleware does not see these requests.
"""

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler, StaticFilesHandler
from django.core.exceptions import SuspiciousFileOperation
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase

from examples.django_app.worker import add_header

MAX_AGE = 300
"""Seconds that browsers use a file without asking: file names do not change with contents."""


class _NoWayOut:
    """Makes a path that leads out of the static files, ``/static/..%2f``, one that is not there.

    Django refuses such a path with an exception that its static file handlers let through.
    """

    def serve(self, request: HttpRequest) -> HttpResponseBase:
        try:
            return super().serve(request)
        except SuspiciousFileOperation as error:
            raise Http404 from error


class AsgiStaticFiles(_NoWayOut, ASGIStaticFilesHandler):
    """ASGI app: answers below ``STATIC_URL``, passes other requests on."""

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return _add_headers(await super().get_response_async(request))


class WsgiStaticFiles(_NoWayOut, StaticFilesHandler):
    """WSGI app: answers below ``STATIC_URL``, passes other requests on."""

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        return _add_headers(super().get_response(request))


def _add_headers(response: HttpResponseBase) -> HttpResponseBase:
    if response.status_code in (200, 304):
        response.headers["Cache-Control"] = f"public, max-age={MAX_AGE}"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return add_header(response)
