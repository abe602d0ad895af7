"""The tables."""

import enum
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, DateTime, Dialect, Index, String, Text, TypeDecorator, UniqueConstraint
from sqlalchemy import Enum as EnumType
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class State(enum.StrEnum):
    """Where a release stands."""

    PLANNED = "planned"
    BUILDING = "building"
    TESTING = "testing"
    SHIPPED = "shipped"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.PLANNED: frozenset({State.BUILDING, State.CANCELLED}),
    State.BUILDING: frozenset({State.TESTING, State.CANCELLED}),
    State.TESTING: frozenset({State.BUILDING, State.SHIPPED, State.CANCELLED}),
    State.SHIPPED: frozenset({State.ROLLED_BACK}),
    State.ROLLED_BACK: frozenset({State.BUILDING}),
    State.CANCELLED: frozenset(),
}


def utc_now() -> datetime:
    """The time of day, aware, in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, always in UTC: SQLite stores none of the offset."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse what would be stored as a guess."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a datetime without a time zone cannot be stored")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back the zone that the database left out."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Base(DeclarativeBase):
    """The metadata of all tables."""

    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON}  # noqa: RUF012 - SQLAlchemy's


class Release(Base):
    """One version of one project on its way to production."""

    __tablename__ = "releases"
    __table_args__ = (UniqueConstraint("project", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(String(40), index=True)
    version: Mapped[str] = mapped_column(String(40))
    title: Mapped[str] = mapped_column(String(120))
    notes: Mapped[str] = mapped_column(Text, default="")
    state: Mapped[State] = mapped_column(
        EnumType(
            State,
            native_enum=False,
            length=16,
            values_callable=lambda states: [state.value for state in states],
        ),
        default=State.PLANNED,
    )
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class StoredFile(Base):
    """What is known of an uploaded file; its bytes are on disk under its id."""

    __tablename__ = "files"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    media_type: Mapped[str] = mapped_column(String(120))
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    uploaded_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)


class EventRow(Base):
    """One line of the log that the live feed and the chat are read from.

    Ids grow in the order of commits and are never given twice, see `feed.Feed.write`.
    """

    __tablename__ = "events"
    __table_args__ = (Index("events_of_topic", "topic", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    topic: Mapped[str] = mapped_column(String(60))
    kind: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime] = mapped_column(default=utc_now)
