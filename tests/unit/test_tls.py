"""The TLS context, and what an operator is told about files that do not hold what they should."""

import os
import re
import shutil
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from subserve import certificates, tls
from subserve.certificates import all_warnings
from subserve.errors import ConfigError
from subserve.options import Config
from subserve.tls import asgi_extension, server_context, wsgi_variables

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
        """Return a configuration; names of files are those of this folder, several with commas."""
        options: dict[str, object] = {}
        for option, text in names.items():
            if option in {"certfile", "keyfile"}:
                options[option] = tuple(str(self.folder / name) for name in text.split(","))
            elif option in {"ca_certs", "keyfile_password_file"}:
                options[option] = str(self.folder / text)
            else:
                options[option] = text
        return Config(**options)  # type: ignore[arg-type]

    def complaint(self, **names: str) -> str:
        with pytest.raises(ConfigError) as caught:
            server_context(self.config(**names))
        return str(caught.value).replace(f"{self.folder}/", "")


def _damaged(label: bytes) -> bytes:
    return b"-----BEGIN %b-----\nAAAABBBB\n-----END %b-----\n" % (label, label)


def _self_signed(key: rsa.RSAPrivateKey, days: float = 1) -> x509.Certificate:
    """Return a certificate as home-made ones are: a common name, and no extension."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    builder = builder.public_key(key.public_key())
    builder = builder.not_valid_before(now - timedelta(99)).not_valid_after(now + timedelta(days))
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


def shake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = "localhost"
) -> ssl.SSLObject:
    """Shake hands and return the server's side; raise what either side raises."""
    return connect(server, client, name)[0]


def connect(
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    name: str | None = "localhost",
    session: ssl.SSLSession | None = None,
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands, have the client take what comes behind that, and return both sides."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name, session=session)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        if all([_step(theirs), _step(ours)]):
            ours.write(b"x")
            assert theirs.read(1) == b"x"
            return ours, theirs
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


def test_only_the_newest_version_where_that_is_asked_for(
    files: Files, client: ssl.SSLContext
) -> None:
    server = server_context(files.config(certfile="both.pem", tls_min_version="1.3"))
    assert shake(server, client).version() == "TLSv1.3"
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(server, client)


# ---- several certificates


@pytest.fixture
def shops(tmp_path: Path) -> Files:
    """Certificates for several names, each in a file with its key."""
    made = Files(tmp_path)
    for file, names in {
        "a.pem": ("a.example", "www.a.example"),
        "b.pem": ("B.example", "*.b.example"),
        "c.pem": ("c.example", "a.example", "127.0.0.1"),
    }.items():
        made.add(file, made.authority.issue_cert(*names).private_key_and_cert_chain_pem.bytes())
    return made


def trusting(files: Files) -> ssl.SSLContext:
    context = ssl.create_default_context()
    files.authority.configure_trust(context)
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.example", "a.pem"),
        ("WWW.a.example", "a.pem"),
        ("b.example", "b.pem"),
        ("x.B.example", "b.pem"),
        ("c.example", "c.pem"),
        # The first one, where none is for it: a wildcard is for one label, and an address no name.
        ("x.y.b.example", "a.pem"),
        ("example", "a.pem"),
        ("127.0.0.1", "a.pem"),
        ("*.b.example", "b.pem"),
        (None, "a.pem"),
    ],
)
def test_a_client_gets_the_certificate_for_the_name_that_it_asks_for(
    shops: Files, name: str | None, file: str, version: ssl.TLSVersion
) -> None:
    server = server_context(shops.config(certfile="a.pem,b.pem,c.pem"))
    client = trusting(shops)
    client.check_hostname = False
    client.minimum_version = client.maximum_version = version
    ours, theirs = connect(server, client, name)
    shown = theirs.getpeercert(binary_form=True)
    assert shown is not None
    assert ssl.DER_cert_to_PEM_cert(shown) in (shops.folder / file).read_text()
    assert asgi_extension(ours)["server_cert"] == ssl.DER_cert_to_PEM_cert(shown)


def test_certificates_with_keys_in_files_of_their_own(shops: Files) -> None:
    mine = shops.authority.issue_cert("d.example")
    shops.add("d.pem", mine.cert_chain_pems[0].bytes())
    shops.add("d-key.pem", mine.private_key_pem.bytes())
    names = {"certfile": "cert.pem,d.pem"}
    server = server_context(shops.config(**names, keyfile="key.pem,d-key.pem"))
    shake(server, trusting(shops), "localhost")
    shake(server, trusting(shops), "d.example")
    complaint = shops.complaint(**names, keyfile="d-key.pem,key.pem")
    assert complaint == f"--certfile cert.pem: {MISMATCH}"


def test_a_certificate_without_alternative_names(files: Files, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    made = Files(tmp_path)
    encoded = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    own = _self_signed(key).public_bytes(serialization.Encoding.PEM)
    made.add("own.pem", encoded + own)
    made.add("a.pem", made.authority.issue_cert("a").private_key_and_cert_chain_pem.bytes())
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    ours = shake(server_context(made.config(certfile="a.pem,own.pem")), client, "localhost")
    assert asgi_extension(ours)["server_cert"] == own.decode()


# ---- certificates that are renewed


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each handshake looks whether the files have changed."""
    monkeypatch.setattr(tls, "LOOK_INTERVAL", 0.0)


def shown(server: ssl.SSLContext, files: Files, name: str = "localhost") -> str:
    return str(asgi_extension(shake(server, trusting(files), name))["server_cert"])


def first_of(path: Path) -> str:
    return certificates.Certificate.read(str(path)).pem


@pytest.mark.usefixtures("impatient")
def test_a_renewed_certificate_is_shown_to_new_connections(
    shops: Files, caplog: pytest.LogCaptureFixture
) -> None:
    server = server_context(shops.config(certfile="a.pem,b.pem"))
    before = first_of(shops.folder / "b.pem")
    ours, theirs = connect(server, trusting(shops), "b.example")
    renewed = shops.authority.issue_cert("b.example", "new.example")
    shops.add("b.pem", renewed.private_key_and_cert_chain_pem.bytes())
    # Whoever replaces several files is given the time between two looks for that.
    assert shown(server, shops, "b.example") == before
    with caplog.at_level("INFO", "subserve.tls"):
        assert shown(server, shops, "b.example") == first_of(shops.folder / "b.pem") != before
    assert shown(server, shops, "new.example") == first_of(shops.folder / "b.pem")
    assert shown(server, shops, "a.example") == first_of(shops.folder / "a.pem")
    # A connection that was open goes on.
    theirs.write(b"still there")
    assert ours.read(20) == b"still there"
    assert caplog.messages == ["the certificates have changed and were loaded anew"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("damage", ["other-key.pem", "empty.pem", ""])
def test_files_that_are_bad_by_then_change_nothing(
    files: Files, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cert.pem", "key.pem"):
        shutil.copy(files.folder / name, tmp_path)
    here = Files.__new__(Files)
    here.folder = tmp_path
    server = server_context(here.config(certfile="cert.pem", keyfile="key.pem"))
    good = first_of(tmp_path / "cert.pem")
    (tmp_path / "key.pem").unlink()
    if damage:
        shutil.copy(files.folder / damage, tmp_path / "key.pem")
    for _ in range(5):
        assert shown(server, files) == good
    [message] = caplog.messages
    assert message.startswith("the certificates were not loaded anew: --")
    shutil.copy(files.folder / "key.pem", tmp_path / "key.pem")
    caplog.set_level("INFO", "subserve.tls")
    for _ in range(3):
        assert shown(server, files) == good
    assert caplog.messages[-1] == "the certificates have changed and were loaded anew"


def test_the_files_are_not_looked_at_for_each_handshake(
    files: Files, client: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_context(files.config(certfile="both.pem"))
    monkeypatch.setattr(tls, "_stamp_of", lambda path: pytest.fail("it was"))
    shake(server, client)


def test_a_certificate_that_is_about_to_expire_is_told_of_once_a_day(
    files: Files,
    client: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tls, "LOOK_INTERVAL", 0.0)
    server = server_context(files.config(certfile="both.pem"))
    monkeypatch.setattr(certificates, "EXPIRY_WARNING_DAYS", 10**6)
    shake(server, client)
    assert caplog.messages == []
    monkeypatch.setattr(tls, "WARNING_INTERVAL", time.monotonic() - 1e9)
    shake(server, client)
    [message] = caplog.messages
    assert re.fullmatch(
        r"--certfile .*both.pem: the certificate expires at 3000-01-01 00:00 UTC; renew it", message
    )


# ---- what an operator should know


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (-0.5, "has expired"),
        (0.5, "expires at 3000-01-01 00:00 UTC"),
        (13.9, "expires at 3000-01-01 00:00 UTC"),
        (14.1, None),
    ],
)
def test_certificates_that_expire(files: Files, days: float, said: str | None) -> None:
    certificate = certificates.Certificate.read(str(files.folder / "cert.pem"))
    config = files.config(certfile="cert.pem", keyfile="key.pem")
    os.chmod(config.keyfile[0], 0o600)
    told = list(all_warnings(config, certificate.expires - days * 86400))
    if said is None:
        assert told == []
    else:
        assert told == [f"--certfile {config.certfile[0]}: the certificate {said}; renew it"]


@pytest.mark.parametrize(
    ("mode", "bad"), [(0o600, False), (0o640, False), (0o644, True), (0o666, True)]
)
@pytest.mark.parametrize(
    "names", [{"certfile": "cert.pem", "keyfile": "key.pem"}, {"certfile": "both.pem"}]
)
def test_keys_that_anybody_can_read(
    files: Files, names: dict[str, str], mode: int, bad: bool
) -> None:
    config = files.config(**names)
    option, path = list(names)[-1], (config.keyfile or config.certfile)[0]
    os.chmod(path, mode)
    said = f"--{option} {path}: anybody on this machine can read the private key; chmod o= it"
    assert list(all_warnings(config, 0.0)) == ([said] if bad else [])


# ---- what an app is told


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_without_a_client_certificate(
    files: Files, client: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    client.minimum_version = client.maximum_version = version
    ours = shake(server_context(files.config(certfile="both.pem")), client)
    told = asgi_extension(ours)
    numbers = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
    assert told["tls_version"] == numbers[ours.version() or ""]
    assert told["cipher_suite"] in {0x1301, 0x1302, 0x1303, *range(0xC02B, 0xC031), 0xCCA9}
    assert (told["client_cert_chain"], told["client_cert_name"]) == ((), None)
    assert told["client_cert_error"] is None
    assert wsgi_variables(told) == {
        "SSL_CLIENT_VERIFY": "NONE",
        "SSL_PROTOCOL": ours.version(),
    }


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("verify", ["optional", "required"])
def test_with_a_client_certificate(
    files: Files, client: ssl.SSLContext, verify: str, version: ssl.TLSVersion
) -> None:
    """Also where the session is resumed, which keeps the client's own certificate only."""
    client.minimum_version = client.maximum_version = version
    mine = files.authority.issue_cert("client", common_name='Kim, "K" #1')
    mine.configure_cert(client)
    names = {"certfile": "both.pem", "ca_certs": "ca.pem", "verify_client": verify}
    server = server_context(files.config(**names))
    ours, theirs = connect(server, client)
    own, above = mine.cert_chain_pems[0].bytes().decode(), files.authority.cert_pem.bytes().decode()
    told = asgi_extension(ours)
    assert told["client_cert_chain"] == (own, above)
    assert told["client_cert_name"].startswith('CN=Kim\\, \\"K\\" #1,OU=Testing cert')
    assert wsgi_variables(told) == {
        "SSL_PROTOCOL": ours.version(),
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": told["client_cert_name"],
        "SSL_CLIENT_CERT": own,
        "SSL_CLIENT_CERT_CHAIN_0": above,
    }
    again, resumed = connect(server, client, session=theirs.session)
    assert resumed.session_reused
    told = asgi_extension(again)
    assert told["client_cert_chain"] == (own,)
    assert told["client_cert_name"].startswith("CN=Kim")


def test_a_client_certificate_that_was_made_at_home(
    files: Files, client: ssl.SSLContext, tmp_path: Path
) -> None:
    """Without extensions, as `openssl x509 -req` makes them; RFC 5280 wants some."""
    key = rsa.generate_private_key(65537, 2048)
    pem = serialization.Encoding.PEM
    own = _self_signed(key).public_bytes(pem)
    (tmp_path / "own.pem").write_bytes(
        own
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files.add("own-ca.pem", own)
    client.load_cert_chain(tmp_path / "own.pem")
    names = {"certfile": "both.pem", "ca_certs": "own-ca.pem", "verify_client": "required"}
    told = asgi_extension(shake(server_context(files.config(**names)), client))
    assert told["client_cert_name"] == "CN=localhost"


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


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_password_in_a_file(files: Files, end: bytes) -> None:
    files.add("password", PASSWORD.encode() + end)
    names = {"certfile": "cert.pem", "keyfile": "encrypted.pem"}
    server_context(files.config(**names, keyfile_password_file="password"))
    files.add("password", b" " + PASSWORD.encode() + end)
    complaint = files.complaint(**names, keyfile_password_file="password")
    assert complaint == (
        "--keyfile encrypted.pem: the private key is encrypted; the password in "
        "--keyfile-password-file password is wrong"
    )
    files.add("password", b"\xff")
    complaint = files.complaint(**names, keyfile_password_file="password")
    assert complaint == "--keyfile-password-file password: is not UTF-8"
    complaint = files.complaint(**names, keyfile_password_file="gone")
    assert complaint == "--keyfile-password-file gone: No such file or directory"


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
