"""Uploads: as a form, as a raw stream; and what can be done with a file then."""

import threading
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, UploadFile, status
from fastapi.responses import FileResponse
from sqlalchemy import select
from starlette.requests import ClientDisconnect

from examples.fastapi_app.feed import Feed
from examples.fastapi_app.models import StoredFile
from examples.fastapi_app.schemas import FileOut, VerifyOut
from examples.fastapi_app.state import DatabaseDep, FeedDep, StoreDep
from examples.fastapi_app.storage import FileStore, Saved, TooLarge, read_chunks

TOPIC = "files"

router = APIRouter(prefix="/api/files", tags=["files"])

FileName = Annotated[str, Path(max_length=120, pattern=r"^[^\x00-\x1f\x7f/\\]+$")]

# A browser may send any name and type; they are only ever shown, never used as a path.
_UNPRINTABLE = dict.fromkeys([*range(0x20), 0x7F])


async def _row(file_id: UUID, database: DatabaseDep) -> StoredFile:
    async with database.read() as session:
        row = await session.get(StoredFile, file_id)
    if row is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no file {file_id}")
    return row


RowDep = Annotated[StoredFile, Depends(_row)]


@router.post("", status_code=status.HTTP_201_CREATED)
async def upload_form(file: UploadFile, feed: FeedDep, store: StoreDep) -> FileOut:
    """Upload a form field named ``file``.  413 if it is too large.

    FastAPI has parsed the form before this runs and spooled the file to disk if it is large; the
    router's `max_body_size` bounds that.  From there it is copied in pieces.
    """
    name = (file.filename or "").replace("\\", "/").rpartition("/")[2]
    saved = await _save(store, read_chunks(file.read))
    return await _record(feed, store, saved, name, file.content_type)


@router.put("/raw/{name}", status_code=status.HTTP_201_CREATED)
async def upload_raw(name: FileName, request: Request, feed: FeedDep, store: StoreDep) -> FileOut:
    """Upload the request body itself, written to disk as it arrives.  413 if it is too large."""
    try:
        saved = await _save(store, request.stream())
    except ClientDisconnect:
        # Nobody reads this answer; it keeps a cancelled upload from being logged as an error.
        raise HTTPException(status.HTTP_400_BAD_REQUEST, "the upload was cut short") from None
    return await _record(feed, store, saved, name, request.headers.get("content-type"))


@router.get("")
async def list_files(
    database: DatabaseDep, limit: Annotated[int, Query(ge=1, le=100)] = 50
) -> list[FileOut]:
    """The latest uploads, newest first."""
    query = select(StoredFile).order_by(StoredFile.uploaded_at.desc(), StoredFile.id)
    async with database.read() as session:
        rows = await session.scalars(query.limit(limit))
        return [FileOut.model_validate(row) for row in rows]


@router.get("/{file_id}")
async def get_file(row: RowDep) -> FileOut:
    """What is known of a file."""
    return FileOut.model_validate(row)


@router.get("/{file_id}/content", response_class=FileResponse)
async def download(row: RowDep, store: StoreDep) -> FileResponse:
    """The bytes of a file, always as a download: a page somebody uploaded must not run as ours."""
    return FileResponse(
        store.path(row.id),
        media_type=row.media_type,
        filename=row.name,
        headers={"X-Content-Type-Options": "nosniff", "ETag": f'"{row.sha256}"'},
    )


@router.get("/{file_id}/verify")
def verify(row: RowDep, store: StoreDep) -> VerifyOut:
    """Read a file from disk and hash it again.  410 if its bytes are gone.

    A plain function, run in a thread: it waits for the disk and keeps a core busy.
    """
    try:
        sha256 = store.hash(row.id)
    except FileNotFoundError:
        raise HTTPException(status.HTTP_410_GONE, "the bytes of this file are gone") from None
    return VerifyOut(
        id=row.id,
        intact=sha256 == row.sha256,
        sha256=sha256,
        thread=threading.current_thread().name,
    )


@router.delete("/{file_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_file(row: RowDep, feed: FeedDep, store: StoreDep) -> None:
    """Remove a file."""
    async with feed.write() as change:
        await change.session.delete(row)
        change.emit(TOPIC, "file-deleted", {"id": str(row.id), "name": row.name})
    store.delete(row.id)


async def _save(store: FileStore, chunks: AsyncIterator[bytes]) -> Saved:
    try:
        return await store.save(chunks)
    except TooLarge:
        raise HTTPException(
            status.HTTP_413_CONTENT_TOO_LARGE, f"a file may have {store.max_bytes} bytes"
        ) from None


async def _record(
    feed: Feed, store: FileStore, saved: Saved, name: str, media_type: str | None
) -> FileOut:
    row = StoredFile(
        id=saved.id,
        name=name.translate(_UNPRINTABLE)[:120] or "unnamed",
        media_type=(media_type or "application/octet-stream")[:120],
        size=saved.size,
        sha256=saved.sha256,
    )
    try:
        async with feed.write() as change:
            change.session.add(row)
            await change.session.flush()
            out = FileOut.model_validate(row)
            change.emit(TOPIC, "uploaded", out.model_dump(mode="json"))
    except BaseException:
        store.delete(saved.id)
        raise
    return out
