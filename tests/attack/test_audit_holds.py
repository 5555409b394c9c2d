"""What an audit holds and reads while it runs, and over how many models it measures distances."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import attack.attacks.rmia
import attack.outputs.survey
from attack import ATTACKS
from attack.attacks.base import Attack
from attack.audit.audit import audit, run_attacks
from attack.audit.check import Examination
from attack.audit.runner import InProcess
from attack.outputs.sources import Tables
from attack.outputs.table import rows_where

from .build import pool, shuffled


@pytest.fixture(scope="module")
def small() -> pa.Table:
    return pool(models=4, samples=10, unlearned={"pgu": 0.5})


def test_distances_of_all_rows_are_of_equally_many_models() -> None:
    """A method unlearned in all folds would otherwise be measured with more models than Retrain, and look better or worse."""
    rows = run_attacks(
        pool(models=24, samples=30, unlearned={"same": 0.0}, folds=(0.5, 0.75)), ["loss_threshold"], bootstrap=20
    )
    assert [row["distance_models"] for row in rows] == [6, 6, 6], [row["method"] for row in rows]
    for row in rows:
        assert any("with 6 models on a side" in note for note in row["notes"]), row["notes"]
        assert any("klom: 6 models" in note for note in row["notes"]), row["notes"]
    retrain, same = (row["metrics"]["forgetting_quality/score"] for row in rows[1:])
    assert same == pytest.approx(retrain, rel=0.35)
    alone = pool(
        models=4, samples=10, unlearned={"pgu": 0.5}
    )  # Retrain has one model: it does not hold the others down
    assert [row["distance_models"] for row in run_attacks(alone, ["lira"], bootstrap=20)] == [4, 1, 4]


def test_with_a_population_each_models_rows_are_looked_at_once(
    small: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scored model by model, p(z) of all models each time would grow with their square."""
    taken: list[int] = []
    real = attack.attacks.rmia._References.ratio

    def ratio(self: Any, outputs: Any) -> np.ndarray:
        if len(self.samples) == 7:  # of the population, not of the forget set
            taken.append(len(outputs))
        return real(self, outputs)

    monkeypatch.setattr(attack.attacks.rmia._References, "ratio", ratio)
    others = pool(models=4, samples=7, shift=0.0, unlearned={"pgu": 0.0}, seed=2)
    rows = run_attacks(small, ["rmia"], bootstrap=20, population=others)
    assert rows[0]["metrics"]["rmia/auc"] is not None
    assert taken
    assert set(taken) == {7}
    ids = set(others["model_id"].to_pylist())
    without_one = rows_where(others, model_id=[m for m in ids if m != "pgu-003"])
    with pytest.raises(
        ValueError, match=r"population: model_id: no rows of unlearned model 'pgu-003' \(pgu {}\); give"
    ):
        run_attacks(small, ["rmia"], bootstrap=20, population=without_one)
    fitted = ATTACKS["rmia"]().fit(small, others)
    whole, part = fitted.score(small, others), fitted.score(small.slice(0, 10), others)
    assert np.array_equal(whole[:10], part)


@pytest.mark.medium
def test_what_was_measured_from_is_let_go_of_before_attacks_are_fitted(small: pa.Table) -> None:
    """The survey, 36 bytes a row, and the pieces that a table was put together from."""
    examined = Examination.of(Tables((small,)))
    survey = weakref.ref(examined.survey)
    alive: list[bool] = []

    class Watching(InProcess):
        def fit(self, *args: Any) -> list[Any]:
            gc.collect()
            alive.append(survey() is not None)
            return super().fit(*args)

    settings = {"xgboost": {"rounds": 2}}
    audit(Tables((small,)), ["xgboost"], settings=settings, examined=examined, runner=Watching(), bootstrap=20)
    assert alive == [False]
    with pytest.raises(ValueError, match="examined: no survey is left"):
        audit(Tables((small,)), ["xgboost"], examined=examined)


def test_an_attack_for_one_method_is_given_that_methods_rows_and_nothing_else_is_held() -> None:
    table = pool(models=4, samples=10, unlearned={"pgu": 0.5, "eu_k": 0.5})
    measured = Examination.of(Tables((table,))).measured()
    pieces: list[weakref.ref[pa.Table]] = []

    class Pieces(Tables):
        def pieces(self, *args: Any, **more: Any) -> Any:
            for piece in super().pieces(*args, **more):
                whole = pa.concat_tables([piece])
                pieces.append(weakref.ref(whole))
                del piece
                yield whole
                del whole

    class Shadow(Attack):
        name = "shadow"

        def fit(self, given: pa.Table) -> Any:
            gc.collect()
            assert pieces
            assert not any(piece() is not None for piece in pieces)
            return given

    models = np.concatenate([measured.where(role=("original", "retrained")), measured.where(method="pgu")])
    given: Any
    [given] = InProcess().fit([Shadow()], Pieces((table,)), measured, models)
    assert set(given["method"].to_pylist()) == {"", "pgu"}
    assert set(given["fold"].to_pylist()) == {"train", "validation"}
    assert len(given) == 3 * 3 * 10


def test_an_attack_that_learns_nothing_is_given_the_first_part(small: pa.Table) -> None:
    """All logits at once took the driver 1.2 GB for each 2·10⁷ rows, for a check that they are finite."""
    half = len(small) // 2
    source = Tables((small.slice(0, half), small.slice(half)))
    measured = Examination.of(source).measured()
    models = measured.where(role=("original", "retrained"))
    given: list[int] = []

    class Watched(ATTACKS["gap"]):  # type: ignore[name-defined, misc]
        learns = False

        def fit(self, outputs: pa.Table) -> Any:
            given.append(len(outputs))
            return super().fit(outputs)

    class Learning(Watched):
        def fit(self, outputs: pa.Table) -> Any:
            return super().fit(outputs)

    InProcess().fit([Learning()], source, measured, models)
    assert len(given) == 1, "a class with a fit of its own says itself whether that learns"
    given.clear()
    [fitted] = InProcess().fit([Watched()], source, measured, models)
    assert len(given) == 1
    assert given[0] < len(rows_where(small, fold=("train", "validation"), role=("original", "retrained")))
    whole = ATTACKS["gap"]().fit(small)
    assert fitted.score(small).tolist() == whole.score(small).tolist()
    tested = Tables((rows_where(small, fold="test"),))  # nothing to fit on, and nothing that needs it
    measured = Examination.of(tested).measured()
    [fitted] = InProcess().fit([ATTACKS["gap"]()], tested, measured, measured.where(role=("original", "retrained")))
    assert fitted.score(small).tolist() == whole.score(small).tolist()


@pytest.mark.parametrize("order", ["as written", "models out of order", "samples out of order", "mixed"])
def test_from_a_size_on_arrays_lie_in_files_with_the_same_numbers(
    small: pa.Table, order: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = {
        "as written": small,
        "models out of order": pa.concat_tables([small.slice(70), small.slice(0, 70)]),
        "samples out of order": small.take(pa.array(np.arange(len(small)).reshape(-1, 10)[:, ::-1].ravel())),
        "mixed": shuffled(small),
    }[order]
    expected = Examination.of(Tables((table,))).measured()
    monkeypatch.setattr(attack.outputs.survey, "MAPPED_ROWS", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = Examination.of(Tables((table,))).measured()
    for name in ("phi", "entropy"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert mine.tobytes() == theirs.tobytes()
        assert in_a_file(mine)
        assert not in_a_file(theirs)
    assert found.models == expected.models
    assert list(tmp_path.iterdir()) == [], "they have no names, so that nothing is left however it ends"


def in_a_file(array: np.ndarray) -> bool:
    """Whether an array is a view of a mapped file."""
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(base, mmap.mmap)


def test_without_room_for_a_file_arrays_lie_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(attack.outputs.survey, "MAPPED_ROWS", 1)
    monkeypatch.setattr(os, "posix_fallocate", full)
    found = attack.outputs.survey.column(5, np.float64, np.nan)
    assert np.isnan(found).all()
    assert not in_a_file(found)


@pytest.mark.parametrize("faulty", [False, True])
def test_threads_change_nothing_that_a_survey_finds(faulty: bool) -> None:
    """Pieces end in any order; the first fault is still the first in the table."""
    table = pool(models=6, samples=300, unlearned={"pgu": 0.5})
    if faulty:
        labels = table["label"].to_numpy().copy()
        labels[[2, 700, 701, 3000]] = -1
        table = table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels))
    parts = Tables(tuple(table.slice(start, 37) for start in range(0, len(table), 37)))
    alone, beside = (attack.outputs.survey.Survey.of(parts, threads=threads) for threads in (1, 4))
    assert beside.models == alone.models
    assert beside.tallies == alone.tallies
    assert [beside.not_finite, beside.outside, beside.dropped] == [alone.not_finite, alone.outside, alone.dropped]
    assert (alone.outside is None) != faulty
    if alone.outside is not None:
        assert (alone.outside.count, alone.outside.sample_id) == (4, table["sample_id"][2].as_py())
    for name in ("model_of", "sample_of", "label_of", "phi", "entropy"):
        assert np.array_equal(getattr(beside, name), getattr(alone, name), equal_nan=True), name
    assert np.isfinite(alone.phi).sum() >= len(table) - 37 * 4
