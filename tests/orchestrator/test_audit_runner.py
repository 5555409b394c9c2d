"""Where an audit runs its shadow attack: in this process, or on Ray, and where workers spool."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import orchestrator.engine.attacker.runner
import orchestrator.engine.attacker.scores
import orchestrator.engine.ray.session
from attack import XGBoostAttack, outputs_table
from attack.audit.check import Examination
from attack.audit.runner import Coded, InProcess, Runner, by_model
from attack.outputs.fragments import fragments
from attack.outputs.sampling import drawn
from attack.outputs.sources import ParquetFiles
from attack.outputs.table import rows_where
from orchestrator.commands import arguments, audit
from orchestrator.commands.cli import main
from orchestrator.engine.attacker.fit import gpus_for
from orchestrator.engine.attacker.runner import OnRay
from tests.attack.build import pool, shuffled


class Session:
    """A cluster of two cores that nothing is sent to."""

    resources: ClassVar[dict[str, float]] = {"CPU": 2.0}

    def __init__(self, address: str | None) -> None: ...

    def node_resources(self) -> list[dict[str, float]]:
        return [self.resources]

    def close(self) -> None: ...


def outputs(path: Path, classes: int) -> ParquetFiles:
    """Writes 40 rows."""
    logits, labels = np.random.default_rng(0).normal(size=(20, classes)), np.arange(20) % classes
    tables = [
        outputs_table(role, role, "", "{}", "test", np.arange(20), labels, logits) for role in ("original", "retrained")
    ]
    pq.write_table(pa.concat_tables(tables), path)
    return ParquetFiles((str(path),))


@contextlib.contextmanager
def chosen(source: ParquetFiles, folder: Path, *options: str) -> Iterator[tuple[Runner, list[str]]]:
    """Yields what the command runs the shadow attack with."""
    survey = Examination.of(source).survey
    assert survey is not None
    parser = argparse.ArgumentParser()
    arguments.audit(parser)
    args = parser.parse_args([source.paths[0], "--output", str(folder / "out"), *options])
    with audit._runner(args, source, ["xgboost"], survey.feature_values()) as found:
        yield found


@pytest.mark.parametrize(
    ("classes", "limit", "on_ray"), [(10, 41, False), (10, 40, True), (100, 400, True), (100, 401, False)]
)
def test_what_goes_to_ray_is_decided_by_values_not_by_rows_alone(
    classes: int, limit: int, on_ray: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 100 classes hold ten times what those of 10 do: 40 of them are as many as 400."""
    monkeypatch.setattr(orchestrator.engine.ray.session, "RaySession", Session)
    source = outputs(tmp_path / "outputs.parquet", classes)
    with chosen(source, tmp_path, "--distributed-rows", str(limit)) as (runner, notes):
        assert isinstance(runner, orchestrator.engine.attacker.runner.OnRay) is on_ray
        assert bool(notes) is on_ray


@pytest.mark.parametrize("given", [True, False])
def test_workers_spool_where_they_are_told_to(given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absolute path: workers know nothing of the current folder. Not given, each node's temporary folder is taken."""
    monkeypatch.setattr(orchestrator.engine.ray.session, "RaySession", Session)
    monkeypatch.chdir(tmp_path)
    asked: list[dict[str, Any]] = []

    def fit(paths: Any, attacks: Any, **options: Any) -> list[Any]:
        asked.append(options)
        return []

    monkeypatch.setattr(orchestrator.engine.attacker.runner, "fit_all_distributed", fit)
    source = outputs(tmp_path / "outputs.parquet", 10)
    options = ["--scratch", "big/disk"] if given else []
    measured = Examination.of(source).measured()
    with chosen(source, tmp_path, "--distributed-rows", "1", *options) as (runner, _):
        runner.fit([XGBoostAttack()], source, measured, measured.where())
    assert asked[0]["scratch_dir"] == (tmp_path / "big/disk" if given else None)
    assert asked[0]["cut_rows"] == orchestrator.engine.attacker.runner.CUT_ROWS


@pytest.mark.parametrize(
    ("rows", "rows_per_worker", "least", "sampled"),
    [
        (1000, None, (990, 160), True),
        (100_000, None, (990, 160), False),
        (1000, 500, (990, 160), False),
        (1000, 600, (990, 160), True),
        (1000, None, (1010, 160), False),  # too small a sample
        (1000, None, (990, 170), False),  # too few of one role in one fold
    ],
)
def test_settings_of_a_large_table_are_compared_on_a_sample(
    rows: int,
    rows_per_worker: int | None,
    least: tuple[int, int],
    sampled: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fitting each on all rows took minutes for each. One alone has nothing to be compared with."""
    asked: list[Any] = []

    def fit(paths: Any, attacks: Any, **options: Any) -> list[Any]:
        asked.append(list(attacks))
        return [argparse.Namespace(attack=attack, notes=[]) for attack in attacks]

    monkeypatch.setattr(orchestrator.engine.attacker.runner, "fit_all_distributed", fit)
    monkeypatch.setattr(orchestrator.engine.attacker.runner, "TUNING_VALUES", 4 * rows)  # of four classes
    monkeypatch.setattr(orchestrator.engine.attacker.runner, "TUNING_ROWS", least[0])
    monkeypatch.setattr(orchestrator.engine.attacker.runner, "TUNING_SIDE", least[1])
    table = pool(models=8, samples=400, folds=(0.5, 0.75))
    pq.write_table(table, tmp_path / "outputs.parquet")
    source = ParquetFiles((str(tmp_path / "outputs.parquet"),))
    measured = Examination.of(source).measured()
    runner = OnRay(source, 2, 0.5, rows_per_worker=rows_per_worker)
    attempts = [XGBoostAttack(rounds=5, max_depth=depth, eta=eta) for depth, eta in ((1, 1e-6), (3, 0.3), (1, 0.1))]
    fitted = runner.fit(attempts, source, measured, measured.where())
    fitting = rows_where(table, fold=("train", "validation"), role=("original", "retrained"))
    part = fitting.filter(pa.array(drawn(fitting, rows / len(fitting), 0)))
    if sampled:
        assert 0.6 * rows < len(part) < 1.4 * rows
        scores = [attempt.fit(part, threads=1).validation_f1 or 0.0 for attempt in attempts]
        assert len(set(scores)) > 1, "the candidates can be told apart"
        assert asked == [[attempts[int(np.argmax(scores))]]]
        [[note]] = [each.notes for each in fitted]
        assert note.startswith(f"3 settings were compared on a random {rows / len(fitting):.2%} of the rows")
    else:
        assert asked == [attempts]
        assert [each.notes for each in fitted] == [[], [], []]
    runner.fit(attempts[:1], source, measured, measured.where())
    assert asked[-1] == attempts[:1]


@pytest.mark.parametrize(
    ("nodes", "on_gpus", "found"),
    [
        ([{"CPU": 8.0, "GPU": 1.0}], True, (1, 4.0)),
        ([{"CPU": 8.0, "GPU": 1.0}], False, (2, 2.0)),
        ([{"CPU": 16.0, "GPU": 4.0}, {"CPU": 64.0}], True, (4, 2.0)),
        ([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}], True, (4, 2.0)),
        ([{"CPU": 4.0, "GPU": 8.0}], True, (8, 0.25)),
        ([{"CPU": 8.0}], True, (2, 2.0)),
        ([{"CPU": 2.0}], False, (2, 0.5)),
        ([{"CPU": 1.0}], False, (2, 0.25)),
        ([{"CPU": 8.0}] * 4, False, (4, 4.0)),
    ],
)
def test_workers_go_by_gpus_where_there_are_any(
    nodes: list[dict[str, float]], on_gpus: bool, found: tuple[int, float]
) -> None:
    """Half of the CPUs, on the node with the GPUs: workers that asked for more would wait for ever."""
    assert orchestrator.engine.attacker.runner.workers_for(nodes, on_gpus) == found


@pytest.mark.parametrize(("built", "workers", "gpu"), [(True, 1, True), (False, 2, False)])
def test_a_machine_with_one_gpu_trains_on_it(
    built: bool, workers: int, gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    import xgboost

    monkeypatch.setattr(Session, "resources", {"CPU": 8.0, "GPU": 1.0})
    monkeypatch.setattr(ray, "cluster_resources", lambda: Session.resources)
    monkeypatch.setattr(xgboost, "build_info", lambda: {"USE_CUDA": built})
    monkeypatch.setattr(orchestrator.engine.ray.session, "RaySession", Session)
    source = outputs(tmp_path / "outputs.parquet", 10)
    with chosen(source, tmp_path, "--distributed-rows", "1") as (runner, [note]):
        assert isinstance(runner, orchestrator.engine.attacker.runner.OnRay)
        assert runner.workers == workers
        assert gpus_for(runner.workers) is gpu
        assert f"on Ray, {workers} worker{'s' if workers > 1 else ''}:" in note


@pytest.mark.parametrize(
    ("given", "option", "asked"),
    [
        ([], "memory_per_worker", None),
        (["--worker-memory", "0.5"], "memory_per_worker", 2.0**29),
        ([], "rows_per_worker", None),
        (["--worker-rows", "5000000"], "rows_per_worker", 5_000_000),
    ],
)
def test_workers_take_what_they_may(
    given: list[str], option: str, asked: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orchestrator.engine.ray.session, "RaySession", Session)
    source = outputs(tmp_path / "outputs.parquet", 10)
    with chosen(source, tmp_path, "--distributed-rows", "1", *given) as (runner, _):
        assert isinstance(runner, orchestrator.engine.attacker.runner.OnRay)
        assert getattr(runner, option) == asked


@pytest.mark.parametrize("text", ["0", "-1", "1e6", "1.5", "many"])
def test_rows_that_are_no_number_are_refused_in_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["audit", "x.parquet", f"--worker-rows={text}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].endswith(f"argument --worker-rows: {text!r} is not allowed; give a whole number of 1 or more")


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "much"])
def test_memory_that_is_none_is_refused_in_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["audit", "x.parquet", f"--worker-memory={text}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.strip().endswith(f"argument --worker-memory: {text!r} is not allowed; give a number of GiB above 0")
    assert len(said.strip().splitlines()) == 1


def test_scores_come_back_as_blocks_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a task on another node yields, from row groups that mix models, is what one process finds; no file is needed."""
    table = pool(models=8, samples=10, unlearned={"pgu": 0.5})
    path = tmp_path / "outputs.parquet"
    pq.write_table(shuffled(table), path, row_group_size=37)
    source = ParquetFiles((str(path),))
    measured = Examination.of(source).measured()
    fitted = XGBoostAttack(rounds=5, max_depth=3).fit(table)
    models = measured.where(fold="test", role=("retrained", "unlearned"))[::-1]
    codes = {measured.models[m]: int(m) for m in models}
    blocks = [
        block
        for part in fragments(source.paths)
        for block in orchestrator.engine.attacker.scores._scored(part, None, fitted, codes)
    ]
    assert sum(map(len, blocks)) == len(models) * 10
    assert {str(field.type) for block in blocks for field in block.schema} == {"int32", "int64", "float"}
    coded = [Coded(*(block[name].to_numpy() for name in ("model", "sample_id", "score"))) for block in blocks]
    found = by_model(coded, measured, models)
    expected = InProcess().score(fitted, source, measured, models)
    assert set(found) == set(expected) == set(map(int, models))
    for m, values in expected.items():
        assert np.array_equal(found[m], values)
    assert list(tmp_path.iterdir()) == [path]
    without_one = [
        block._replace(model=block.model[1:], sample=block.sample[1:], score=block.score[1:]) for block in coded
    ]
    with pytest.raises(ValueError, match=r"scores: model '.*' has samples without one"):
        by_model(without_one, measured, models)


def test_a_population_that_does_not_fit_is_told_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(orchestrator.engine.ray.session, "RaySession", lambda _: pytest.fail("Ray was started"))
    paths = [tmp_path / name for name in ("outputs.parquet", "z.parquet")]
    table = pool(models=4, samples=10, unlearned={"pgu": 0.5})
    pq.write_table(table, paths[0])
    pq.write_table(table.filter(pc.not_equal(table["model_id"], "pgu-003")), paths[1])
    given = [str(paths[0]), "--population", str(paths[1]), "--attacks", "xgboost,rmia", "--distributed-rows", "1"]
    assert main(["audit", *given, "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("audit: population: model_id: no rows of unlearned model 'pgu-003' (pgu {}); give")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
