"""LiRA, U-LiRA and RMIA against slow statements written from their papers, closed forms, and planted defects."""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from attack import RMIA, LiRA, LossThreshold, OneShadow, ULiRA
from attack.attacks.references import FittedLikelihoodRatio, Side
from attack.outputs.table import rows_where

from . import checks
from .build import area, pool, shuffled, slow_phi


@pytest.mark.parametrize("variance", ["per_sample", "fixed"])
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_lira_agrees_with_its_definition(mode: str, variance: str) -> None:
    checks.lira_is_its_definition(mode, variance)


@pytest.mark.parametrize("variance", ["per_sample", "fixed"])
def test_u_lira_agrees_with_its_definition(variance: str) -> None:
    checks.u_lira_is_its_definition(variance)


@pytest.mark.parametrize("attack", [LiRA(), ULiRA()], ids=lambda attack: attack.name)
def test_auto_variance_is_per_sample_from_32_models_a_side_on(attack: LiRA | ULiRA) -> None:
    for sides, variance in (((8, 8), "fixed"), ((31, 32), "fixed"), ((32, 32), "per_sample"), ((64, 90), "per_sample")):
        assert attack.settled(sides).variance == variance
    assert dataclasses.replace(attack, variance="fixed").settled((90, 90)).variance == "fixed"
    for models, fixed in ((30, True), (34, False)):
        fitted = attack.fit(pool(models=models, samples=3, unlearned={"pgu": 0.5}, folds=(0.5, 1.0)))
        assert fitted.outside.fixed is fixed
        assert fitted.attack.variance == ("fixed" if fixed else "per_sample")


def test_lira_reaches_the_closed_form() -> None:
    """With φ ~ Normal(centre, 1) and a shift d the best attack has AUC Φ(d/√2); a threshold on φ itself is far from it."""
    d = 1.0
    table = pool(models=120, samples=60, shift=d, difficulty=3.0, folds=(0.5, 0.8))
    found = area(table, LiRA().fit(table).score(table), "original")
    assert found == pytest.approx(NormalDist().cdf(d / math.sqrt(2)), abs=0.02)
    from attack import LossThreshold

    assert area(table, LossThreshold().fit(table).score(table), "original") < found - 0.1


def test_u_lira_on_a_method_that_forgets_is_guessing_and_on_one_that_does_not_reaches_the_closed_form() -> None:
    for shift in (0.0, 1.0):
        table = pool(models=120, samples=60, unlearned={"pgu": shift}, folds=(0.5, 0.8))
        expected = NormalDist().cdf(shift / math.sqrt(2))
        assert area(table, ULiRA().fit(table).score(table), "pgu") == pytest.approx(expected, abs=0.03)


def test_a_threshold_on_the_loss_reaches_its_closed_form() -> None:
    for d, difficulty in ((1.0, 2.0), (2.0, 0.5), (0.0, 1.0)):
        checks.loss_threshold_reaches_the_closed_form(d, difficulty)


def test_the_cheap_attacks_are_their_definitions() -> None:
    checks.gap_is_its_definition()
    checks.one_shadow_is_its_definition()


def test_one_shadow_takes_out_how_hard_samples_are() -> None:
    table = pool(models=16, samples=200, shift=1.5, difficulty=3.0, spread=0.5, references=False)
    found = {
        each.name: area(table, each.fit(table).score(table), "original") for each in (OneShadow(), LossThreshold())
    }
    assert found["one_shadow"] > found["loss_threshold"] + 0.05
    nothing = pool(models=16, samples=200, shift=0.0, references=False)
    assert area(nothing, OneShadow().fit(nothing).score(nothing), "original") == pytest.approx(0.5, abs=0.04)
    with pytest.raises(ValueError, match="one_shadow needs 1"):
        OneShadow().fit(table.filter(pc.equal(table["role"], "original")))


def test_rmia_ranks_by_the_calibrated_ratio() -> None:
    checks.rmia_ranks_by_the_calibrated_ratio()


def test_rmia_reaches_what_a_calibrated_ratio_can() -> None:
    table = pool(models=60, samples=60, shift=2.0, difficulty=1.0)
    assert area(table, RMIA().fit(table).score(table), "original") > 0.85
    nothing = pool(models=60, samples=60, shift=0.0, difficulty=1.0)
    assert area(nothing, RMIA().fit(nothing).score(nothing), "original") == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("with_population", [False, True])
@pytest.mark.parametrize(("mode", "gamma"), [("online", 1.0), ("offline", 1.2)])
def test_rmia_agrees_with_its_definition(mode: str, gamma: float, with_population: bool) -> None:
    checks.rmia_is_its_definition(mode, gamma, with_population)


def test_a_mean_without_a_model_that_has_nearly_all_of_it_keeps_its_digits() -> None:
    values = np.array([[1.0, 0.3], [4e-18, 0.2], [6e-19, np.nan]])
    side = Side(np.array(["a", "b", "c"]), values)
    assert side.mean_without(0).tolist() == pytest.approx([2.3e-18, 0.2], rel=1e-12, abs=0)
    assert side.mean_without(1).tolist() == pytest.approx([0.5, 0.3], rel=1e-12, abs=0)


def test_rmia_with_few_references_takes_the_first_by_id() -> None:
    table = pool(models=8, samples=5)
    few = RMIA(references=1).fit(table)
    keep = pc.or_(
        pc.equal(table["fold"], "test"),
        pc.is_in(table["model_id"], value_set=pa.array(["original-000", "retrained-000"])),
    )
    assert [list(side.models) for side in few.references.sides] == [
        ["retrained/retrained-000"],
        ["original/original-000"],
    ]
    assert len(few.score(table.filter(pc.invert(keep)))) > 0


@pytest.mark.parametrize("attack", [LiRA(), LiRA(mode="offline"), ULiRA(), RMIA()])
def test_neither_row_order_nor_the_test_fold_matters_to_the_fit(attack: LiRA | ULiRA | RMIA) -> None:
    table = pool(models=8, samples=10, unlearned={"pgu": 0.5})
    test = rows_where(table, fold="test")
    scores = attack.fit(table).score(test)
    assert np.array_equal(attack.fit(shuffled(table)).score(test), scores)
    assert np.array_equal(attack.fit(rows_where(table, fold=("train", "validation"))).score(test), scores)


@pytest.mark.parametrize("attack", [LiRA(), ULiRA()])
def test_a_target_left_in_the_fit_would_show(attack: LiRA | ULiRA) -> None:
    """Nothing to find: with the target held out, the AUC on the fitted folds is ½. Leaving it in, it is far above.

    The planted defect: the same Gaussians scored as if the target were not one of their models.
    """
    table = pool(models=12, samples=200, shift=0.0, unlearned={"pgu": 0.0})
    method = "original" if isinstance(attack, LiRA) else "pgu"
    fitted = attack.fit(table)
    assert area(table, fitted.score(table), method, "train") == pytest.approx(0.5, abs=0.06)
    leaky = table.set_column(
        table.schema.get_field_index("model_id"), "model_id", pc.binary_join_element_wise(table["model_id"], "x", "")
    )
    assert area(leaky, fitted.score(leaky), method, "train") > 0.6


def test_out_variance_taken_from_the_in_side_would_show() -> None:
    """IN is narrow and OUT is wide, around one centre: the right score is highest at the centre, and the defect's is flat."""
    table = pool(models=80, samples=30, shift=0.0, references=False)
    narrow = rows_where(table, role="original")
    phi = np.asarray([slow_phi(r["logits"], r["label"]) for r in narrow.to_pylist()])
    assert np.std(phi) > 0
    wide = pool(models=80, samples=30, shift=0.0, spread=4.0, references=False)
    mixed = pa.concat_tables([narrow, rows_where(wide, role="retrained")])
    fitted = LiRA(variance="per_sample").fit(mixed)
    right = area(mixed, fitted.score(mixed), "original")
    assert fitted.inside is not None
    flawed_outside = dataclasses.replace(fitted.outside, squares=fitted.inside.squares, count=fitted.inside.count)
    flawed: FittedLikelihoodRatio = dataclasses.replace(fitted, outside=flawed_outside)
    assert right > 0.75
    assert area(mixed, flawed.score(mixed), "original") < 0.65


@pytest.mark.parametrize("attack", [LiRA(), ULiRA()])
def test_swapped_sides_turn_the_score_round(attack: LiRA | ULiRA) -> None:
    """RMIA is not here: its online p(x) is half of each side, whichever is which; its definition above holds it."""
    table = pool(models=20, samples=40, shift=1.5, unlearned={"pgu": 1.5}, difficulty=0.5)
    other = "original" if not isinstance(attack, ULiRA) else "unlearned"
    swap = {other: "retrained", "retrained": other}
    roles = pa.array([swap.get(role, role) for role in table["role"].to_pylist()])
    method = pc.if_else(pc.equal(roles, "unlearned"), "pgu", "")
    swapped = table.set_column(1, "role", roles).set_column(2, "method", method)
    test = rows_where(table, fold="test")
    name = "pgu" if isinstance(attack, ULiRA) else "original"
    # Only the fit is swapped; ids are told apart by role, so the rows scored keep their true roles.
    right, wrong = (area(test, attack.fit(t).score(test), name) for t in (table, swapped))
    assert right > 0.75
    assert wrong < 0.25


def test_what_cannot_be_attacked_is_told_in_one_line() -> None:
    table = pool(models=8, samples=5, unlearned={"pgu": 0.0, "eu_k": 0.0})
    with pytest.raises(ValueError, match="fit u_lira for each method"):
        ULiRA().fit(table)
    with pytest.raises(ValueError, match="0 unlearned models in folds train and validation; u_lira needs at least 2"):
        ULiRA().fit(pool(models=8, samples=5, unlearned={"pgu": 0.0}, unlearn_all=False))
    one = table.filter(pc.or_(pc.not_equal(table["role"], "retrained"), pc.equal(table["model_id"], "retrained-000")))
    with pytest.raises(ValueError, match="1 retrained models"):
        LiRA().fit(one)
    other = table.set_column(5, "sample_id", pc.add(table["sample_id"], 1))
    with pytest.raises(ValueError, match="sample_id: 6 was not among those"):
        LiRA().fit(table).score(other)
    with pytest.raises(ValueError, match="the same sample twice"):
        LiRA().fit(pa.concat_tables([table, table]))
    two = pool(models=4, samples=5)
    with pytest.raises(ValueError, match="besides the one under attack"):
        LiRA().fit(two.filter(pc.not_equal(two["fold"], "validation"))).score(two)


@pytest.mark.parametrize("attack", [LiRA(), RMIA()])
def test_dropped_classes_are_refused_where_the_labels_logit_is_read(attack: LiRA | RMIA) -> None:
    from attack import EntropyThreshold, outputs_table

    def model(role: str, number: int, fold: str) -> pa.Table:
        logits = np.random.default_rng(number).normal(size=(4, 3))
        return outputs_table(
            f"{number}", role, "", "{}", fold, np.arange(4), np.zeros(4, int), logits, classes=[1, 2, 3]
        )

    folds = ["train", "train", "validation", "test"]
    table = pa.concat_tables(
        [model(role, i, fold) for role in ("original", "retrained") for i, fold in enumerate(folds)]
    )
    with pytest.raises(ValueError, match="classes dropped"):
        attack.fit(table)
    assert len(EntropyThreshold().fit(table).score(table)) == len(table)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LiRA(mode="both"), "mode: 'both' is not allowed; allowed are online, offline"),
        (lambda: ULiRA(variance="none"), "variance: 'none'"),
        (lambda: RMIA(gamma=0.0), "gamma: 0.0 is not allowed"),
        (lambda: RMIA(a=2.0), "a: 2.0"),
    ],
)
def test_settings_out_of_range_are_one_line(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()


def test_constant_confidence_is_reported() -> None:
    table = pool(models=8, samples=5)
    logits = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(len(table) * 4, dtype=np.float32)), 4)
    flat = table.set_column(7, table.schema.field("logits"), logits)
    assert any("constant" in note for note in LiRA().fit(flat).notes)
    assert np.isfinite(LiRA().fit(flat).score(flat)).all()
    assert not any("constant" in note for note in LiRA().fit(table).notes)
