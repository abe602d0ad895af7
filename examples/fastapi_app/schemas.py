"""What clients send and get: pydantic models."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from examples.fastapi_app.models import State

# The grammar of https://semver.org, without build metadata.
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?")


def _check_version(text: str) -> str:
    """Refuse what is no version in words that can be shown to people."""
    if not _VERSION.fullmatch(text):
        raise PydanticCustomError("version", "Expected a version such as 4.2.0 or 4.2.0-rc.1")
    return text


Project = Annotated[
    str, StringConstraints(to_lower=True, pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_-]{0,39}$")
]
Version = Annotated[str, StringConstraints(max_length=40), AfterValidator(_check_version)]
Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120)]
Notes = Annotated[str, StringConstraints(max_length=20_000)]
ChatName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=32)]
ChatRoom = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


class _In(BaseModel):
    """A body from a client: a key we do not know is a mistake worth telling."""

    model_config = ConfigDict(extra="forbid")


class _Out(BaseModel):
    """Read from the attributes of a table row."""

    model_config = ConfigDict(from_attributes=True)


class ReleaseIn(_In):
    """A new release; it begins as planned."""

    project: Project
    version: Version
    title: Title
    notes: Notes = ""


class ReleaseChanges(_In):
    """What to change; what is left out stays."""

    title: Title | None = None
    notes: Notes | None = None

    @model_validator(mode="after")
    def _something_to_do(self) -> ReleaseChanges:
        if self.title is None and self.notes is None:
            raise ValueError("nothing to change: give a title or notes")
        return self


class StateIn(_In):
    """The state that a release goes to."""

    state: State


class ReleaseOut(_Out):
    """A release on the board."""

    id: int
    project: str
    version: str
    title: str
    notes: str
    state: State
    created_at: datetime
    updated_at: datetime


class ReleasePage(BaseModel):
    """Some of the releases, newest first, and how many there are in all."""

    items: list[ReleaseOut]
    total: int


class DiffOut(BaseModel):
    """How the notes of two releases differ; `similarity` goes from 0.0 to 1.0."""

    before: str
    after: str
    similarity: Annotated[float, Field(ge=0, le=1)]
    diff: list[str]
    thread: str


class FileOut(_Out):
    """An uploaded file; `size` is in bytes."""

    id: UUID
    name: str
    media_type: str
    size: int
    sha256: str
    uploaded_at: datetime


class VerifyOut(BaseModel):
    """Whether the bytes on disk still are those that were uploaded."""

    id: UUID
    intact: bool
    sha256: str
    thread: str


class EventOut(_Out):
    """One event of the live feed."""

    id: int
    topic: str
    kind: str
    data: dict[str, Any]
    at: datetime


class ChatIn(_In):
    """What a chat client sends, as a text message with JSON."""

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


class ChatOut(BaseModel):
    """What a chat client gets: somebody came, went or said something."""

    type: Literal["joined", "left", "message"]
    id: int
    name: str
    text: str
    worker: str
    at: datetime


class ChatWelcome(BaseModel):
    """The first thing that a chat client gets; `worker` is the one it is connected to."""

    type: Literal["welcome"] = "welcome"
    room: str
    worker: str
    history: list[ChatOut]


class ChatError(BaseModel):
    """The last message was refused; the connection stays open."""

    type: Literal["error"] = "error"
    detail: str


class Health(BaseModel):
    """The answer to a probe."""

    status: Literal["ok", "unavailable"]


class WhoAmI(BaseModel):
    """Who answered; the first three are None outside of subserve."""

    index: int | None
    generation: int | None
    workers: int | None
    thread: str
    interpreter: int
    process: int
    python: str
    event_loop: str
