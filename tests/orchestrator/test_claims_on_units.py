"""Claims: one worker makes an object, others wait or do something else; what a dead worker held is free at once."""

from __future__ import annotations

import copy
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from orchestrator.base.values import digest
from orchestrator.engine.base import Told
from orchestrator.engine.inline import InlineEngine
from orchestrator.plan.data import ExperimentData, load_data
from orchestrator.plan.specs import PlainSpec
from orchestrator.plan.units import Outcome, Unit
from orchestrator.recipe.recipe import check_recipe
from orchestrator.store import LocalStore, Store
from orchestrator.store import claims as claims_module
from orchestrator.work.context import Context
from orchestrator.work.execute import Held, execute
from orchestrator.work.kinds import KINDS

KEY = digest("claimed")


def test_one_of_several_gets_the_claim_and_the_next_one_after_it(store: Store) -> None:
    first = store.claim(KEY)
    assert first is not None
    with first:
        assert store.claim(KEY) is None
        assert store.claim(digest("another")) is not None
    again = store.claim(KEY)
    assert again is not None
    with again:
        pass
    assert store.claim_board().read(KEY) is None, "a claim that was given back is gone"


def _hold(root: str, ready: Any) -> None:
    claim = LocalStore(root).claim(KEY)
    ready.put(claim is not None)
    time.sleep(600)


@pytest.mark.medium
def test_what_a_killed_worker_held_is_free_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    worker = context.Process(target=_hold, args=(str(tmp_path), ready))
    worker.start()
    assert ready.get(timeout=60)
    store = LocalStore(tmp_path)
    assert store.claim(KEY) is None
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    claim = store.claim(KEY)
    assert claim is not None
    with claim:
        pass


def test_a_claim_made_meanwhile_is_not_removed_with_the_dead_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that find a dead claim at the same moment: the slower one must not remove the quicker one's."""
    board = LocalStore(tmp_path).claim_board()
    assert board.create(KEY, "dead")
    read = type(board).read

    def slow(self: Any, key: str) -> str | None:
        found = read(self, key)
        monkeypatch.setattr(type(board), "read", read)
        self.delete(key, "dead")  # the quicker one
        assert self.create(key, "quick")
        return found

    monkeypatch.setattr(type(board), "read", slow)
    board.delete(KEY, "dead")
    assert board.read(KEY) == "quick"
    board.delete(KEY, "quick")
    assert board.read(KEY) is None
    assert not list((tmp_path / "claims").iterdir())


def test_a_holder_on_another_machine_is_believed_while_its_beat_moves(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No clock but the observer's own monotonic one counts."""
    now = [1000.0]
    monkeypatch.setattr(claims_module.time, "monotonic", lambda: now[0])
    board = store.claim_board()

    def beat(number: int) -> str:
        holder = {"machine": "another", "pid": 1, "started": "1"}
        return json.dumps({"claim": "x", "beat": number, "holder": holder})

    assert board.create(KEY, beat(0))
    for number in range(1, 6):  # far longer than a claim lasts without a beat
        assert store.claim(KEY) is None
        now[0] += claims_module.ABANDONED_SECONDS - 1
        board.replace(KEY, beat(number))
    assert store.claim(KEY) is None
    now[0] += claims_module.ABANDONED_SECONDS + 1
    claim = store.claim(KEY)
    assert claim is not None
    with claim:
        assert "another" not in (board.read(KEY) or "")


def test_what_living_workers_hold_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    board, another = store.claim_board(), digest("another machine's")

    def beat(number: int) -> str:
        return json.dumps({"claim": "x", "beat": number, "holder": {"machine": "another", "pid": 1, "started": "1"}})

    dead = {"machine": claims_module.process_table(), "pid": 2**22 + 1, "started": "1"}
    board.create(digest("dead"), json.dumps({"claim": "y", "beat": 0, "holder": dead}))
    board.create(digest("damaged"), "…")
    assert store.held() == []
    board.create(another, beat(0))
    moves = [lambda: None, lambda: board.replace(another, beat(1))]
    monkeypatch.setattr(claims_module.time, "sleep", lambda seconds: moves.pop(0)())
    assert store.held() == [], "its beat does not move"
    assert store.held() == [another]
    claim = store.claim(KEY)
    assert claim is not None
    with claim:
        moves.append(lambda: None)
        assert store.held() == [KEY]


def test_a_claim_that_cannot_be_read_holds_nobody_up(store: Store) -> None:
    assert store.claim_board().create(KEY, '{"claim": "tor')
    claim = store.claim(KEY)
    assert claim is not None
    with claim:
        pass


def test_the_beat_moves_and_stops_when_the_claim_was_taken_over(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims_module, "BEAT_SECONDS", 0.3)
    claim = store.claim(KEY)
    assert claim is not None
    board = store.claim_board()
    deadline = time.monotonic() + 20
    while '"beat": 0' in (board.read(KEY) or "") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert '"beat": 0' not in (board.read(KEY) or '"beat": 0')
    board.replace(KEY, "somebody else's")
    claim._thread.join(timeout=20)
    assert not claim._thread.is_alive()
    with claim:
        pass
    assert board.read(KEY) == "somebody else's", "another's claim is not removed"


def test_a_hiccup_of_the_storage_neither_stops_the_beat_nor_frees_the_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system that fails to read for a moment: the holder goes on, and nobody else begins."""
    monkeypatch.setattr(claims_module, "BEAT_SECONDS", 0.1)
    store = LocalStore(tmp_path / "store")
    claim = store.claim(KEY)
    assert claim is not None
    with claim:
        path = next(path for path in (tmp_path / "store" / "claims").iterdir() if path.name == KEY)
        real, failing = Path.read_text, [True]

        def read_text(self: Path, *args: Any, **more: Any) -> str:
            if failing[0] and self == path:
                raise OSError(errno.ESTALE, "Stale file handle")
            return real(self, *args, **more)

        monkeypatch.setattr(Path, "read_text", read_text)
        assert LocalStore(tmp_path / "store").claim(KEY) is None
        time.sleep(0.5)
        failing[0] = False
        before = path.read_text()
        deadline = time.monotonic() + 20
        while path.read_text() == before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert path.read_text() != before, "the beat goes on"


@pytest.fixture
def data(tiny: dict[str, Any], tmp_path: Path) -> ExperimentData:
    return load_data(check_recipe(tiny), LocalStore(tmp_path / "store"))


def _units(count: int) -> list[Unit]:
    return [Unit(PlainSpec("sleep", {"seconds": 0.0, "i": i}), f"unit-{i}") for i in range(count)]


def test_a_unit_that_another_makes_is_left_for_later_and_then_reused(data: ExperimentData, tmp_path: Path) -> None:
    context = Context(LocalStore(tmp_path / "store"), data)
    other = LocalStore(tmp_path / "store")
    units = _units(3)
    claim = other.claim(units[0].key)
    assert claim is not None
    with pytest.raises(Held):
        execute(units[0], context, wait=False)
    outcomes: list[Outcome] = []

    def finish() -> None:
        time.sleep(0.2)
        with claim, other.attempt(units[0].key) as attempt:
            attempt.commit({"kind": "sleep"})

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 2:
            thread.start()

    thread = threading.Thread(target=finish)
    InlineEngine(context).run(units, Told(tell))
    thread.join()
    assert [outcome.key for outcome in outcomes] == [units[1].key, units[2].key, units[0].key]
    assert [outcome.status for outcome in outcomes] == ["done", "done", "reused"]


@pytest.mark.medium
def test_two_units_that_need_the_same_parent_make_it_once(
    data: ExperimentData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    sleep = KINDS["sleep"]

    def count(unit: Unit, context: Context, attempt: Any) -> dict[str, Any]:
        made.append(unit.name)
        time.sleep(0.1)
        return sleep(unit, context, attempt)

    monkeypatch.setitem(KINDS, "sleep", count)
    parent = Unit(PlainSpec("sleep", {"seconds": 0.0, "i": "parent"}), "parent")
    children = [Unit(PlainSpec("sleep", {"seconds": 0.0, "i": i}), f"child-{i}", needs=(parent,)) for i in range(4)]
    contexts = [Context(LocalStore(tmp_path / "store"), data) for _ in children]
    threads = [threading.Thread(target=execute, args=pair) for pair in zip(children, contexts, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == ["child-0", "child-1", "child-2", "child-3", "parent"]


def test_what_a_failed_unit_held_is_free_for_the_next(
    data: ExperimentData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that runs out of memory must not keep it. A live traceback would hold its tensors."""
    held: list[weakref.ref[torch.Tensor]] = []
    kept: list[bool] = []

    def out_of_memory(unit: Unit, context: Context, attempt: Any) -> dict[str, Any]:
        kept.extend(each() is not None for each in held)
        on_the_device = torch.zeros(3)
        held.append(weakref.ref(on_the_device))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setitem(KINDS, "sleep", out_of_memory)
    units = _units(3)
    outcomes: list[Outcome] = []

    InlineEngine(Context(LocalStore(tmp_path / "store"), data)).run(units, Told(outcomes.append))
    assert [outcome.failed for outcome in outcomes] == [True] * 3
    assert outcomes[0].error == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert kept == [False] * 3


def test_two_engines_at_the_same_time_make_each_unit_once(data: ExperimentData, tmp_path: Path) -> None:
    units = [Unit(PlainSpec("sleep", {"seconds": 0.05, "i": i}), f"unit-{i}") for i in range(8)]
    told: list[list[Outcome]] = [[], []]
    engines = [InlineEngine(Context(LocalStore(tmp_path / "store"), data)) for _ in told]
    threads = [
        threading.Thread(target=engine.run, args=(units, Told(outcomes.append)))
        for engine, outcomes in zip(engines, told, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = [[outcome.key for outcome in outcomes if outcome.status == "done"] for outcomes in told]
    assert all(made), "each made some of them"
    assert sorted(made[0] + made[1]) == sorted(unit.key for unit in units)
    assert all({outcome.key for outcome in outcomes} == {unit.key for unit in units} for outcomes in told)
    assert not list((tmp_path / "store" / "claims").iterdir()), "claims are given back"


@pytest.mark.slow
def test_two_experiments_at_the_same_time_train_shared_models_once(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["training"] |= {"epochs": 12, "batch_size": 32}
    tiny["tracking"] = {"uri": None}
    processes = []
    for name, methods in (("one", [{"name": "eu_k", "k": 1}]), ("two", [{"name": "cf_k", "k": 1}])):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump({**copy.deepcopy(tiny), "name": name, "methods": methods}))
        command = [sys.executable, "-m", "orchestrator", "run", str(recipe), "--output", str(tmp_path / name)]
        command += ["--store", str(tmp_path / "store"), "--address", "inline", "--quiet"]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=400)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    made: list[str] = []
    for name in ("one", "two"):
        events = [json.loads(line) for line in (tmp_path / name / "events.jsonl").read_text().splitlines()]
        done = [e for e in events if e["event"] == "unit" and e["status"] == "done"]
        made += [event["unit"] for event in done]
        assert sum(event["stage"] == "train" for event in done) > 0, "each trained some of them"
    assert len(made) == len(set(made)), "a unit was made twice"
    assert not list((tmp_path / "store" / "claims").iterdir()), "claims are given back"
