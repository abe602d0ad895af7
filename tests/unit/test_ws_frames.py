"""Frames: headers, close payloads, masks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.ws.frames import (
    Code,
    Opcode,
    Violation,
    close_payload,
    control,
    header,
    parse_close,
    unmask,
)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_length_is_in_its_shortest_form(size: int, expected: bytes) -> None:
    assert header(0x81, size) == expected


def test_a_control_frame() -> None:
    assert control(Opcode.PING, b"ab") == b"\x89\x02ab"


@given(st.binary(max_size=70), st.binary(min_size=4, max_size=4), st.data())
def test_a_mask_is_taken_off(data: bytes, mask: bytes, draw: st.DataObject) -> None:
    start = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(start, len(data)))
    expected = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data[start:end]))
    assert unmask(data, start, end, mask) == expected


SENDABLE = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999]
NOT_SENDABLE = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.mark.parametrize("code", SENDABLE)
def test_codes_that_may_be_sent(code: int) -> None:
    payload = close_payload(code, "grüße")
    assert payload == code.to_bytes(2) + "grüße".encode()
    assert parse_close(payload) == (code, "grüße")


@pytest.mark.parametrize("code", NOT_SENDABLE)
def test_codes_that_may_not(code: int) -> None:
    with pytest.raises(ValueError, match=f"cannot be closed with code {code}"):
        close_payload(code, "x")
    with pytest.raises(Violation) as violation:
        parse_close(code.to_bytes(2))
    assert violation.value.code == Code.PROTOCOL_ERROR


def test_a_close_without_a_code() -> None:
    assert close_payload(Code.NO_STATUS, "") == b""
    assert parse_close(b"") == (1005, "")


def test_a_reason_has_to_fit() -> None:
    assert len(close_payload(1000, "x" * 123)) == 125
    with pytest.raises(ValueError, match="more than 123 bytes"):
        close_payload(1000, "ü" * 62)


@pytest.mark.parametrize(
    ("payload", "code"), [(b"\x03", 1002), (b"\x03\xe8\xff", 1007), (b"\x03\xe8\xc3", 1007)]
)
def test_a_close_that_breaks_the_rules(payload: bytes, code: int) -> None:
    with pytest.raises(Violation) as violation:
        parse_close(payload)
    assert violation.value.code == code
