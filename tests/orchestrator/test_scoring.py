"""A recipe's scores and an audit's say the same of the same outputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from attack import ATTACKS
from attack.audit.audit import audit
from attack.metrics.areas import Areas
from attack.metrics.evaluation import Scores
from attack.metrics.evidence import AttackEvidence, Evidence
from attack.metrics.leak import Sides
from attack.metrics.tiny import tiny_scores
from attack.metrics.verdict import judge
from attack.outputs.table import logits_matrix, rows_where
from orchestrator.experiments.results import error_measure
from orchestrator.plan.sides import nothing_done
from orchestrator.plan.specs import Judged, Outputs, ScoreSpec
from orchestrator.plan.units import Unit
from orchestrator.work.outputs import write_fragment
from orchestrator.work.scoring import score_row
from tests.attack.build import pool

SEED = 3
NAMES = [name for name in ATTACKS if name != "xgboost"]


class Fragments:
    """A store of models' outputs, written from a table."""

    def __init__(self, folder: Path, table: pa.Table) -> None:
        self.folder = folder
        self.items: list[Outputs] = []
        for role, model_id, fold in sorted(
            {(r["role"], r["model_id"], r["fold"]) for r in table.select(["role", "model_id", "fold"]).to_pylist()}
        ):
            rows = rows_where(table, role=role, model_id=model_id)
            key = f"{role}-{model_id}"
            write_fragment(
                folder / f"{key}.parquet", rows["sample_id"].to_numpy(), rows["label"].to_numpy(), logits_matrix(rows)
            )
            self.items.append(Outputs(key, role, fold, model_id))

    def fetch(self, key: str, name: str) -> Path:
        return self.folder / f"{key}.parquet"

    def spec(self, attack: str, method: str) -> ScoreSpec:
        own = [item for item in self.items if item.model_id.startswith(f"{method}-")]
        pool_of = [item for item in self.items if item.role != "unlearned"]
        companions = [item for item in own if item.role == "unlearned" and item.fold != "test"]
        fit = (*pool_of, *(companions if ATTACKS[attack].per_method else ()))
        if ATTACKS[attack].per_method and method == "original":
            fit = tuple(nothing_done(item) for item in fit)
        return ScoreSpec(
            attack=attack,
            params=ATTACKS[attack](),
            candidates=(),
            fit=fit,
            positive=tuple(Judged(item.key, item.model_id) for item in own if item.fold == "test"),
            negative=tuple(Judged(i.key, i.model_id) for i in pool_of if i.role == "retrained" and i.fold == "test"),
            reference=(),
            seed=SEED,
            measures=0,
        )


@pytest.mark.medium
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_and_an_audit_say_the_same_of_the_same_outputs(name: str, tmp_path: Path) -> None:
    """Also of an over-unlearned method. U-LiRA has a reading of models that were never unlearned, too."""
    table = pool(
        models=16, samples=40, shift=2.0, unlearned={"keeps": 2.0, "overdoes": -3.0}, difficulty=0.5, references=False
    )
    store: Any = Fragments(tmp_path, table)
    found = audit(table, [name], SEED)
    for index, row in enumerate(each.to_json() for each in found.rows):
        if name not in row["attacks"]:
            continue
        method = {"no_unlearn": "original"}.get(row["method"], row["method"])
        unit: Any = SimpleNamespace(spec=store.spec(name, method))
        attempt: Any = SimpleNamespace(path=lambda file: tmp_path / file)
        scored = score_row(unit, store, attempt)
        prefix = f"{name}/"
        expected = {key.removeprefix(prefix): v for key, v in row["metrics"].items() if key.startswith(prefix)}
        for other in ("auc_minus_retrain", "leak_left"):
            expected.pop(other, None)
        assert scored["metrics"] == pytest.approx(expected, nan_ok=True)
        assert scored["metrics"]["precision"] is not None
        bounded = {key.removeprefix(prefix) for key in row["ci"] if key.startswith(prefix)}
        assert set(scored["ci"]) == bounded - {"auc_minus_retrain", "leak_left"}
        for key in ("threshold", "validation_f1", "notes"):
            assert scored["attack"][key] == pytest.approx(row["attacks"][name][key]), key
        curves = json.loads((tmp_path / "curves.json").read_text())
        for kind in ("roc", "confidence"):
            theirs = next(c for c in found.curves[kind] if c["row"] == index)
            for part, values in curves[kind].items():
                assert values == pytest.approx(theirs[part]), (kind, part)


def test_a_score_that_means_unlearned_is_never_called_streisand(tmp_path: Path) -> None:
    """Models under attack that retrained ones are taken for: below 0.5 U-LiRA's AUC says nothing of over-unlearning."""
    table = pool(models=24, samples=40, shift=2.0, unlearned={"early": 3.0}, difficulty=0.5, references=False)
    swap = {"early": "retrained", "retrained": "early"}
    store: Any = Fragments(tmp_path, table)
    spec = store.spec("u_lira", "early")
    by_id = {item.model_id: item.key for item in store.items}

    def swapped(side: tuple[Judged, ...]) -> tuple[Judged, ...]:
        parts = [item.model_id.partition("-") for item in side]
        return tuple(
            Judged(by_id[f"{swap[prefix]}-{number}"], prefix + dash + number) for prefix, dash, number in parts
        )

    # The groups under test change places, the fit does not.
    spec = replace(spec, positive=swapped(spec.positive), negative=swapped(spec.negative))
    found = score_row(SimpleNamespace(spec=spec), store, SimpleNamespace(path=lambda f: tmp_path / f))  # type: ignore[arg-type]
    assert found["ci"]["auc"][1] < 0.5
    areas = Areas.from_json(json.loads((tmp_path / "areas.json").read_text())).matrix
    sides = Sides(areas, np.full_like(areas, 0.5), 1.0 - areas)
    assert judge(Evidence([AttackEvidence("u_lira", sides, directed=False)])).word == "undecided"


def test_errors_have_intervals_of_their_mean_and_none_is_no_certainty() -> None:
    """Three models of 5, 7 and 9 %: nearly Student's [2.0, 12.0], which the least and the greatest of them are far from."""
    low, high = error_measure({"a": 5.0, "b": 7.0, "c": 9.0}, 1000).interval or ()
    assert 2.0 < low < 4.0
    assert 12.0 < high < 15.0
    low, high = error_measure(dict.fromkeys("abcde", 0.0), 400).interval or ()
    assert low == 0.0
    assert 0.18 < high < 1.0  # 3 errors in 2,000 independent rows are 0.15 %


def test_tiny_scores_know_that_their_floor_is_not_certain() -> None:
    """Of models that differ little, against retrained ones that differ much: the floor is what is not known."""
    generator = np.random.default_rng(0)

    def scores(spread: float) -> Scores:
        values = generator.normal(size=(6, 200)) + spread * np.linspace(-1.0, 1.0, 6)[:, None]
        return Scores(values.ravel(), np.repeat(np.arange(6), 200), np.tile(np.arange(200), 6))

    narrow, wide = scores(0.05), scores(1.0)
    value, interval, by_model = tiny_scores(narrow, wide, 0)
    floor = np.quantile(wide.scores, 0.05, method="weibull")  # whose mean rank is 0.05
    assert value == pytest.approx((narrow.scores < floor).mean())
    assert len(by_model) == 6
    assert interval is not None
    assert interval[0] < value < interval[1]
    sure = tiny_scores(narrow, scores(0.05), 0)[1]
    assert sure is not None
    assert interval[1] - interval[0] > 1.5 * (sure[1] - sure[0])
    alone = Scores(wide.scores[:200], wide.model_ids[:200], wide.sample_ids[:200])
    assert tiny_scores(narrow, alone, 0)[1] is None
    assert tiny_scores(alone, narrow, 0)[1] is None


@pytest.mark.parametrize(("name", "fits"), [("rmia", 1), ("loss_threshold", 1), ("u_lira", 2)])
def test_an_attacker_is_fitted_once_for_all_rows_that_share_it(
    name: str, fits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U-LiRA is fitted on each method's own models, so it cannot be shared. The scores are the same either way."""
    table = pool(models=16, samples=20, shift=2.0, unlearned={"keeps": 2.0, "overdoes": -3.0}, references=False)
    store: Any = Fragments(tmp_path, table)
    attempt: Any = SimpleNamespace(path=lambda file: tmp_path / file)
    units: list[Any] = [Unit(store.spec(name, method), method) for method in ("keeps", "overdoes")]
    alone = [score_row(unit, store, attempt) for unit in units]
    counted: list[str] = []
    real = type(units[0].spec.params).fit

    def fit(self: Any, *args: Any) -> Any:
        counted.append(name)
        return real(self, *args)

    monkeypatch.setattr(type(units[0].spec.params), "fit", fit)
    made: dict[str, Any] = {}

    def cached(key: str, make: Any) -> Any:
        if key not in made:
            made[key] = make()
        return made[key]

    assert [score_row(unit, store, attempt, cached) for unit in units] == alone
    assert len(counted) == fits
