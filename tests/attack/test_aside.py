"""Jobs beside an audit: in order, few at a time, and no failure is lost."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from attack.audit import audit as audits
from attack.audit.aside import AHEAD, Aside
from attack.audit.audit import audit
from tests.attack.build import pool

LONG = 30.0  # seconds: nothing waits for so long unless something is wrong


def test_jobs_run_in_the_order_in_which_they_were_begun() -> None:
    found: list[int] = []
    with Aside() as aside:
        for number in range(20):
            aside.begin(partial(found.append, number))
    assert found == list(range(20))


def test_no_more_than_a_few_wait() -> None:
    """Each holds the scores of an attack: one more is taken only when the first one is done."""
    gate, last, begun = threading.Event(), threading.Event(), []

    def begin_all(aside: Aside) -> None:
        for number in range(AHEAD + 3):
            aside.begin(partial(gate.wait, LONG))
            begun.append(number)
            if number == AHEAD:
                last.set()

    with Aside() as aside:
        thread = threading.Thread(target=begin_all, args=(aside,))
        thread.start()
        assert last.wait(LONG)
        thread.join(0.3)
        reached = len(begun)
        gate.set()
        thread.join()
    assert reached == AHEAD + 1
    assert len(begun) == AHEAD + 3


@pytest.mark.parametrize("more", [0, 5])
def test_what_a_job_raises_is_raised(more: int) -> None:
    def fail() -> None:
        raise ValueError("no outputs")

    def begin() -> None:
        with Aside() as aside:
            aside.begin(fail)
            for _ in range(more):
                aside.begin(int)

    with pytest.raises(ValueError, match="no outputs"):
        begin()


def test_an_error_beside_the_jobs_waits_for_none() -> None:
    """A user who interrupts a large audit would wait for minutes."""
    gate, began = threading.Event(), threading.Event()
    ran: list[int] = []

    def hold() -> None:
        began.set()
        gate.wait(LONG)

    def fail_beside() -> None:
        with Aside() as aside:
            aside.begin(hold)
            aside.begin(partial(ran.append, 1))
            assert began.wait(LONG)
            raise KeyError("first")

    with pytest.raises(KeyError):
        fail_beside()
    assert not gate.is_set(), "the first job is still at work"
    gate.set()
    assert not ran, "what had not begun is dropped"


def test_an_audit_whose_judging_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("auc: cannot be measured")

    monkeypatch.setattr(audits, "judged", fail)
    with pytest.raises(ValueError, match="auc: cannot be measured"):
        audit(pool(models=8, samples=10, folds=(0.5, 0.75)), ["lira"])
