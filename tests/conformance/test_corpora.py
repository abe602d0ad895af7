"""The requests that others have collected: refused, or read as their owners read them."""

import re

import pytest

from subserve.http.h1.states import State
from tests.conformance.corpora import read_gunicorn, read_shared, with_hosts
from tests.unit.h1_harness import Bench, Outcome

# ---- llhttp, strict cases

STRICTER_THAN_LLHTTP = {
    "Content-Length reset when no body is received": "it waits for the body",
    "SOURCE request with ICE": "no HTTP",
    "OPTIONS request with RTSP": "no HTTP",
    "ANNOUNCE request with RTSP": "no HTTP",
    "No HTTP version": "HTTP/0.9",
    "Trailing headers": "a Content-Type behind the body",
    "POST with `chunked` as last transfer-encoding": "no coding but chunked",
    "POST with `chunked` as last transfer-encoding (multiple headers)": "two Transfer-Encodings",
    "Fragment in URI": "a fragment is not sent",
    "`host:port` and basic auth": "userinfo",
    "M-SEARCH request": "the target * is for OPTIONS",
    "CONNECT request": "CONNECT is for proxies",
    "CONNECT request with CAPS": "the same",
    "CONNECT with body": "the same",
    "Underscore in hostname": "the same",
}
"""Accepted there, and refused here."""

METHODS = {"HTTP protocol and ANNOUNCE method", "Invalid method"}
"""Refused there: it knows only so many methods, and here it is up to the app."""


def llhttp_cases() -> list[dict[str, object]]:
    return [case for case in read_shared("llhttp/cases.json") if case["strict"]]


def test_llhttp_corpus_is_what_it_was() -> None:
    assert len(llhttp_cases()) == 128


def test_llhttp_cases(bench: Bench) -> None:
    """They end in the middle, of a head mostly: here they are ended."""
    refused = set()
    for case in llhttp_cases():
        title, data = str(case["title"]), with_hosts(bytes.fromhex(str(case["payload_hex"])))
        served = [bench.exchange(data + end) for end in (b"", b"\r\n", b"\r\n\r\n")]
        accepted = any(one.completed or one.handed_over is not None for one in served)
        # Where they stop because it is an upgrade, or behind the last request, it is not refused.
        error = case["error"]
        refused_there = isinstance(error, list) and error[0] not in {"5", "22"}
        if refused_there and accepted:
            assert title in METHODS, title
        elif case["complete"] and not refused_there and not accepted:
            refused.add(title)
    assert refused == set(STRICTER_THAN_LLHTTP)


def test_llhttp_cases_make_no_difference_by_how_they_are_cut(usual_bench: Bench) -> None:
    for case in llhttp_cases():
        data = with_hosts(bytes.fromhex(str(case["payload_hex"])))
        usual_bench.split_everywhere(data + b"\r\n\r\n")


# ---- gunicorn

DOCUMENTED = {
    "005": "a fragment is not sent (RFC 9112, section 3.2)",
    "012": "a Content-Type behind the body (RFC 9110, section 6.5.1)",
    "025": "two Transfer-Encodings",
    "025_line": "no coding but chunked: 501 (RFC 9112, section 6.1)",
    "028": "white space before a colon, which an option allows there (RFC 9112, section 5.1)",
    "029": "two Transfer-Encodings",
    "030": "two Transfer-Encodings",
    "031": "a method that begins with a hyphen",
    "031compat": "a method in lower case, which an option allows there",
    "031compat2": "a method in lower case, which an option allows there",
    "040": "Transfer_Encoding and Content_Length, among the invalid ones there, too, by an option",
    "040_compat": "the same",
    "compat_obs_fold": "a folded line, which an option allows there (RFC 9112, section 5.2)",
    "compat_obs_fold_huge": "a folded line, which an option allows there",
    "pp_01": "PROXY protocol, which is an option there",
    "pp_02": "PROXY protocol, which is an option there",
    "pp_04": "PROXY protocol, which is an option there",
    "pp_05": "PROXY protocol, which is an option there",
    "rfc9112_smuggle_gzip_chunked_01": "no coding but chunked: 501",
    "rfc9112_smuggle_te_identity_chunked_01": "identity is no coding (RFC 9112, section 7)",
    "rfc9112_target_absolute_userinfo_01": "userinfo (RFC 9110, section 4.2.4)",
    "rfc9112_target_authority_connect_01": "CONNECT is for proxies: 501",
    "rfc9112_target_authority_ipv6_01": "CONNECT is for proxies: 501",
}
"""Valid requests that are refused here.  Besides those, HTTP/1.1 without a Host always is."""

OTHER_LIMITS = {
    "006": {"max_header_bytes": 4094},
    "007": {"max_header_bytes": 8190},
    "008": {"max_header_bytes": 8190},
    "010": {"max_header_bytes": 30},
    "011": {"max_header_count": 2},
    "012": {"max_header_bytes": 98},
    "017": {"max_header_bytes": 8190},
    "limit_header_default_01": {"max_header_bytes": 8190},
}
"""Invalid for what gunicorn limits them to; there is one limit for all of a head here."""

WITH_OPTIONS = {
    "019": "X-Forwarded-Ssl says something else than X-Forwarded-Proto",
}
"""Invalid by an option of gunicorn's only.  It comes without a Host."""


def is_refused(outcome: Outcome) -> bool:
    """Tell whether the last request was not served, and never will be."""
    if outcome.state is State.HEAD or outcome.state is State.ACTIVE:
        return True  # it is not complete: the end of the connection came there
    return outcome.refused is not None


def test_gunicorn_corpora_are_what_they_were() -> None:
    assert len(read_gunicorn("invalid")) == 81
    assert len(read_gunicorn("valid")) == 62


def test_gunicorn_invalid_requests_are_refused(bench: Bench) -> None:
    accepted = [
        case.name
        for case in read_gunicorn("invalid")
        if not is_refused(bench.exchange(case.data, **OTHER_LIMITS.get(case.name, {})))
    ]
    assert accepted == []


def test_gunicorn_invalid_requests_are_not_refused_for_their_host_alone(bench: Bench) -> None:
    accepted = {
        case.name
        for case in read_gunicorn("invalid")
        if not is_refused(bench.exchange(with_hosts(case.data), **OTHER_LIMITS.get(case.name, {})))
    }
    assert accepted == set(WITH_OPTIONS)


def test_gunicorn_valid_requests_are_accepted(bench: Bench) -> None:
    refused = set()
    for case in read_gunicorn("valid"):
        data = with_hosts(case.data)
        outcome = bench.exchange(data)
        if not outcome.completed:
            refused.add(case.name)
        else:
            assert outcome.refused is None, case.name
    assert refused == set(DOCUMENTED) | {"099"}


def test_gunicorn_099_waits_for_the_rest_of_its_body(bench: Bench) -> None:
    """It announces more than it holds: gunicorn's own test reads what there is."""
    [case] = [case for case in read_gunicorn("valid") if case.name == "099"]
    outcome = bench.exchange(case.data)
    [seen] = outcome.seen
    assert (seen.complete, outcome.written, outcome.state) == (False, b"", State.ACTIVE)


def test_gunicorn_requests_make_no_difference_by_how_they_are_cut(usual_bench: Bench) -> None:
    for case in read_gunicorn("valid") + read_gunicorn("invalid"):
        data = with_hosts(case.data)
        if len(data) <= 1000:
            usual_bench.split_everywhere(data)
            continue
        whole = usual_bench.exchange(data).summary
        for place in {*range(1, 80, 7), *range(len(data) - 50, len(data)), 4096, 8190}:
            assert usual_bench.exchange(data[:place], data[place:]).summary == whole, case.name


# ---- smuggler: how Transfer-Encoding and Content-Length can be written

FRAMING = re.compile(rb"\A(?:transfer-encoding|content-length)\Z")


def mutations(*, length: int) -> list[tuple[str, bytes]]:
    cases = read_shared("smuggler/mutations.json")
    return [
        (
            f"{case['config']}/{case['name']}",
            bytes.fromhex(case["header_template_hex"]).replace(b"__REPLACE_CL__", b"%d" % length)
            + b"\r\n",
        )
        for case in cases
    ]


def plainly_has_coding(head: bytes) -> bool:
    """Tell whether a strict reader finds a Transfer-Encoding: a line of that name, and no other."""
    lines = head.split(b"\r\n")[1:]
    return any(line.partition(b":")[0].lower() == b"transfer-encoding" for line in lines)


@pytest.mark.parametrize(
    ("body", "length"),
    [(b"1\r\nZ\r\nQ\r\n\r\n", 4), (b"0\r\n\r\nX", 6), (b"0\r\n\r\n", 5)],
    ids=["CL.TE", "TE.CL", "both end at the same place"],
)
def test_no_mutation_is_read_in_two_ways(bench: Bench, body: bytes, length: int) -> None:
    """Each has a Content-Length, and something like a Transfer-Encoding.

    Refused, or the latter is plainly another header: then the body is as long as the former says,
    for us as for a reader in front of us that goes by the grammar.
    """
    served = 0
    for name, head in mutations(length=length):
        outcome = bench.exchange(head + body + b"GET /next HTTP/1.1\r\nHost: b\r\n\r\n")
        if not outcome.seen:
            assert outcome.refused == 400, name
            continue
        served += 1
        first = outcome.seen[0]
        names = [key for key, _ in first.scope["headers"]]
        assert b"transfer-encoding" not in names, name
        assert names.count(b"content-length") == 1, name
        assert not plainly_has_coding(head), name
        assert (first.complete, first.body) == (True, body[:length]), name
        for key, value in first.scope["headers"]:
            token = rb"[!#$%&'*+\-.^_`|~0-9a-z]+"
            assert re.fullmatch(token, key), name
            assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value), name
    assert len(mutations(length=length)) == 1703
    assert 0 < served < 200


def test_how_mutations_are_cut_makes_no_difference(usual_bench: Bench) -> None:
    """At each place would be 600,000 connections: byte by byte, and around what was mutated."""
    for name, head in mutations(length=5):
        data = head + b"0\r\n\r\n"
        whole = usual_bench.exchange(data).summary
        place = max(head.lower().find(b"ransfer"), 1)
        for cut in (place - 1, place, place + 16, place + 20, len(head) - 2, len(head) + 1):
            if 0 < cut < len(data):
                assert usual_bench.exchange(data[:cut], data[cut:]).summary == whole, name
