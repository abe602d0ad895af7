"""The board: releases, their states, and how their notes differ."""

import difflib
import threading
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException, Path, Query, status
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from examples.fastapi_app.chat import LOBBY, chat_topic
from examples.fastapi_app.feed import Feed
from examples.fastapi_app.middleware import worker_name
from examples.fastapi_app.models import TRANSITIONS, Release, State
from examples.fastapi_app.schemas import (
    DiffOut,
    ReleaseChanges,
    ReleaseIn,
    ReleaseOut,
    ReleasePage,
    StateIn,
)
from examples.fastapi_app.state import DatabaseDep, FeedDep

TOPIC = "releases"
BOT = "release-bot"

router = APIRouter(prefix="/api/releases", tags=["releases"])

ReleaseId = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.get("")
async def list_releases(
    database: DatabaseDep,
    state: State | None = None,
    project: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    offset: Annotated[int, Query(ge=0, le=100_000)] = 0,
) -> ReleasePage:
    """Releases, newest first."""
    query = select(Release)
    if state is not None:
        query = query.where(Release.state == state)
    if project is not None:
        query = query.where(Release.project == project.lower())
    async with database.read() as session:
        total = await session.scalar(select(func.count()).select_from(query.subquery()))
        rows = await session.scalars(query.order_by(Release.id.desc()).limit(limit).offset(offset))
        return ReleasePage(items=[_out(row) for row in rows], total=total or 0)


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_release(body: ReleaseIn, feed: FeedDep) -> ReleaseOut:
    """Plan a release.  409 if the project has this version already."""
    try:
        async with feed.write() as change:
            release = Release(**body.model_dump())
            change.session.add(release)
            await change.session.flush()
            out = _out(release)
            change.emit(TOPIC, "created", out.model_dump(mode="json"))
    except IntegrityError:
        raise HTTPException(
            status.HTTP_409_CONFLICT, f"{body.project} {body.version} is on the board already"
        ) from None
    return out


@router.get("/{release_id}")
async def get_release(release_id: ReleaseId, database: DatabaseDep) -> ReleaseOut:
    """One release."""
    async with database.read() as session:
        return _out(await _find(session, release_id))


@router.patch("/{release_id}")
async def change_release(release_id: ReleaseId, body: ReleaseChanges, feed: FeedDep) -> ReleaseOut:
    """Change the title or the notes."""
    async with feed.write() as change:
        release = await _find(change.session, release_id, lock=True)
        for name, value in body.model_dump(exclude_none=True).items():
            setattr(release, name, value)
        await change.session.flush()
        out = _out(release)
        change.emit(TOPIC, "changed", out.model_dump(mode="json"))
    return out


@router.post("/{release_id}/state")
async def move_release(
    release_id: ReleaseId, body: StateIn, feed: FeedDep, background: BackgroundTasks
) -> ReleaseOut:
    """Move a release to another state.  409 if it cannot go there from where it is.

    Shipping is announced in the chat, after the answer: the caller need not wait for that.
    """
    async with feed.write() as change:
        release = await _find(change.session, release_id, lock=True)
        before = release.state
        if body.state not in TRANSITIONS[before]:
            allowed = ", ".join(sorted(TRANSITIONS[before])) or "nowhere"
            raise HTTPException(
                status.HTTP_409_CONFLICT, f"a release that is {before} can go to: {allowed}"
            )
        release.state = body.state
        await change.session.flush()
        out = _out(release)
        change.emit(TOPIC, "moved", out.model_dump(mode="json") | {"from": before})
    if out.state in (State.SHIPPED, State.ROLLED_BACK):
        background.add_task(_announce, feed, out)
    return out


@router.delete("/{release_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_release(release_id: ReleaseId, feed: FeedDep) -> None:
    """Take a release off the board."""
    async with feed.write() as change:
        await change.session.delete(await _find(change.session, release_id, lock=True))
        change.emit(TOPIC, "deleted", {"id": release_id})


async def _load_pair(
    release_id: ReleaseId, other_id: ReleaseId, database: DatabaseDep
) -> tuple[Release, Release]:
    async with database.read() as session:
        return await _find(session, release_id), await _find(session, other_id)


@router.get("/{release_id}/diff/{other_id}")
def diff_notes(pair: Annotated[tuple[Release, Release], Depends(_load_pair)]) -> DiffOut:
    """How the notes changed from one release to the other.

    A plain function: comparing texts is work for the CPU, so FastAPI runs it in a thread and the
    event loop goes on serving.  What it needs from the database came through an async dependency.
    """
    old, new = pair
    before, after = (f"{release.project} {release.version}" for release in pair)
    old_lines, new_lines = old.notes.splitlines(), new.notes.splitlines()
    return DiffOut(
        before=before,
        after=after,
        similarity=difflib.SequenceMatcher(None, old_lines, new_lines, autojunk=False).ratio(),
        diff=list(difflib.unified_diff(old_lines, new_lines, before, after, lineterm="")),
        thread=threading.current_thread().name,
    )


async def _find(session: AsyncSession, release_id: int, *, lock: bool = False) -> Release:
    """The release, or the answer 404.  `lock` keeps others from changing it meanwhile."""
    release = await session.get(Release, release_id, with_for_update=lock or None)
    if release is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no release {release_id}")
    return release


def _out(release: Release) -> ReleaseOut:
    return ReleaseOut.model_validate(release)


async def _announce(feed: Feed, release: ReleaseOut) -> None:
    verb = "shipped" if release.state is State.SHIPPED else "was rolled back"
    text = f"{release.project} {release.version} {verb}: {release.title}"
    async with feed.write() as change:
        change.emit(
            chat_topic(LOBBY), "message", {"name": BOT, "text": text, "worker": worker_name()}
        )
