"""One page for every error."""

from flask import Flask, render_template
from werkzeug.exceptions import HTTPException, InternalServerError, RequestEntityTooLarge
from werkzeug.wrappers import Response


def install(app: Flask) -> None:
    """Answer errors of `app` with pages of its own instead of bare text.

    An exception in a view arrives here as an `InternalServerError`, after Flask has logged it.
    """
    app.register_error_handler(HTTPException, error_page)


def error_page(error: HTTPException) -> Response:
    """Fill the response of `error` with our page; headers such as ``Allow`` stay."""
    response = Response.force_type(error.get_response())
    match error:
        case InternalServerError():
            explanation = "Something broke on our side. It is in the log."
        case RequestEntityTooLarge():
            explanation = "The picture is larger than this site accepts."
        case _:
            explanation = error.description or ""
    response.set_data(
        render_template("error.html", code=error.code, name=error.name, explanation=explanation)
    )
    response.content_type = "text/html; charset=utf-8"
    return response
