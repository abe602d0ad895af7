"""TLS as a front-line server speaks it.

Which certificate a client is shown is decided in the handshake, by the name that it asks for (SNI,
RFC 6066, section 3): so each handshake begins in one context, and goes on in that of its
certificate.  The same place notices that the files have changed: connections go on as they are, and
the handshakes to come see the new certificate.
"""

import logging
import os
import re
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from subserve import certificates
from subserve.certificates import Certificate, Files
from subserve.errors import ConfigError
from subserve.options import Config

log = logging.getLogger("subserve.tls")

ALPN_PROTOCOLS = ["h2", "http/1.1"]

LOOK_INTERVAL = 1.0
"""Seconds between two looks whether the files have changed, while there are handshakes.  What has
changed is loaded once it is the same at two looks: certificate and key may not come at once."""

WARNING_INTERVAL = 24 * 3600.0
"""Seconds between two warnings that a certificate expires."""

_GROUPS = "?X25519MLKEM768:X25519:prime256v1:secp384r1"
"""For key exchange, as Mozilla recommends them (ssl-config.mozilla.org, "intermediate"); the first
one where OpenSSL has it, from 3.5 on.  By default it takes X448 and P-521, too."""

_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
"""As they stand in the protocol (RFC 8446, section 4.1.2)."""

_VERSION_NAMES = {number: name for name, number in _VERSIONS.items()}

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

type _Stamp = tuple[tuple[int, ...], ...]


class _Context(ssl.SSLContext):
    """A context with one certificate, and what is told of it."""

    certificate: Certificate
    cipher_numbers: dict[str, int]


def server_context(config: Config) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and 1.3 with the certificates of `config`.

    Raises `ConfigError` where the files do not hold what they should.
    """
    return _Selection(config).context


class _Selection:
    """The certificates, by their names.  Lives where the handshakes are: in the loop's thread."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._files = certificates.all_files(config)
        self._authorities = _read_authorities(config)
        self._loaded = self._seen = self._stamp()
        self._contexts = self._load()
        self._by_name = _by_name(self._contexts)
        self._looked_at = time.monotonic()
        self._warned_at = time.monotonic()  # at the start somebody else does
        self.context = self._new_context(self._files[0])
        """What handshakes begin in."""
        self.context.sni_callback = self._select

    def _load(self) -> list[_Context]:
        return [self._new_context(files) for files in self._files]

    def _new_context(self, files: Files) -> _Context:
        config = self._config
        context = _Context(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _MINIMUM[config.tls_min_version]
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        # RFC 9113, section 9.2.2: HTTP/2 over TLS 1.2 takes forward secret AEAD ciphers only.
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
        if hasattr(context, "set_groups"):  # from Python 3.15 on
            context.set_groups(_GROUPS)
        context.set_alpn_protocols(ALPN_PROTOCOLS)
        context.certificate = certificates.load(context, files, config)
        # OpenSSL puts a prefix of its own before the numbers.
        known = context.get_ciphers()
        context.cipher_numbers = {c["name"]: int(c["id"]) & 0xFFFF for c in known}
        if self._authorities:
            # An intermediate authority can be trusted without the root above it.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=self._authorities)
            context.verify_mode = _VERIFY_MODES[config.verify_client]
        return context

    def _select(self, secured: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """Go on with the certificate for `name`, with the first one where none is.

        OpenSSL calls this once a handshake, also without a name.
        """
        if time.monotonic() - self._looked_at >= LOOK_INTERVAL:
            self._look()
        wanted = (name or "").lower()
        found = self._by_name.get(wanted) or self._by_name.get(f"*.{wanted.partition('.')[2]}")
        secured.context = found or self._contexts[0]

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        stamp = self._stamp()
        at_rest = stamp == self._seen
        self._seen = stamp
        if at_rest and stamp != self._loaded:
            self._loaded = stamp  # also if it is bad: it was told once
            try:
                self._contexts = self._load()
            except (ConfigError, OSError) as error:
                log.error("the certificates were not loaded anew: %s", error)  # noqa: TRY400
                return
            self._by_name = _by_name(self._contexts)
            self._warned_at = -WARNING_INTERVAL
            log.info("the certificates have changed and were loaded anew")
        if self._looked_at - self._warned_at >= WARNING_INTERVAL:
            self._warned_at = self._looked_at
            for files, context in zip(self._files, self._contexts, strict=True):
                if told := certificates.expiry_warning(files, context.certificate, time.time()):
                    log.warning("%s", told)

    def _stamp(self) -> _Stamp:
        """Return what tells whether the files are the same."""
        return tuple(_stamp_of(path) for files in self._files for path in files.paths)


_MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def _stamp_of(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()  # it is being replaced
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _by_name(contexts: list[_Context]) -> dict[str, _Context]:
    """Return the contexts by the names in their certificates; the first one with a name has it."""
    found: dict[str, _Context] = {}
    for context in contexts:
        for name in context.certificate.names:
            found.setdefault(name, context)
    return found


def _read_authorities(config: Config) -> str:
    """Return the certificates that clients are checked against as PEM; raise `ConfigError`.

    They are read once: a client that was trusted may resume its session, whatever is in the file by
    then, so that another file is for new processes.
    """
    if not config.ca_certs:
        return ""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(config.ca_certs)
        # Text between the certificates, in any encoding, is usual in such files.
        return Path(config.ca_certs).read_text(encoding="ascii", errors="ignore")
    except OSError as error:  # ssl.SSLError is one
        cause = certificates.cause_in_system(error) or "holds no certificate in PEM format"
        raise ConfigError(f"--ca-certs {config.ca_certs}: {cause}") from error


def has_agreed_on_http2(secured: ssl.SSLObject) -> bool:
    """Tell whether ALPN (RFC 7301) has chosen HTTP/2."""
    return secured.selected_alpn_protocol() == "h2"


def asgi_extension(secured: ssl.SSLObject) -> dict[str, Any]:
    """Return what an app may know of a connection's TLS: the ASGI TLS extension, version 0.2.

    The handshake is over, and began in a context of `server_context`.  Without a certificate of the
    client the chain is empty and its name None.
    """
    context = cast("_Context", secured.context)
    peer = secured.getpeercert()
    cipher = secured.cipher()
    return {
        "server_cert": context.certificate.pem,
        # Tuples, since requests of one connection share it.
        "client_cert_chain": _client_chain(secured) if peer else (),
        "client_cert_name": _distinguished_name(peer["subject"]) if peer else None,
        "client_cert_error": None,  # one that does not verify ends the handshake
        "tls_version": _VERSIONS.get(secured.version() or ""),
        "cipher_suite": context.cipher_numbers.get(cipher[0]) if cipher else None,
    }


def _client_chain(secured: ssl.SSLObject) -> tuple[str, ...]:
    # A session that is resumed has kept the client's own certificate, and not what is above it.
    chain = secured.get_verified_chain()
    if not chain and (own := secured.getpeercert(binary_form=True)):
        chain = [own]
    return tuple(ssl.DER_cert_to_PEM_cert(der) for der in chain)


def wsgi_variables(extension: Mapping[str, Any]) -> dict[str, str]:
    """Return what a WSGI app is told of the same: the variables of Apache's mod_ssl.

    ``SSL_PROTOCOL`` (``TLSv1.3``) and ``SSL_CLIENT_VERIFY`` (``NONE`` or ``SUCCESS``); with a
    client certificate also ``SSL_CLIENT_S_DN`` (RFC 4514), ``SSL_CLIENT_CERT`` (PEM) and, for those
    above it, ``SSL_CLIENT_CERT_CHAIN_0`` and so on.
    """
    variables = {"SSL_CLIENT_VERIFY": "NONE"}
    if version := _VERSION_NAMES.get(extension["tls_version"]):
        variables["SSL_PROTOCOL"] = version
    if chain := extension["client_cert_chain"]:
        variables["SSL_CLIENT_VERIFY"] = "SUCCESS"
        variables["SSL_CLIENT_S_DN"] = extension["client_cert_name"]
        variables["SSL_CLIENT_CERT"] = chain[0]
        for number, above in enumerate(chain[1:]):
            variables[f"SSL_CLIENT_CERT_CHAIN_{number}"] = above
    return variables


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
