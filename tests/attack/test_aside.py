"""Jobs beside an audit: in order, few at a time, and no failure is lost."""

from __future__ import annotations

import threading

import pytest

from attack.audit.aside import AHEAD, Aside


def test_jobs_run_in_the_order_in_which_they_were_begun() -> None:
    found: list[int] = []
    with Aside() as aside:
        for number in range(20):
            aside.begin(found.append, number)
    assert found == list(range(20))


def test_no_more_than_a_few_wait() -> None:
    """Each holds the scores of an attack: one more is taken only when the first one is done."""
    gate, begun = threading.Event(), []

    def begin_all(aside: Aside) -> None:
        for number in range(AHEAD + 3):
            aside.begin(gate.wait)
            begun.append(number)

    with Aside() as aside:
        thread = threading.Thread(target=begin_all, args=(aside,))
        thread.start()
        thread.join(0.5)
        assert len(begun) == AHEAD + 1
        gate.set()
        thread.join()


def test_what_a_job_raises_is_raised() -> None:
    def fail() -> None:
        raise ValueError("no outputs")

    with pytest.raises(ValueError, match="no outputs"), Aside() as aside:
        aside.begin(fail)


def test_an_error_beside_the_jobs_is_the_one_that_is_told() -> None:
    gate, ran = threading.Event(), []

    def fail_beside() -> None:
        with Aside() as aside:
            aside.begin(gate.wait)
            aside.begin(ran.append, 1)
            threading.Timer(0.2, gate.set).start()
            raise KeyError("first")

    with pytest.raises(KeyError):
        fail_beside()
    assert not ran, "what had not begun is dropped"
