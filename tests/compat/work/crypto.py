"""Encryption, passwords and checksums."""

import typing

type Json = typing.Any


def use_cryptography() -> Json:
    """Signs, encrypts, makes a certificate; rejects what was changed."""
    import datetime

    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 5, start, start.replace(year=2027))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    box = Fernet(Fernet.generate_key())
    signature = key.sign(b"text", ec.ECDSA(hashes.SHA256()))
    try:
        key.public_key().verify(signature, b"other", ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        parsed = x509.load_pem_x509_certificate(certificate)
        return [box.decrypt(box.encrypt(b"x" * 100)).decode()[:3], parsed.serial_number]


def use_cffi() -> Json:
    """Calls the C library, with a callback into Python."""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(
        "void qsort(void *, size_t, size_t, int (*)(const void *, const void *));"
        "size_t strlen(const char *);"
    )
    libc = ffi.dlopen(None)

    @ffi.callback("int(const void *, const void *)")
    def compare(a, b):
        return ffi.cast("int *", a)[0] - ffi.cast("int *", b)[0]

    numbers = ffi.new("int[]", [5, 3, 9, 1])
    libc.qsort(numbers, 4, ffi.sizeof("int"), compare)
    return [list(numbers), libc.strlen(b"hello")]


def use_bcrypt() -> Json:
    """Hashes and checks a password."""
    import bcrypt

    hashed = bcrypt.hashpw(b"secret", b"$2b$04$" + b"a" * 21 + b"u")
    return [hashed.decode(), bcrypt.checkpw(b"secret", hashed), bcrypt.checkpw(b"x", hashed)]


def use_argon2_cffi() -> Json:
    """Hashes and checks a password."""
    from argon2 import PasswordHasher
    from argon2.exceptions import VerifyMismatchError

    hasher = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
    hashed = hasher.hash("secret", salt=b"saltsalt")
    try:
        hasher.verify(hashed, "other")
    except VerifyMismatchError:
        return [hashed, hasher.verify(hashed, "secret")]


def use_pynacl() -> Json:
    """Boxes and signatures."""
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox
    from nacl.signing import SigningKey

    box = SecretBox(b"k" * 32)
    sealed = box.encrypt(b"text", b"n" * 24)
    try:
        box.decrypt(sealed[:-1] + b"?")
    except CryptoError:
        return [box.decrypt(sealed).decode(), SigningKey(b"s" * 32).sign(b"x").signature.hex()[:16]]


def use_pycryptodome() -> Json:
    """AES-GCM and a hash."""
    from Crypto.Cipher import AES
    from Crypto.Hash import SHA3_256

    text, tag = AES.new(b"k" * 16, AES.MODE_GCM, nonce=b"n" * 12).encrypt_and_digest(b"x" * 50)
    return [text.hex()[:16], tag.hex(), SHA3_256.new(b"x").hexdigest()[:16]]


def use_xxhash() -> Json:
    """Hashes in pieces and at once."""
    import xxhash

    pieces = xxhash.xxh3_64()
    for _ in range(100):
        pieces.update(b"abc")
    return [pieces.hexdigest(), xxhash.xxh3_64_hexdigest(b"abc" * 100)]


def use_blake3() -> Json:
    """Hashes with threads of its own."""
    from blake3 import blake3

    return blake3(b"x" * 2_000_000, max_threads=2).hexdigest()


def use_google_crc32c() -> Json:
    """Checksums in C."""
    import google_crc32c

    return [google_crc32c.implementation, google_crc32c.value(b"x" * 1000)]
