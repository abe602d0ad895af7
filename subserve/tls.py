"""TLS as a front-line server speaks it."""

import ssl

from subserve.errors import ConfigError
from subserve.options import Config

ALPN_PROTOCOLS = ["h2", "http/1.1"]

HANDSHAKE_TIMEOUT = 10.0
"""Seconds; a client that takes longer for its handshake is dropped.  Not measured."""

_VERIFY_MODES = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


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
    # An empty password makes OpenSSL fail on an encrypted key instead of asking the terminal.
    password = config.keyfile_password
    try:
        context.load_cert_chain(config.certfile, config.keyfile or None, lambda: password)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"--certfile {config.certfile}: cannot load the certificate and its key: "
            f"{_explained(error)}"
        ) from error
    if config.ca_certs:
        try:
            context.load_verify_locations(config.ca_certs)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"--ca-certs {config.ca_certs}: {_explained(error)}") from error
        context.verify_mode = _VERIFY_MODES[config.verify_client]
    return context


def _explained(error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    hints = {
        "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
        "BAD_DECRYPT": "the key is encrypted; --keyfile-password is wrong or missing",
        "EMPTY_PASSWORD": "the key is encrypted; give --keyfile-password",
        "NO_START_LINE": "not in PEM format",
        "PEM_LIB": "not in PEM format, or the key is missing: give --keyfile",
    }
    return hints.get(reason, reason)
