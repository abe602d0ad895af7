"""The selector of a worker's asyncio loop: it serves connections by itself, and asyncio the rest.

asyncio makes a handle of each descriptor that is ready, puts it into a queue, takes it out and runs
it in a context.  `asyncio.SelectorEventLoop` takes any selector, so this one calls the connections'
own functions while it is asked what is ready, and tells asyncio of what else is.

Linux: epoll(7), level-triggered.
"""

import contextlib
import select
import selectors
import time
from collections.abc import Callable, Iterator, Mapping
from selectors import EVENT_READ, EVENT_WRITE, SelectorKey
from typing import Any, Final, Protocol, override


class HasFileno(Protocol):
    """Something that has a file descriptor."""

    def fileno(self) -> int:
        """Return it."""


type FileDescriptorLike = int | HasFileno
type Ready = Callable[[int], None]
"""Called with the events of epoll(7), in the loop's thread."""

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT

EVENTS_PER_TURN: Final = 256
"""How many connections are served before asyncio has its turn.  Not measured."""

HOLD_TIME: Final = 0.001
"""Seconds for which small responses wait for those of other connections that are served in the
same turn.  A client is woken for each that is sent while it sleeps; one that still is awake takes
several for the same price.  Other times were not tried."""

HOLD_FROM: Final = 30e-6
"""Seconds; where a connection takes less, nothing is held back: who gets an answer that often has
no time to go to sleep in between.  Other times were not tried."""

HOLD_PAUSE: Final = 10
"""Where one connection took longer than that by itself, nothing is held back for so many times as
long: whoever serves slow requests, too, wants the quick ones answered at once."""


class Poller(selectors.BaseSelector):
    """A selector for asyncio, and `watch` for connections.  Lives in the loop's thread."""

    def __init__(self, time_left: Callable[[], float | None] = lambda: 0) -> None:
        """`time_left` returns after how many seconds asyncio has something to do; None: never."""
        self.time_left = time_left
        self._epoll = select.epoll()
        self._watched: dict[int, Ready] = {}
        self._keys: dict[int, SelectorKey] = {}  # asyncio's
        self._map = _KeyMap(self._keys)
        self._turns = 0
        self._each = 0.0  # s, for each connection of the last turn that had several
        self._held_since = self._looked_at = self._hold_again = 0.0  # s, as time.monotonic()
        self.serving = False
        """Whether connections are being served, within a call of `select`."""
        self.holds = False
        """Whether to put it into `held` what would send something."""
        self.held: list[Callable[[], object]] = []
        """Called at the end of the turn, or some `HOLD_TIME` later; raise nothing."""

    # ---- connections

    def watch(self, fd: int, ready: Ready) -> None:
        """Call `ready` whenever there is something to read from `fd`, or it has come to its end.

        What `ready` raises is raised by `select`.
        """
        self._watched[fd] = ready
        self._epoll.register(fd, READ)

    def change(self, fd: int, before: int, now: int) -> None:
        """Wait for the events `now` instead of `before`: `READ`, `WRITE`, both or 0.

        With 0 the kernel is not asked at all: it would tell of the other side's end over and over.
        """
        if not now:
            self._epoll.unregister(fd)
        elif not before:
            self._epoll.register(fd, now)
        else:
            self._epoll.modify(fd, now)

    def forget(self, fd: int) -> None:
        """Forget a descriptor that is about to be closed, by which the kernel forgets it, too."""
        del self._watched[fd]

    # ---- asyncio's side

    @override
    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Wait up to `timeout` seconds (None: for ever); return what is ready of asyncio's.

        Goes on serving connections for as long as asyncio has nothing to do.
        """
        self._turns += 1
        turn = self._turns
        if self.held:
            self._send_held()  # of a turn that another thread is held up in
        others: list[tuple[SelectorKey, int]] = []
        while found := self._epoll.poll(timeout, EVENTS_PER_TURN):
            self._serve(found, others)
            if turn != self._turns:
                return []  # another thread has asked meanwhile, and has seen to all of it
            if others:
                break
            timeout = self.time_left()
            if timeout == 0:
                break
        return others

    def _serve(self, found: list[tuple[int, int]], others: list[tuple[SelectorKey, int]]) -> None:
        """Serve the connections among `found`, and add what is asyncio's to `others`."""
        watched, held, turn = self._watched, self.held, self._turns
        self.serving = True
        began = time.monotonic() if len(found) > 1 else None
        if began is not None:
            self._begin_holding(began)
        for fd, events in found:
            ready = watched.get(fd)
            if ready is not None:
                ready(events)
                if turn != self._turns:
                    break
                if held:
                    self._look_at_held()
            elif (key := self._keys.get(fd)) is not None:
                # Broken, or at its end: whoever reads or writes is to find out.
                mask = (events & ~READ and EVENT_WRITE) | (events & ~WRITE and EVENT_READ)
                others.append((key, mask & key.events))
            # Else one that another in this same turn has closed.
        self.serving = self.holds = False
        if held:
            self._send_held()
        if began is not None:
            self._each = (time.monotonic() - began) / len(found)

    @override
    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        if fileobj in self._map:
            raise KeyError(f"{fileobj!r} is registered already")
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._epoll.register(fd, _epoll_events(events))
        key = self._keys[fd] = SelectorKey(fileobj, fd, events, data)
        return key

    @override
    def unregister(self, fileobj: FileDescriptorLike) -> SelectorKey:
        key = self._keys.pop(self._map[fileobj].fd)
        with contextlib.suppress(OSError):  # it was closed before, which the kernel has noticed
            self._epoll.unregister(key.fd)
        return key

    @override
    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        key = self._map[fileobj]
        if events != key.events:
            self._epoll.modify(key.fd, _epoll_events(events))
        key = self._keys[key.fd] = key._replace(events=events, data=data)
        return key

    @override
    def get_map(self) -> Mapping[FileDescriptorLike, SelectorKey]:
        return self._map

    @override
    def close(self) -> None:
        self._epoll.close()
        self._keys.clear()

    # ---- what is held back

    def _begin_holding(self, now: float) -> None:
        if self._each > HOLD_FROM and now >= self._hold_again:
            self.holds = True
            self._held_since = self._looked_at = now

    def _look_at_held(self) -> None:
        """Send what has been held for long; hold no more where it would be for too long."""
        now = time.monotonic()
        took = now - self._looked_at
        if took > HOLD_TIME:
            self.holds = False
            self._hold_again = now + HOLD_PAUSE * took
        self._looked_at = now
        if now - self._held_since > HOLD_TIME:
            self._held_since = now
            self._send_held()

    def _send_held(self) -> None:
        for send in self.held:
            send()
        self.held.clear()


class _KeyMap(Mapping[FileDescriptorLike, SelectorKey]):
    """asyncio's keys by descriptor or by what has one, which may have been closed meanwhile."""

    def __init__(self, keys: dict[int, SelectorKey]) -> None:
        self._keys = keys

    @override
    def __getitem__(self, fileobj: FileDescriptorLike) -> SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd >= 0:
            return self._keys[fd]
        for key in self._keys.values():
            if key.fileobj is fileobj:
                return key
        raise KeyError(fileobj)

    @override
    def __iter__(self) -> Iterator[FileDescriptorLike]:
        return iter(self._keys)

    @override
    def __len__(self) -> int:
        return len(self._keys)


def _epoll_events(events: int) -> int:
    return (READ if events & EVENT_READ else 0) | (WRITE if events & EVENT_WRITE else 0)
