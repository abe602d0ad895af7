"""The server's certificates as they lie on disk: what is in them, and what is wrong with them.

Which of them a client is shown is `subserve.tls`'s to say.
"""

import _ssl
import os
import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subserve.errors import ConfigError
from subserve.options import Config

EXPIRY_WARNING_DAYS = 14
"""Whoever renews does so earlier: certbot 30 days ahead, and a third of a short life ahead."""

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"

type _Info = dict[str, Any]
"""What `SSLSocket.getpeercert` returns."""

_DAY = 24 * 3600.0

_REASONS = {
    "KEY_VALUES_MISMATCH": "the private key does not belong to the certificate",
    "KEY_TYPE_MISMATCH": "the private key does not belong to the certificate",
    "NO_CERTIFICATE_ASSIGNED": "the private key does not belong to the certificate",
    "EE_KEY_TOO_SMALL": "the certificate's key is too short to be safe",
    "CA_MD_TOO_WEAK": "the certificate is signed with a hash that is not safe any more",
}
"""What OpenSSL means; the rest is told from the files."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where a certificate is, with its chain, and where its key; they may be in one file."""

    certfile: str
    keyfile: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the files that there are."""
        return (self.certfile, self.keyfile) if self.keyfile else (self.certfile,)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says: DNS names in lower case, its end (Unix time), itself as PEM."""

    names: tuple[str, ...]
    expires: float
    pem: str

    @classmethod
    def read(cls, path: str) -> Certificate:
        """Read the first one of a file, whose certificate was loaded already."""
        # The only decoder in the standard library.  It has no public name, but is what
        # `SSLSocket.getpeercert` uses and what CPython's own tests call.
        found: _Info = _ssl._test_decode_cert(path)  # type: ignore[attr-defined]
        names = [name for kind, name in found.get("subjectAltName", ()) if kind == "DNS"]
        if not names:  # none of those of an authority, but home-made ones have theirs there
            subject = [pair for part in found["subject"] for pair in part]
            names = [str(value) for kind, value in subject if kind == "commonName"]
        text = Path(path).read_text(encoding="ascii", errors="replace")
        begin = text.index(_BEGIN)
        end = text.index(_END, begin) + len(_END)
        return cls(
            tuple(name.lower() for name in names),
            ssl.cert_time_to_seconds(str(found["notAfter"])),
            text[begin:end] + "\n",
        )


def all_files(config: Config) -> list[Files]:
    """Return what was configured: the keys in the order of their certificates, or all in those."""
    keys = config.keyfile or ("",) * len(config.certfile)
    return [Files(*pair) for pair in zip(config.certfile, keys, strict=True)]


def load(context: ssl.SSLContext, files: Files, config: Config) -> Certificate:
    """Load a certificate and its key into `context`; return what it says.

    Raises `ConfigError` where the files do not hold what they should.
    """
    password_asked_for = False
    known = password_of(config)

    def password() -> str:
        # Without a callback OpenSSL would ask the terminal; an empty answer makes it give up.
        nonlocal password_asked_for
        password_asked_for = True
        return known

    try:
        context.load_cert_chain(files.certfile, files.keyfile or None, password)
        return Certificate.read(files.certfile)
    except (OSError, ValueError) as error:  # ValueError: a password of over 1024 bytes
        raise ConfigError(_diagnosis(files, config, error, password_asked_for)) from error


def password_of(config: Config) -> str:
    """Return the password of the keys, empty where there is none; raise `ConfigError`."""
    if not config.keyfile_password_file:
        return config.keyfile_password
    try:
        text = Path(config.keyfile_password_file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        cause = cause_in_system(error) or "is not UTF-8"
        raise ConfigError(
            f"--keyfile-password-file {config.keyfile_password_file}: {cause}"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def _diagnosis(files: Files, config: Config, error: Exception, password_asked_for: bool) -> str:
    """Say what is wrong with the certificate or its key: OpenSSL calls most of it "PEM lib"."""
    certificate = f"--certfile {files.certfile}"
    key = f"--keyfile {files.keyfile}" if files.keyfile else certificate
    if cause := cause_in_system(error):
        return f"{certificate} or its key: {cause}"
    reason = getattr(error, "reason", None)
    if reason in _REASONS:
        return f"{certificate}: {_REASONS[reason]}"
    if not _holds(files.certfile, b"CERTIFICATE-----"):
        return f"{certificate}: holds no certificate in PEM format"
    if not _holds(files.keyfile or files.certfile, b"PRIVATE KEY-----"):
        hint = "" if files.keyfile else "; give --keyfile"
        return f"{key}: holds no private key in PEM format{hint}"
    if password_asked_for and config.keyfile_password_file:
        source = f"--keyfile-password-file {config.keyfile_password_file}"
        return f"{key}: the private key is encrypted; the password in {source} is wrong"
    if password_asked_for and config.keyfile_password:
        return f"{key}: the private key is encrypted; --keyfile-password is wrong"
    if password_asked_for:
        return f"{key}: the private key is encrypted; give --keyfile-password"
    return f"{certificate} or its key is damaged, or is refused by OpenSSL: {reason or error}"


def cause_in_system(error: Exception) -> str | None:
    """Return why the operating system refused a file, None for an error of OpenSSL."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return error.strerror
    return None


def _holds(path: str, mark: bytes) -> bool:
    return mark in Path(path).read_bytes()


def all_warnings(config: Config, now: float | None = None) -> Iterator[str]:
    """Yield what an operator should know of certificates that work; `now` is Unix time.

    The files were loaded before.  Raises `OSError` where one has gone since.
    """
    moment = time.time() if now is None else now
    for files in all_files(config):
        if told := expiry_warning(files, Certificate.read(files.certfile), moment):
            yield told
        key = files.keyfile or files.certfile
        if os.stat(key).st_mode & (stat.S_IROTH | stat.S_IWOTH):
            option = "--keyfile" if files.keyfile else "--certfile"
            yield f"{option} {key}: anybody on this machine can read the private key; chmod o= it"


def expiry_warning(files: Files, certificate: Certificate, now: float) -> str | None:
    """Return what is to be said of a certificate that ends soon, or has; `now` is Unix time."""
    if certificate.expires < now:
        return f"--certfile {files.certfile}: the certificate has expired; renew it"
    if certificate.expires < now + EXPIRY_WARNING_DAYS * _DAY:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(certificate.expires))
        return f"--certfile {files.certfile}: the certificate expires at {when} UTC; renew it"
    return None
