"""What a worker is told, as it crosses into another interpreter: text, and only ASCII."""

from hypothesis import given
from hypothesis import strategies as st

from subserve.assignment import Assignment
from subserve.identity import WorkerInfo
from subserve.options import Config

any_text = st.text(st.characters())  # a path that is not UTF-8 has surrogates in it
descriptors = st.integers(0, 2**31 - 1)


@given(
    st.builds(
        Assignment,
        worker=st.builds(WorkerInfo, *[st.integers(0, 10**6)] * 3),
        config=st.builds(Config, app=any_text, bind=st.lists(any_text).map(tuple)),
        control_fd=descriptors,
        connections_fd=descriptors,
        scoreboard_fd=descriptors,
        scratch=any_text,
        sys_path=st.lists(any_text),
    )
)
def test_it_comes_back(assignment: Assignment) -> None:
    text = assignment.to_json()
    assert text.isascii()
    assert Assignment.from_json(text) == assignment
