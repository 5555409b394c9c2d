"""The distributed attacker: the same answer as in one process, whatever dies on the way, on a real Ray with two workers."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attack import XGBoostAttack, outputs_table
from attack.attacks.spool import Spool, prepared
from attack.attacks.xgboost import FittedXGBoost
from attack.outputs.measured import identified
from attack.outputs.table import rows_where
from orchestrator.engine.attacker import trainer, worker
from orchestrator.engine.attacker.fit import fit_all_distributed, fit_distributed, gpus_for
from orchestrator.engine.attacker.path import choose_path
from orchestrator.engine.attacker.scores import score_distributed
from orchestrator.engine.attacker.trainer import CandidateTrainer, Part, Trained, Wanted
from orchestrator.engine.attacker.worker import WorkerPlan

from .build import area, pool
from .test_fragments import ATTACK, written

TWO = {"CPU": 0.5}


def test_the_path_follows_the_threshold() -> None:
    assert choose_path(99, 100) == "in_process"
    assert choose_path(100, 100) == "distributed"


def same(a: FittedXGBoost, b: FittedXGBoost) -> bool:
    return bytes(a.booster.save_raw("json")) == bytes(b.booster.save_raw("json"))


@dataclass(frozen=True)
class Noted(XGBoostAttack):
    """Writes a line whenever a worker begins to train it."""

    journal: str = ""

    def parameters(self) -> dict[str, Any]:
        with Path(self.journal).open("a") as file:
            file.write(f"{self.rounds} {os.getpid()}\n")
        return super().parameters()


def kill_in_the_middle(journal: Path, rounds: int, killed: list[int]) -> None:
    """Sends SIGKILL to the first worker that trains the attack with so many rounds, once it is well into it."""
    deadline = time.monotonic() + 200
    while not killed and time.monotonic() < deadline:
        lines = journal.read_text().split("\n")[:-1] if journal.exists() else []
        for line in lines:
            if line.startswith(f"{rounds} "):
                time.sleep(0.3)
                os.kill(int(line.split()[1]), signal.SIGKILL)
                killed.append(int(line.split()[1]))
                return
        time.sleep(0.02)


def test_trials_and_workers_that_begin_again_lose_and_repeat_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody polls: every call waits, and is answered when there is an answer."""
    monkeypatch.setattr(trainer, "assemble", lambda attack, classes, trained: trained.model)
    other = XGBoostAttack(max_depth=2)

    async def still_waits(task: asyncio.Task[Any]) -> bool:
        await asyncio.sleep(0.01)
        return not task.done()

    async def scenario() -> None:
        desk = CandidateTrainer(label_classes=4)
        dead = asyncio.create_task(desk.next())  # of a group of workers that dies
        assert await still_waits(dead)
        first = asyncio.create_task(desk.train(0, ATTACK))
        second = asyncio.create_task(desk.train(1, other))
        assert await dead == Wanted(0, ATTACK)
        assert await desk.next() == Wanted(0, ATTACK)  # the next group trains it again
        assert await desk.next(Trained(0, b"trees", ())) == Wanted(1, other)
        assert await first == b"trees"
        assert await desk.train(0, ATTACK) == b"trees"  # a trial that begins again trains nothing again
        assert await still_waits(second)
        idle = asyncio.create_task(desk.next(Trained(1, b"more", ())))
        assert await second == b"more"
        assert await still_waits(idle)  # nothing is wanted
        again = asyncio.create_task(desk.next(Trained(0, b"other trees", ())))
        assert await still_waits(again)
        assert await desk.train(0, ATTACK) == b"trees"  # the first answer stays
        idle.cancel(), again.cancel()

    asyncio.run(scenario())


class InThisProcess:
    """A `CandidateTrainer` as its handle looks to workers and trials, without Ray: its calls answer with futures."""

    def __init__(self, label_classes: int):
        self._desk = CandidateTrainer(label_classes)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.train, self.next = (SimpleNamespace(remote=self._call(m)) for m in (self._desk.train, self._desk.next))
        self._waiting: list[Any] = []
        self._ended = False

    def _call(self, method: Any) -> Any:
        def remote(*given: Any) -> Any:
            self._waiting.append(asyncio.run_coroutine_threadsafe(method(*given), self._loop))
            if self._ended:
                self._waiting[-1].cancel()
            return self._waiting[-1]

        return remote

    def end(self) -> None:
        """As where the driver kills the actor: whoever waits for it is told that it died."""
        self._ended = True
        for future in list(self._waiting):
            future.cancel()


def test_a_worker_trains_what_is_wanted_until_the_driver_ends_it(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import RayActorError

    def get(future: Any) -> Any:
        try:
            return future.result()
        except CancelledError:
            raise RayActorError from None

    monkeypatch.setattr(worker.ray, "get", get)
    handle = InThisProcess(label_classes=4)
    plan = WorkerPlan("one_hot", 4, 4, handle, False, 1, None, None, 1.0)
    spool = Spool(tmp_path, 4, 4, "one_hot")
    spool.fill(iter([prepared(rows_where(table, role=worker.ROLES, fold=("train", "validation")), ())]))
    training = spool.matrix("train", False, None, 1)
    validation = spool.matrix("validation", False, training, 1)
    labels = spool.targets("validation").astype(bool)

    def part(scores: np.ndarray) -> Part:
        return Part(labels, scores[: len(labels)], spool.lowest, spool.highest, False, 1.0)

    thread = threading.Thread(target=worker.serve, args=(plan, training, validation, part))
    thread.start()
    attacks = [ATTACK, XGBoostAttack(max_depth=2, rounds=5)]
    fitted = [get(handle.train.remote(number, attack)) for number, attack in enumerate(attacks)]
    assert thread.is_alive()
    handle.end()
    thread.join(timeout=30)
    assert not thread.is_alive()
    for found, attack in zip(fitted, attacks, strict=True):
        alone = attack.fit(table)
        assert found.attack == attack
        assert abs(found.validation_f1 - alone.validation_f1) < 0.02
        assert abs(area(table, found.score(table), "original") - area(table, alone.score(table), "original")) < 0.01


def test_a_candidate_without_a_threshold_is_told_to_whoever_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise ValueError("role: no 'original' rows in fold 'validation'")

    monkeypatch.setattr(trainer, "assemble", refuse)

    async def scenario() -> None:
        desk = CandidateTrainer(label_classes=4)
        asked = asyncio.create_task(desk.train(0, ATTACK))
        await desk.next()
        idle = asyncio.create_task(desk.next(Trained(0, b"trees", ())))
        for _ in range(2):
            with pytest.raises(ValueError, match="no 'original' rows"):
                await desk.train(0, ATTACK)
        with pytest.raises(ValueError, match="no 'original' rows"):
            await asked
        idle.cancel()

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_distributed_and_in_process_agree_from_disk_or_s3_paged_or_not_also_where_a_worker_dies(
    table: pa.Table, tmp_path: Path, ray_session: None, s3: Any
) -> None:
    paths = written(table, tmp_path, 1000)
    journal, killed = tmp_path / "journal", []
    first = Noted(max_depth=4, eta=0.1, rounds=60, journal=str(journal))
    long = Noted(max_depth=6, eta=0.01, rounds=500, early_stopping=500, journal=str(journal))
    killer = threading.Thread(target=kill_in_the_middle, args=(journal, 500, killed))
    killer.start()
    told: list[int] = []
    died = fit_all_distributed(
        paths,
        [first, long],
        num_workers=2,
        resources_per_worker=TWO,
        on_fitted=lambda number, fitted: told.append(number),
    )
    killer.join()
    assert len(killed) == 1
    assert told == [0, 1]
    begun = [line.split()[0] for line in journal.read_text().splitlines()]
    assert begun.count("60") == 2  # what was fitted before the worker died is not fitted again
    assert begun.count("500") == 4
    # The second time nothing dies, the files lie on S3, and everything is paged from disk.
    remote, store = s3(paths, "training")
    calm = fit_all_distributed(
        remote,
        [first, long],
        num_workers=2,
        resources_per_worker=TWO,
        memory_per_worker=1.0,
        filesystem=store,
        max_failures=0,  # so that a fault of ours that another attempt would cover is seen
    )
    for one, other in zip(died, calm, strict=True):
        assert same(one, other)
        assert (one.threshold, one.validation_f1) == (other.threshold, other.validation_f1)
        assert one.notes == []
        assert other.notes == ["2 of 2 workers paged their data from disk"]
    alone = ATTACK.fit(table)
    areas = [area(table, fitted.score(table), "original") for fitted in (died[0], alone)]
    assert areas[1] > 0.65
    assert abs(areas[0] - areas[1]) < 0.005
    assert abs(died[0].validation_f1 - alone.validation_f1) < 0.02

    test = rows_where(table, fold="test")
    models = identified(test)[0]
    blocks = list(score_distributed(paths, alone, models))
    assert sum(len(block.model) for block in blocks) == len(test)
    found = {(models[model][3], sample): score for block in blocks for model, sample, score in zip(*block, strict=True)}
    assert len(found) == len(test)
    keys = zip(test["model_id"].to_pylist(), test["sample_id"].to_pylist(), strict=True)
    assert [found[key] for key in keys] == list(alone.score(test))
    assert list(score_distributed(paths, alone, [])) == []


def test_gpus_train_where_each_worker_has_one_and_xgboost_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    import xgboost

    from attack.attacks.device import best_device

    def here(gpus: int, built: bool) -> None:
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": float(gpus)})
        monkeypatch.setattr(xgboost, "build_info", lambda: {"USE_CUDA": built})
        monkeypatch.setattr("attack.attacks.device.gpu_count", lambda: gpus)

    for gpus, built, everyone, one in ((2, True, True, "cuda"), (1, True, False, "cuda"), (2, False, False, "cpu")):
        here(gpus, built)
        assert gpus_for(2) is everyone
        assert best_device() == one
    here(0, True)
    assert best_device() == "cpu"


def test_what_cannot_run_is_refused_at_once(tmp_path: Path, ray_session: None) -> None:
    import ray

    cpus = ray.cluster_resources()["CPU"]
    paths = written(pool(models=4, samples=10), tmp_path, 1000)
    with pytest.raises(ValueError, match="leave 0 of"):
        fit_distributed(paths, ATTACK, num_workers=2, resources_per_worker={"CPU": cpus / 2})


@pytest.mark.slow
def test_a_workers_error_is_told(tmp_path: Path, ray_session: None) -> None:
    paths = written(pool(models=4, samples=10), tmp_path, 1000)
    broken = outputs_table("m", "original", "", "{}", "train", np.arange(3), np.zeros(3, int), np.full((3, 4), np.nan))
    pq.write_table(broken, tmp_path / "broken.parquet")
    with pytest.raises(RuntimeError, match="not finite"):
        fit_distributed(
            [*paths, tmp_path / "broken.parquet"], ATTACK, num_workers=2, resources_per_worker=TWO, max_failures=0
        )
