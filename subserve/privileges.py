"""From root to an ordinary user, once the addresses are bound."""

import grp
import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass

from subserve.errors import ConfigError
from subserve.listener import Listener, listen
from subserve.options import Config


@dataclass(frozen=True, slots=True)
class Identity:
    """Who serves.  `name` is empty for a user id that has no name, and then no further groups."""

    uid: int
    gid: int
    name: str


def identity(config: Config) -> Identity | None:
    """Return who is to serve, None where that is who we are.

    Raises `ConfigError` for a user or group that does not exist, or that only root may become.
    """
    if not config.user and not config.group:
        return None
    uid, gid, name = os.geteuid(), os.getegid(), ""
    if config.user:
        try:
            number = config.user.isdecimal()
            entry = pwd.getpwuid(int(config.user)) if number else pwd.getpwnam(config.user)
            uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
        except KeyError, OverflowError:
            if not number:
                raise ConfigError(f"--user {config.user}: there is no such user") from None
            uid = int(config.user)
    if config.group:
        try:
            number = config.group.isdecimal()
            gid = int(config.group) if number else grp.getgrnam(config.group).gr_gid
        except KeyError:
            raise ConfigError(f"--group {config.group}: there is no such group") from None
    if (uid, gid) == (os.geteuid(), os.getegid()):
        return None
    if os.geteuid() != 0:
        raise ConfigError("--user, --group: only root may become somebody else")
    return Identity(uid, gid, name)


def listen_for(config: Config, binds: Sequence[str]) -> list[Listener]:
    """Listen on `binds`, so that whoever is to serve owns the files; raises `BindError`."""
    who = identity(config)
    return listen(
        binds,
        backlog=config.backlog,
        tls=bool(config.certfile),
        umask=config.umask,
        owner=None if who is None else (who.uid, who.gid),
    )


def drop(config: Config) -> None:
    """Become whoever is to serve, and take on the umask."""
    if config.umask:
        os.umask(int(config.umask, 8))
    if (who := identity(config)) is not None:
        _take_on(who)


def _take_on(who: Identity) -> None:
    """Become `who`, for good: as root, all three user ids change (setuid(2)).

    The groups of the user come along, as at a login; those of root do not stay.
    """
    if who.name:
        os.initgroups(who.name, who.gid)
    else:
        os.setgroups([who.gid])
    os.setgid(who.gid)
    os.setuid(who.uid)
