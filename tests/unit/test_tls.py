"""The TLS context, and what an operator is told about files that do not hold what they should."""

import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from subserve.errors import ConfigError
from subserve.options import Config
from subserve.tls import server_context

PASSWORD = "secret"


class Files:
    """A folder of PEM files, right and wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority = trustme.CA()
        mine, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
        rsa_key = authority.issue_cert("localhost", key_type=trustme.KeyType.RSA).private_key_pem
        certificate, key = mine.cert_chain_pems[0].bytes(), mine.private_key_pem.bytes()
        self.authority = authority
        self.add("ca.pem", authority.cert_pem.bytes())
        self.add("cert.pem", certificate)
        self.add("key.pem", key)
        self.add("both.pem", key + certificate)
        self.add("other-key.pem", other.private_key_pem.bytes())
        self.add("rsa-key.pem", rsa_key.bytes())
        self.add("empty.pem", b"")
        self.add("garbage.pem", b"\x00\xff not PEM\n" * 9)
        self.add("damaged.pem", _damaged(b"CERTIFICATE"))
        self.add("damaged-key.pem", _damaged(b"PRIVATE KEY"))
        loaded = serialization.load_pem_private_key(key, None)
        encrypt = serialization.BestAvailableEncryption(PASSWORD.encode())
        pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
        pkcs8 = serialization.PrivateFormat.PKCS8
        traditional = serialization.PrivateFormat.TraditionalOpenSSL
        self.add("encrypted.pem", loaded.private_bytes(pem, pkcs8, encrypt))
        self.add("encrypted-old.pem", loaded.private_bytes(pem, traditional, encrypt))
        self.add("key.der", loaded.private_bytes(der, pkcs8, serialization.NoEncryption()))
        short = rsa.generate_private_key(65537, 1024)
        self.add("short-key.pem", short.private_bytes(pem, pkcs8, serialization.NoEncryption()))
        self.add("short-cert.pem", _self_signed(short).public_bytes(pem))

    def add(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)

    def config(self, **names: str) -> Config:
        """Return a configuration; names of files are those of this folder."""
        password = names.pop("keyfile_password", "")
        verify = names.pop("verify_client", "none")
        paths = {option: str(self.folder / name) for option, name in names.items()}
        return Config(keyfile_password=password, verify_client=verify, **paths)  # type: ignore[arg-type]

    def complaint(self, **names: str) -> str:
        with pytest.raises(ConfigError) as caught:
            server_context(self.config(**names))
        return str(caught.value).replace(f"{self.folder}/", "")


def _damaged(label: bytes) -> bytes:
    return b"-----BEGIN %b-----\nAAAABBBB\n-----END %b-----\n" % (label, label)


def _self_signed(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    builder = builder.public_key(key.public_key())
    builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    return builder.sign(key, hashes.SHA256())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("pems"))


# ---- what is right


@pytest.mark.parametrize(
    "names",
    [
        {"certfile": "cert.pem", "keyfile": "key.pem"},
        {"certfile": "both.pem"},
        {"certfile": "cert.pem", "keyfile": "encrypted.pem", "keyfile_password": PASSWORD},
        {"certfile": "cert.pem", "keyfile": "encrypted-old.pem", "keyfile_password": PASSWORD},
        # A password that is not needed may be of any length.
        {"certfile": "both.pem", "keyfile_password": "x" * 2000},
        {"certfile": "both.pem", "ca_certs": "ca.pem", "verify_client": "required"},
    ],
)
def test_contexts(files: Files, names: dict[str, str]) -> None:
    assert isinstance(server_context(files.config(**names)), ssl.SSLContext)


@pytest.mark.parametrize(
    ("verify", "mode"), [("optional", ssl.CERT_OPTIONAL), ("required", ssl.CERT_REQUIRED)]
)
def test_client_certificates(files: Files, verify: str, mode: ssl.VerifyMode) -> None:
    names = {"certfile": "both.pem", "ca_certs": "ca.pem", "verify_client": verify}
    assert server_context(files.config(**names)).verify_mode is mode
    assert server_context(files.config(certfile="both.pem")).verify_mode is ssl.CERT_NONE


# ---- a handshake in memory


def _step(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """Shake hands and return the server's side; raise what either side raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        if all([_step(theirs), _step(ours)]):
            return ours
    raise AssertionError("the handshake does not end")


@pytest.fixture
def client(files: Files) -> ssl.SSLContext:
    context = ssl.create_default_context()
    files.authority.configure_trust(context)
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_handshake(files: Files, client: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    client.minimum_version = client.maximum_version = version
    client.set_alpn_protocols(["http/1.1", "h2"])
    ours = shake(server_context(files.config(certfile="both.pem")), client)
    cipher = ours.cipher()
    assert ours.selected_alpn_protocol() == "h2"  # the server's choice
    assert cipher is not None
    # RFC 9113, section 9.2.2
    assert re.match("TLS_|ECDHE-.*(GCM|POLY1305)", cipher[0])
    assert ours.compression() is None


@pytest.mark.parametrize("protocols", [[], ["spdy/1"]])
def test_a_client_without_our_protocols(
    files: Files, client: ssl.SSLContext, protocols: list[str]
) -> None:
    if protocols:
        client.set_alpn_protocols(protocols)
    ours = shake(server_context(files.config(certfile="both.pem")), client)
    assert ours.selected_alpn_protocol() is None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_are_refused(files: Files, client: ssl.SSLContext) -> None:
    client.minimum_version = ssl.TLSVersion.TLSv1
    client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shake(server_context(files.config(certfile="both.pem")), client)


def test_ciphers_that_http2_forbids_are_refused(files: Files, client: ssl.SSLContext) -> None:
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256")
    with pytest.raises(ssl.SSLError, match=r"(?i)no.shared.cipher"):
        shake(server_context(files.config(certfile="both.pem")), client)


def test_a_client_certificate_that_is_required(files: Files, client: ssl.SSLContext) -> None:
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # there it is part of the handshake
    names = {"certfile": "both.pem", "ca_certs": "ca.pem", "verify_client": "required"}
    server = server_context(files.config(**names))
    with pytest.raises(ssl.SSLError, match=r"(?i)did.not.return.a.certificate"):
        shake(server, client)
    files.authority.issue_cert("client").configure_cert(client)
    certificate = shake(server, client).getpeercert()
    assert certificate is not None
    assert certificate["subjectAltName"] == (("DNS", "client"),)


# ---- what is wrong: exit code 2, and what to do


NO_CERTIFICATE = "holds no certificate in PEM format"
NO_KEY = "holds no private key in PEM format"
MISMATCH = "the private key does not belong to the certificate"
DAMAGED = "or its key is damaged, or is refused by OpenSSL: "


@pytest.mark.parametrize(
    ("certfile", "keyfile", "complaint"),
    [
        ("cert.pem", "", f"--certfile cert.pem: {NO_KEY}; give --keyfile"),
        ("key.pem", "", f"--certfile key.pem: {NO_CERTIFICATE}"),
        ("empty.pem", "", f"--certfile empty.pem: {NO_CERTIFICATE}"),
        ("garbage.pem", "", f"--certfile garbage.pem: {NO_CERTIFICATE}"),
        ("cert.pem", "empty.pem", f"--keyfile empty.pem: {NO_KEY}"),
        ("cert.pem", "cert.pem", f"--keyfile cert.pem: {NO_KEY}"),
        ("cert.pem", "key.der", f"--keyfile key.der: {NO_KEY}"),
        ("key.pem", "cert.pem", f"--certfile key.pem: {NO_CERTIFICATE}"),
        ("cert.pem", "other-key.pem", f"--certfile cert.pem: {MISMATCH}"),
        ("cert.pem", "rsa-key.pem", f"--certfile cert.pem: {MISMATCH}"),
        ("short-cert.pem", "short-key.pem", "the certificate's key is too short to be safe"),
        ("gone.pem", "key.pem", "--certfile gone.pem or its key: No such file or directory"),
        ("cert.pem", "gone.pem", "--certfile cert.pem or its key: No such file or directory"),
        (".", "key.pem", "or its key: Is a directory"),
        ("damaged.pem", "key.pem", f"--certfile damaged.pem {DAMAGED}"),
        ("cert.pem", "damaged-key.pem", f"--certfile cert.pem {DAMAGED}"),
    ],
)
def test_certificates_and_keys(files: Files, certfile: str, keyfile: str, complaint: str) -> None:
    # All but a few were called "[SSL] PEM lib", which is what OpenSSL says of most mistakes.
    names = {"certfile": certfile} | ({"keyfile": keyfile} if keyfile else {})
    assert complaint in files.complaint(**names)


@pytest.mark.parametrize("keyfile", ["encrypted.pem", "encrypted-old.pem"])
@pytest.mark.parametrize(
    ("password", "remedy"),
    [
        ("", "give --keyfile-password"),
        ("guess", "--keyfile-password is wrong"),
        ("gü\u00dfe", "--keyfile-password is wrong"),
        # OpenSSL takes 1024 bytes; that was a ValueError with a traceback.
        ("x" * 2000, "--keyfile-password is wrong"),
    ],
)
def test_encrypted_keys(files: Files, keyfile: str, password: str, remedy: str) -> None:
    complaint = files.complaint(certfile="cert.pem", keyfile=keyfile, keyfile_password=password)
    assert complaint == f"--keyfile {keyfile}: the private key is encrypted; {remedy}"
    assert not password or password not in complaint


@pytest.mark.parametrize("name", ["empty.pem", "garbage.pem", "key.pem", "damaged.pem", "key.der"])
def test_authorities_that_are_none(files: Files, name: str) -> None:
    complaint = files.complaint(certfile="both.pem", ca_certs=name, verify_client="required")
    assert complaint == f"--ca-certs {name}: holds no certificate in PEM format"


@pytest.mark.parametrize(
    ("name", "cause"), [("no-such.pem", "No such file or directory"), (".", "Is a directory")]
)
def test_authorities_that_cannot_be_read(files: Files, name: str, cause: str) -> None:
    complaint = files.complaint(certfile="both.pem", ca_certs=name, verify_client="required")
    assert complaint.endswith(f": {cause}")
    assert complaint.startswith("--ca-certs ")


def test_what_is_wrong_is_the_operators_to_mend() -> None:
    assert ConfigError.exit_code == 2
