"""TLS as a front-line server speaks it."""

import re
import ssl
from pathlib import Path
from typing import Any

from subserve.errors import ConfigError
from subserve.options import Config

ALPN_PROTOCOLS = ["h2", "http/1.1"]

HANDSHAKE_TIMEOUT = 10.0
"""Seconds; a client that takes longer for its handshake is dropped.  Not measured."""

_PEM_END = "-----END CERTIFICATE-----"

_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
"""As they stand in the protocol (RFC 8446, section 4.1.2)."""

_SHORT = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
"""RFC 4514, section 3."""

_VERIFY_MODES = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


_REASONS = {
    "KEY_VALUES_MISMATCH": "the private key does not belong to the certificate",
    "KEY_TYPE_MISMATCH": "the private key does not belong to the certificate",
    "NO_CERTIFICATE_ASSIGNED": "the private key does not belong to the certificate",
    "EE_KEY_TOO_SMALL": "the certificate's key is too short to be safe",
    "CA_MD_TOO_WEAK": "the certificate is signed with a hash that is not safe any more",
}
"""What OpenSSL means; the rest is told from the files."""


def server_context(config: Config) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and 1.3 with the certificate of `config`.

    Raises `ConfigError` where the files do not hold what they should.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # RFC 9113, section 9.2.2: HTTP/2 over TLS 1.2 takes forward secret AEAD ciphers only.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    _load_certificate(context, config)
    if config.ca_certs:
        try:
            context.load_verify_locations(config.ca_certs)
        except OSError as error:  # ssl.SSLError is one
            cause = _cause_in_system(error) or "holds no certificate in PEM format"
            raise ConfigError(f"--ca-certs {config.ca_certs}: {cause}") from error
        context.verify_mode = _VERIFY_MODES[config.verify_client]
    return context


def _load_certificate(context: ssl.SSLContext, config: Config) -> None:
    password_asked_for = False

    def password() -> str:
        # Without a callback OpenSSL would ask the terminal; an empty answer makes it give up.
        nonlocal password_asked_for
        password_asked_for = True
        return config.keyfile_password

    try:
        context.load_cert_chain(config.certfile, config.keyfile or None, password)
    except (OSError, ValueError) as error:  # ValueError: a password of over 1024 bytes
        raise ConfigError(_diagnosis(config, error, password_asked_for)) from error


def _diagnosis(config: Config, error: Exception, password_asked_for: bool) -> str:
    """Say what is wrong with the certificate or its key: OpenSSL calls most of it "PEM lib"."""
    certificate = f"--certfile {config.certfile}"
    key = f"--keyfile {config.keyfile}" if config.keyfile else certificate
    if cause := _cause_in_system(error):
        return f"{certificate} or its key: {cause}"
    reason = getattr(error, "reason", None)
    if reason in _REASONS:
        return f"{certificate}: {_REASONS[reason]}"
    if not _holds(config.certfile, b"CERTIFICATE-----"):
        return f"{certificate}: holds no certificate in PEM format"
    if not _holds(config.keyfile or config.certfile, b"PRIVATE KEY-----"):
        hint = "" if config.keyfile else "; give --keyfile"
        return f"{key}: holds no private key in PEM format{hint}"
    if password_asked_for and config.keyfile_password:
        return f"{key}: the private key is encrypted; --keyfile-password is wrong"
    if password_asked_for:
        return f"{key}: the private key is encrypted; give --keyfile-password"
    return f"{certificate} or its key is damaged, or is refused by OpenSSL: {reason or error}"


def _cause_in_system(error: Exception) -> str | None:
    """Return why the operating system refused a file, None for an error of OpenSSL."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return error.strerror
    return None


def _holds(path: str, mark: bytes) -> bool:
    return mark in Path(path).read_bytes()


def has_agreed_on_http2(secured: ssl.SSLObject) -> bool:
    """Tell whether ALPN (RFC 7301) has chosen HTTP/2."""
    return secured.selected_alpn_protocol() == "h2"


def certificate_text(config: Config) -> str:
    """Return the server's own certificate, the first in its file, as PEM."""
    text = Path(config.certfile).read_text(encoding="ascii", errors="replace")
    begin = text.index("-----BEGIN CERTIFICATE-----")
    end = text.index(_PEM_END, begin) + len(_PEM_END)
    return text[begin:end] + "\n"


def asgi_extension(secured: ssl.SSLObject, certificate: str | None) -> dict[str, Any]:
    """Return what an app may know of a connection's TLS: the ASGI TLS extension, version 0.2.

    `certificate` is the server's own, as PEM.  Without a certificate of the client the chain is
    empty and its name None.
    """
    chain = secured.get_verified_chain()
    peer = secured.getpeercert()
    return {
        "server_cert": certificate,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(der) for der in chain],
        "client_cert_name": _distinguished_name(peer["subject"]) if peer else None,
        "client_cert_error": None,  # one that does not verify ends the handshake
        "tls_version": _VERSIONS.get(secured.version() or ""),
        "cipher_suite": _cipher_number(secured),
    }


def _cipher_number(secured: ssl.SSLObject) -> int | None:
    cipher = secured.cipher()
    for known in secured.context.get_ciphers():
        if cipher is not None and known["name"] == cipher[0]:
            return int(known["id"]) & 0xFFFF  # OpenSSL puts a prefix of its own before it
    return None


def _distinguished_name(subject: Any) -> str:
    """Return a name as RFC 4514 writes it: the most specific part first."""
    return ",".join(
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in part)
        for part in reversed(subject)
    )


def _escaped(value: str) -> str:
    """Escape what has a meaning in a name (RFC 4514, section 2.4)."""
    text = re.sub(r'[,+"\\<>;]', r"\\\g<0>", value).replace("\0", "\\00")
    if text.startswith((" ", "#")):
        text = f"\\{text}"
    return f"{text[:-1]}\\ " if text.endswith(" ") and len(text) > 1 else text
