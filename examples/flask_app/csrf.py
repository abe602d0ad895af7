"""Protection against forms that another site submits in a visitor's name.

A random token lives in the signed session and is repeated in each form.  No worker keeps
anything: the one that renders a form and the one that receives it need not be the same.
"""

import hmac
import secrets

from flask import Flask, abort, request, session

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def install(app: Flask) -> None:
    """Check every unsafe request of `app`, and offer ``csrf_token()`` to its templates."""
    app.before_request(check)
    app.add_template_global(token, "csrf_token")


def token() -> str:
    """Return the token of this visitor's session, made on first use."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(32)
    current: str = session["csrf"]
    return current


def check() -> None:
    """Refuse, with 400, an unsafe request that does not carry its session's token."""
    if request.method in SAFE_METHODS:
        return
    expected = session.get("csrf", "")
    sent = request.form.get("csrf_token", "")
    if not expected or not hmac.compare_digest(expected.encode(), sent.encode()):
        abort(400, "The form was sent without its token. Reload the page and send it again.")
