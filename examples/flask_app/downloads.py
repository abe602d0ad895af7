"""Downloads: two CSV files made while they are sent, and a ZIP file sent by the server."""

import contextlib
import csv
import io
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from datetime import date, timedelta

from flask import Blueprint, Response, abort, current_app, request, send_file

from examples.flask_app import store

MAX_CALENDAR_DAYS = 1_000_000
BLOCK_CHARACTERS = 32 * 1024

downloads = Blueprint("downloads", __name__, url_prefix="/downloads")


@downloads.get("/postcards.csv")
def postcards_csv() -> Response:
    """Stream all cards from the database, the oldest first."""
    rows = (
        (card.id, card.sent_at.isoformat(), card.sender, card.message, card.picture or "")
        for card in store.oldest_first(current_app.config["DATA_DIR"])
    )
    return _csv_response("postcards.csv", ("id", "sent_at", "sender", "message", "picture"), rows)


@downloads.get("/calendar.csv")
def calendar_csv() -> Response:
    """Stream a calendar of ``days`` days from 1970-01-01: a large file that exists nowhere."""
    days = request.args.get("days", 100_000, type=int)
    if not 0 <= days <= MAX_CALENDAR_DAYS:
        abort(400, f"days must be between 0 and {MAX_CALENDAR_DAYS}.")
    start = date(1970, 1, 1)
    rows = (
        (day.isoformat(), day.strftime("%A"), day.isocalendar().week)
        for day in (start + timedelta(days=number) for number in range(days))
    )
    return _csv_response("calendar.csv", ("date", "weekday", "week"), rows)


@downloads.get("/pictures.zip")
def pictures_zip() -> Response:
    """Pack all pictures into a temporary file, and let the server send it in its best way.

    Flask gives the open file to ``wsgi.file_wrapper`` (PEP 3333), and it is closed, and so
    deleted, when the response is.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the response closes it
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for card in store.oldest_first(current_app.config["DATA_DIR"]):
            if card.picture is not None:
                with contextlib.suppress(FileNotFoundError):  # taken down since the query
                    archive.write(store.pictures_dir() / card.picture, card.picture)
    file.seek(0)
    return send_file(file, "application/zip", as_attachment=True, download_name="pictures.zip")


def csv_blocks(header: Iterable[object], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Yield CSV text in blocks of about `BLOCK_CHARACTERS`: a row at a time costs far more."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(header)
    for row in rows:
        writer.writerow(row)
        if buffer.tell() >= BLOCK_CHARACTERS:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    if buffer.tell():
        yield buffer.getvalue()


def _csv_response(
    filename: str, header: Iterable[object], rows: Iterable[Iterable[object]]
) -> Response:
    response = Response(csv_blocks(header, rows), mimetype="text/csv")
    response.headers.set("Content-Disposition", "attachment", filename=filename)
    return response
