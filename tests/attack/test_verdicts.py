"""Verdicts: what one attack says, what several say together, and what an interval is no evidence of."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from attack import ATTACKS
from attack.audit.audit import run_attacks
from attack.audit.judged import CURVE_POINTS, _drawn
from attack.audit.verdicts import judge_rows, reading_of
from attack.metrics.row import Row
from attack.metrics.verdict import GRAVITY, LEAST_MODELS, Reading, judge, judge_one
from attack.outputs.table import logits_matrix

from .build import pool

MODELS = 5
Bounds = tuple[float, float]


def reading(auc: float, interval: Bounds | None, attack: str = "xgboost", models: int | None = MODELS) -> Reading:
    return reading_of(attack, auc, interval, models)


BEFORE = reading(0.7, (0.65, 0.75))


@pytest.mark.parametrize(
    ("auc", "interval", "start"),
    [
        (0.7, (0.6, 0.8), "Did not forget: AUC 0.700 [0.600, 0.800] lies above 0.5"),
        (0.5, (0.4, 0.6), "Forgot: AUC 0.500 [0.400, 0.600] includes 0.5"),
        (0.55, (0.45, 0.65), "Forgot"),
        (0.3, (0.2, 0.4), "Over-unlearned (Streisand effect)"),
        (0.55, (0.21, 0.88), "Not decided: AUC 0.550 [0.210, 0.880] includes 0.5, but is so wide"),
        (0.5, (0.39, 0.6), "Not decided"),
        (0.5, None, "Not decided: AUC 0.500, but with one model on a side there is no interval"),
    ],
)
def test_one_attack(auc: float, interval: Bounds | None, start: str) -> None:
    assert judge_one(reading(auc, interval)).told().startswith(start)


@pytest.mark.parametrize("models", [2, 1])
@pytest.mark.parametrize("interval", [(0.6, 0.8), (0.45, 0.55), (0.2, 0.4), None])
def test_fewer_than_three_models_a_side_decide_nothing(interval: Bounds | None, models: int) -> None:
    """Whatever they say: of two models the interval covers the truth in 62 % of cases. The numbers are still shown."""
    found = judge_one(reading(0.51, interval, models=models))
    assert found.word == "undecided"
    assert found.told().startswith("Not decided (fewer than 3 models): AUC 0.510")
    assert LEAST_MODELS == 3
    assert judge_one(reading(0.7, (0.6, 0.8), models=3)).word == "remembers"


def test_the_smaller_side_counts() -> None:
    row = {"method": "pgu", "status": "done", "metrics": {"auc": 0.7}, "ci": {"auc": [0.6, 0.8]}, "models": 9}
    few, enough = judge_rows([Row.from_json({**row, "retrained_models": count}) for count in (2, 3)])
    assert few is not None
    assert few.word == "undecided"
    assert enough is not None
    assert enough.word == "remembers"


def test_an_interval_that_holds_what_was_before_is_no_evidence_of_forgetting() -> None:
    before = {"xgboost": reading(0.58, (0.54, 0.62))}
    assert judge([reading(0.51, (0.44, 0.57))], before).word == "forgot"  # type: ignore[union-attr]
    found = judge([reading(0.51, (0.44, 0.58))], before)
    assert found is not None
    assert found.word == "undecided"
    assert "also the 0.580 of models never unlearned" in found.told()
    # Of another attack's AUC, and of one that is itself at chance, nothing follows in this way.
    assert judge([reading(0.51, (0.44, 0.58), "lira")], before).word == "forgot"  # type: ignore[union-attr]


def test_an_attack_that_sees_nothing_before_says_nothing_after() -> None:
    blind = {"xgboost": reading(0.51, (0.46, 0.56))}
    near, far = reading(0.5, (0.45, 0.55)), reading(0.8, (0.75, 0.85))
    assert judge([near], blind).word == "undecided"  # type: ignore[union-attr]
    assert judge([near], blind, yardstick=True).word == "forgot"  # type: ignore[union-attr]
    assert judge([far], blind).word == "remembers"  # type: ignore[union-attr]
    seeing = reading(0.5, (0.45, 0.55), "lira")
    found = judge([near, seeing], {**blind, "lira": reading(0.7, (0.65, 0.75), "lira")})
    assert found is not None
    assert (found.word, found.grounds) == ("forgot", (seeing,))


SAID = {
    "forgot": reading(0.5, (0.45, 0.55)),
    "undecided": reading(0.55, (0.21, 0.88), "rmia"),
    "told apart": reading(0.7, (0.6, 0.8), "u_lira"),
    "over-unlearned": reading(0.3, (0.2, 0.4), "lira"),
    "remembers": reading(0.6, (0.55, 0.65), "loss_threshold"),
}


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(SAID, 2)))
def test_the_gravest_stands_for_a_row_with_its_name(first: str, second: str) -> None:
    """What is not decided outranks "forgot": an attack that may yet succeed leaves the claim open."""
    assert list(SAID) == list(GRAVITY)
    found = judge([SAID[first], SAID[second]], {"xgboost": BEFORE})
    graver = max((first, second), key=list(SAID).index)
    assert found is not None
    assert found.word == graver
    assert found.told(2).endswith(f"({SAID[graver].attack})")
    assert not found.told(1).endswith(")")


def test_on_the_direction_those_that_read_the_labels_logit_decide() -> None:
    """Trees guess on outputs that they never saw; the label's own confidence is what it is."""
    trees, low, high = reading(0.99, (0.98, 1.0)), SAID["over-unlearned"], SAID["remembers"]
    found = judge([trees, low])
    assert found is not None
    assert (found.word, found.grounds) == ("over-unlearned", (low,))
    assert "take the samples for recognised" in found.told()
    assert judge([trees, low, high]).word == "remembers"  # type: ignore[union-attr]
    assert judge([trees]).word == "remembers"  # type: ignore[union-attr]


def test_of_equals_the_one_furthest_from_chance_speaks() -> None:
    near, far = reading(0.6, (0.55, 0.65)), reading(0.8, (0.7, 0.9), "lira")
    assert judge([near, far]).grounds == (far,)  # type: ignore[union-attr]


def test_every_attack_says_whether_its_score_has_a_direction() -> None:
    assert {name for name in ATTACKS if not ATTACKS[name].directed} == {"u_lira", "entropy_threshold"}
    above, below = (0.8, (0.7, 0.9)), (0.2, (0.1, 0.3))
    assert judge_one(reading(*above, "entropy_threshold")).word == "told apart"
    assert judge_one(reading(*below, "entropy_threshold")).word == "told apart"
    assert judge_one(reading(*above, "u_lira")).word == "told apart"
    assert judge_one(reading(*below, "u_lira")).word == "undecided", "fitted on its own models, it errs by chance only"


def test_confidently_wrong_outputs_are_over_unlearned_whatever_entropy_says() -> None:
    """As sharp as a member's, but on another class: minus entropy alone took them for recognised."""
    table = pool(models=16, samples=60, shift=2.0, unlearned={"wrong": -2.0}, difficulty=0.5)
    logits, labels = logits_matrix(table).copy(), table["label"].to_numpy()
    wrong = np.flatnonzero(np.asarray(table["method"].to_pylist()) == "wrong")
    logits[wrong, (labels[wrong] + 1) % logits.shape[1]] += 9.0
    column = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), logits.shape[1])
    table = table.set_column(table.schema.get_field_index("logits"), "logits", column)
    row = next(r for r in run_attacks(table, list(ATTACKS), bootstrap=200) if r["method"] == "wrong")
    assert row["ci"]["entropy_threshold/auc"][0] > 0.5
    assert row["metrics"]["entropy_threshold/streisand"] is False
    assert row["ci"]["loss_threshold/auc"][1] < 0.5
    assert row["verdict"].startswith("Over-unlearned (Streisand effect)")


def test_a_drawn_curve_keeps_its_low_end() -> None:
    """Over half a million rows: neighbours on the log axis are never further apart than a tenth of a decade."""
    fpr = np.linspace(0.0, 1.0, 500_001)
    kept = fpr[_drawn(fpr)]
    assert (kept[0], kept[-1]) == (0.0, 1.0)
    assert len(kept) <= CURVE_POINTS + 110
    assert np.log10(kept[2:] / kept[1:-1])[kept[1:-1] > 1e-5].max() < 0.1
    assert np.diff(kept).max() < 0.01, "nor on a linear one"
    assert len(_drawn(np.linspace(0.0, 1.0, 101))) == 101, "a short curve is kept whole"
