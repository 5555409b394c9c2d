"""The distributed attacker: the same answer as in one process, whatever dies on the way, on a real Ray with two workers."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
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
from attack.outputs.fragments import Fragment, deal, fragments, label_classes_of, models_of, pieces, softmax_width
from attack.outputs.measured import identified
from attack.outputs.table import rows_where
from orchestrator.engine.attacker import trainer, worker
from orchestrator.engine.attacker.fit import choose_path, fit_all_distributed, fit_distributed, gpus_for
from orchestrator.engine.attacker.scores import score_distributed
from orchestrator.engine.attacker.trainer import CandidateTrainer, Part, Trained, Wanted
from orchestrator.engine.attacker.worker import WorkerPlan

from .build import area, pool

ATTACK = XGBoostAttack(max_depth=4, eta=0.1, rounds=60)
TWO = {"CPU": 0.5}


def written(table: pa.Table, folder: Path, rows: int) -> list[Path]:
    paths = []
    for role in ("original", "retrained"):
        path = folder / f"{role}.parquet"
        pq.write_table(rows_where(table, role=role), path, row_group_size=rows)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return pool(models=20, samples=300, shift=1.0, folds=(0.5, 0.7), difficulty=0.5, references=False)


def test_the_path_follows_the_threshold() -> None:
    assert choose_path(99, 100) == "in_process"
    assert choose_path(100, 100) == "distributed"


def test_fragments_hold_every_wanted_row_once(table: pa.Table, tmp_path: Path) -> None:
    paths = [str(p) for p in written(table, tmp_path, 700)]
    wanted = rows_where(table, fold=("train", "validation"))
    parts = fragments(paths, roles=("original", "retrained"), folds=("train", "validation"), least=50)
    assert len(parts) >= 50
    read = pa.concat_tables(
        rows_where(p, fold=("train", "validation")) for part in parts for p in pieces(part, None, None)
    )
    key = [("model_id", "ascending"), ("sample_id", "ascending")]
    assert read.sort_by(key).equals(wanted.sort_by(key))
    shards = deal(parts, 3)
    assert sorted((p for shard in shards for p in shard), key=repr) == sorted(parts, key=repr)
    assert all(isinstance(p, Fragment) for p in parts)
    assert label_classes_of(paths) == 4
    assert softmax_width(paths) == 4
    assert softmax_width(paths, (0, 2)) == 2


def test_models_are_read_from_footers_or_from_their_columns(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["role", "model_id", "fold"]
    expected = table.select(names).group_by(names).aggregate([]).sort_by([(name, "ascending") for name in names])
    assert len(expected) == 40
    mixed = written(table, tmp_path, 700)
    assert models_of([str(p) for p in mixed]).equals(expected.select(names))
    assert len(models_of([str(p) for p in mixed], roles=("original",))) == 20
    alone = written(table, tmp_path, 300)  # a row group a model
    monkeypatch.setattr("attack.outputs.fragments._read_triples", lambda *_: pytest.fail("the footers say it all"))
    assert models_of([str(p) for p in alone]).equals(expected.select(names))
    pq.write_table(table.drop_columns(["model_id"]), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="model_id: the column is missing"):
        models_of([str(tmp_path / "x.parquet")])


def test_test_fold_row_groups_are_not_even_opened(table: pa.Table, tmp_path: Path) -> None:
    paths = [str(p) for p in written(table, tmp_path, 300)]
    assert len(fragments(paths)) == 40
    assert len(fragments(paths, roles=("original",), folds=("train", "validation"))) == 14
    pq.write_table(table.drop_columns(["fold"]), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="fold: the column is missing"):
        fragments([str(tmp_path / "x.parquet")], folds=("train",))


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 server on loopback, as a function that uploads files into a bucket and returns their names and file system."""
    server_module = pytest.importorskip("moto.server")
    import boto3
    from pyarrow.fs import S3FileSystem

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **keys)

    def upload(paths: list[Path], bucket: str) -> tuple[list[str], Any]:
        client.create_bucket(Bucket=bucket)
        for path in paths:
            client.upload_file(str(path), bucket, path.name)
        filesystem = S3FileSystem(
            access_key="test", secret_key="test", endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1"
        )
        return [f"{bucket}/{path.name}" for path in paths], filesystem

    yield upload
    server.stop()


def test_fragments_are_read_from_s3_as_from_disk(table: pa.Table, tmp_path: Path, s3: Any) -> None:
    local = written(table, tmp_path, 700)
    remote, store = s3(local, "fragments")
    assert label_classes_of(remote, store) == softmax_width(remote, (), store) == 4
    for mine, theirs in zip(fragments([str(p) for p in local]), fragments(remote, store), strict=True):
        here, there = (pa.concat_tables(pieces(part, fs, None)) for part, fs in ((mine, None), (theirs, store)))
        assert here.equals(there)


def spooled(table: pa.Table, folder: Path, label: str = "one_hot") -> Spool:
    spool = Spool(folder, 4, 4, label)
    rows = rows_where(table, fold=("train", "validation"), role=("original", "retrained"))
    spool.fill(iter([prepared(rows.slice(start, 999), ()) for start in range(0, len(rows), 999)]))
    return spool


def test_a_spool_replays_the_features_that_one_process_builds(table: pa.Table, tmp_path: Path) -> None:
    spool = spooled(table, tmp_path)
    train = rows_where(table, fold="train")
    features = np.concatenate([f for f, _ in spool.batches("train")])
    assert np.array_equal(features, ATTACK.features(train, 4))
    assert np.array_equal(spool.targets("train"), np.asarray(train["role"].to_pylist()) == "original")
    assert np.array_equal(np.concatenate([f for f, _ in spool.batches("train")]), features)
    assert np.array_equal(spool.lowest, features[:, :4].min(axis=0))


@pytest.mark.parametrize("label", ["one_hot", "categorical"])
def test_paging_from_disk_changes_nothing(table: pa.Table, tmp_path: Path, label: str) -> None:
    import xgboost

    spool = spooled(table, tmp_path, label)
    scores = []
    for external in (False, True):
        train = spool.matrix("train", external, None, 1)
        validation = spool.matrix("validation", external, train, 1)
        booster = xgboost.train({**ATTACK.parameters(), "max_bin": 256, "nthread": 1}, train, 10)
        scores.append(booster.predict(validation))
    assert np.array_equal(scores[0], scores[1])
    assert len(np.unique(scores[0])) > 10


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


def test_a_worker_without_rows_of_a_fold_has_an_empty_matrix(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 4, 4, "one_hot")
    spool.fill(iter([]))
    [(features, targets)] = spool.batches("validation")
    assert features.shape == (0, 8)
    assert targets.shape == (0,)
    assert spool.bytes_in_memory() == 0


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


def test_what_cannot_run_is_refused_at_once_and_a_workers_error_is_told(tmp_path: Path, ray_session: None) -> None:
    import ray

    cpus = ray.cluster_resources()["CPU"]
    paths = written(pool(models=4, samples=10), tmp_path, 1000)
    with pytest.raises(ValueError, match="leave 0 of"):
        fit_distributed(paths, ATTACK, num_workers=2, resources_per_worker={"CPU": cpus / 2})
    broken = outputs_table("m", "original", "", "{}", "train", np.arange(3), np.zeros(3, int), np.full((3, 4), np.nan))
    pq.write_table(broken, tmp_path / "broken.parquet")
    with pytest.raises(RuntimeError, match="not finite"):
        fit_distributed(
            [*paths, tmp_path / "broken.parquet"], ATTACK, num_workers=2, resources_per_worker=TWO, max_failures=0
        )
