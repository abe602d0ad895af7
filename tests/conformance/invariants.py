"""What holds of a connection, whatever its client has sent to an app that echoes."""

from tests.unit.h1_harness import Outcome

REFUSALS = {400, 413, 414, 417, 431, 501, 505}


def check_one_response_each(outcome: Outcome) -> None:
    """Fail unless each request that came whole has its response, and what is none at most one."""
    final = [response for response in outcome.responses if response.status >= 200]
    answered = [response for response in final if response.status == 200]
    assert len(answered) == len(outcome.completed)
    assert len(final) - len(answered) <= 1, "one refusal at most"
    if len(final) > len(answered):
        assert final[-1].status in REFUSALS
        assert final[-1].header(b"connection") == b"close"
        assert outcome.closed
    for response, seen in zip(answered, outcome.completed, strict=True):
        assert response.body == (seen.body if seen.scope["method"] != "HEAD" else b"")
    for response in final[:-1]:
        assert response.header(b"connection") != b"close", "nothing follows the last response"
    if final and final[-1].header(b"connection") == b"close":
        assert outcome.closed
