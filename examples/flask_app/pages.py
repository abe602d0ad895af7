"""The wall itself: its page, its forms and its pictures."""

import secrets

from flask import (
    Blueprint,
    Response,
    abort,
    flash,
    redirect,
    render_template,
    request,
    send_from_directory,
    session,
    url_for,
)
from werkzeug.wrappers import Response as BaseResponse

from examples.flask_app import store

CARDS_PER_PAGE = 24
MAX_NAME_CHARACTERS = 40
MAX_MESSAGE_CHARACTERS = 500

pages = Blueprint("pages", __name__)


@pages.get("/")
def wall() -> str:
    """Show the cards, the newest first, with the form to send another."""
    page = max(request.args.get("page", 1, type=int), 1)
    # One card more than fits tells whether there is another page.
    cards = store.newest(CARDS_PER_PAGE + 1, (page - 1) * CARDS_PER_PAGE)
    return render_template(
        "wall.html",
        cards=cards[:CARDS_PER_PAGE],
        page=page,
        has_more=len(cards) > CARDS_PER_PAGE,
        max_message_characters=MAX_MESSAGE_CHARACTERS,
        max_name_characters=MAX_NAME_CHARACTERS,
    )


@pages.post("/name")
def set_name() -> BaseResponse:
    """Remember the name that the visitor signs with."""
    name = " ".join(request.form.get("name", "").split())
    if not 0 < len(name) <= MAX_NAME_CHARACTERS:
        flash(f"A name has 1 to {MAX_NAME_CHARACTERS} characters.", "error")
    else:
        session["name"] = name
        flash(f"Hello {name}! Your cards will carry this name.", "success")
    return _back_to_wall()


@pages.post("/postcards")
def send_postcard() -> BaseResponse:
    """Put a card on the wall, with or without a picture."""
    message = request.form.get("message", "").strip()
    if not 0 < len(message) <= MAX_MESSAGE_CHARACTERS:
        flash(f"A message has 1 to {MAX_MESSAGE_CHARACTERS} characters.", "error")
        return _back_to_wall()
    picture = None
    upload = request.files.get("picture")
    if upload is not None and upload.filename:
        picture = store.save_picture(upload.stream)
        if picture is None:
            flash("The picture must be a PNG, JPEG, GIF or WebP file.", "error")
            return _back_to_wall()
    store.add(_visitor(), session.get("name", "Anonymous"), message, picture)
    flash("Your postcard is on the wall.", "success")
    return _back_to_wall()


@pages.post("/postcards/<int:card_id>/delete")
def delete_postcard(card_id: int) -> BaseResponse:
    """Take down one of the visitor's own cards."""
    if not store.remove(card_id, _visitor()):
        abort(404, "There is no such postcard of yours.")
    flash("The postcard is gone.", "success")
    return _back_to_wall()


@pages.get("/pictures/<name>")
def picture(name: str) -> Response:
    """Send an uploaded picture; its name is random and never used again, so caches may keep it."""
    mimetype = store.PICTURE_TYPES.get(name.rpartition(".")[2])
    if mimetype is None:
        abort(404)
    return send_from_directory(
        store.pictures_dir(), name, mimetype=mimetype, max_age=365 * 24 * 3600
    )


def _visitor() -> str:
    if "visitor" not in session:
        session["visitor"] = secrets.token_hex(16)
    visitor: str = session["visitor"]
    return visitor


def _back_to_wall() -> BaseResponse:
    # 303: the browser fetches the wall with GET, and reloading it does not send the form again.
    return redirect(url_for("pages.wall"), 303)
