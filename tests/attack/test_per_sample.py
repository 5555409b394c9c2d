"""LiRA, U-LiRA and RMIA against slow statements written from their papers, closed forms, and planted defects."""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from attack import RMIA, LiRA, ULiRA
from attack.gaussians import Gaussians
from attack.outputs import rows_where
from attack.references import FittedLikelihoodRatio

from .build import area, pool, rows_of, shuffled, slow_phi


def slow_gaussian(values: list[float], pooled: list[list[float]] | None) -> tuple[float, float]:
    """Mean and standard deviation of one sample's φ; the deviation pooled within samples where `pooled` has them all."""
    mean = sum(values) / len(values)
    if pooled is None:
        return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    squares = sum(sum((v - sum(g) / len(g)) ** 2 for v in g) for g in pooled)
    return mean, math.sqrt(squares / sum(len(g) - 1 for g in pooled))


def slow_likelihood_ratio(
    table: pa.Table, row: dict, inside: str, *, fixed: bool, offline: bool = False, unlearned: str = ""
) -> float:
    """The score of one row from the definition: Gaussians of the train and validation folds, the target left out."""

    def group(role: str) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}
        wanted = rows_of(
            table,
            lambda r: (
                r["role"] == role
                and r["fold"] != "test"
                and (role != "unlearned" or r["method"] == unlearned)
                and not (r["model_id"] == row["model_id"] and role == row["role"])
            ),
        )
        for r in wanted:
            found.setdefault(r["sample_id"], []).append(r["phi"])
        return found

    value = slow_phi(row["logits"], row["label"])
    out = group("retrained")
    mean, deviation = slow_gaussian(out[row["sample_id"]], list(out.values()) if fixed else None)
    if offline:
        return -math.log(1.0 - NormalDist(mean, deviation).cdf(value))
    into = group(inside)
    mean_in, deviation_in = slow_gaussian(into[row["sample_id"]], list(into.values()) if fixed else None)
    return math.log(NormalDist(mean_in, deviation_in).pdf(value)) - math.log(NormalDist(mean, deviation).pdf(value))


@pytest.mark.parametrize("variance", ["per_sample", "fixed"])
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_lira_agrees_with_its_definition(mode: str, variance: str) -> None:
    table = shuffled(pool(models=8, samples=6, unlearned={"pgu": 0.3}))
    scores = LiRA(mode=mode, variance=variance).fit(table).score(table)
    for index in range(0, len(table), 7):
        row = table.slice(index, 1).to_pylist()[0]
        expected = slow_likelihood_ratio(table, row, "original", fixed=variance == "fixed", offline=mode == "offline")
        assert scores[index] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("variance", ["per_sample", "fixed"])
def test_u_lira_agrees_with_its_definition(variance: str) -> None:
    table = pool(models=8, samples=6, unlearned={"pgu": 0.5})
    scores = ULiRA(variance=variance).fit(table).score(table)
    for index in range(0, len(table), 7):
        row = table.slice(index, 1).to_pylist()[0]
        expected = slow_likelihood_ratio(table, row, "unlearned", fixed=variance == "fixed", unlearned="pgu")
        assert scores[index] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_auto_variance_is_fixed_for_few_models_only() -> None:
    few, many = np.zeros((8, 3)), np.zeros((64, 3))
    assert Gaussians.fit(np.arange(8), few, "auto").fixed
    assert not Gaussians.fit(np.arange(64), many, "auto").fixed


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


def test_rmia_reaches_what_a_calibrated_ratio_can() -> None:
    table = pool(models=60, samples=60, shift=2.0, difficulty=1.0)
    assert area(table, RMIA().fit(table).score(table), "original") > 0.85
    nothing = pool(models=60, samples=60, shift=0.0, difficulty=1.0)
    assert area(nothing, RMIA().fit(nothing).score(nothing), "original") == pytest.approx(0.5, abs=0.04)


def slow_rmia(table: pa.Table, population: pa.Table | None, row: dict, gamma: float, mode: str, a: float) -> float:
    """Pr_z of the pairwise ratio being at least γ, from the definition."""

    def p(r: dict) -> float:
        return 1.0 / (1.0 + math.exp(-slow_phi(r["logits"], r["label"])))

    def prior(source: list[dict], r: dict) -> float:
        def mean(role: str) -> float:
            values = [
                p(o)
                for o in source
                if o["role"] == role
                and o["fold"] != "test"
                and o["sample_id"] == r["sample_id"]
                and not (o["model_id"] == r["model_id"] and o["role"] == r["role"])
            ]
            return sum(values) / len(values)

        out = mean("retrained")
        return 0.5 * ((1 + a) * out + 1 - a) if mode == "offline" else 0.5 * (out + mean("original"))

    rows = table.to_pylist()
    x = p(row) / prior(rows, row)
    if population is None:
        z = [p(o) / prior(rows, o) for o in rows if o["role"] == "retrained" and o["fold"] != "test"]
    else:
        others = population.to_pylist()
        mine = [o for o in others if o["model_id"] == row["model_id"] and o["role"] == row["role"]]
        z = [p(o) / prior(others, o) for o in mine]
    return sum(x / value >= gamma for value in z) / len(z)


@pytest.mark.parametrize("with_population", [False, True])
@pytest.mark.parametrize(("mode", "gamma"), [("online", 1.0), ("offline", 1.2)])
def test_rmia_agrees_with_its_definition(mode: str, gamma: float, with_population: bool) -> None:
    table = pool(models=6, samples=5, seed=1)
    population = pool(models=6, samples=7, shift=0.0, seed=2) if with_population else None
    attack = RMIA(mode=mode, gamma=gamma)
    fitted = attack.fit(table, population)
    scores = fitted.score(table, population) if with_population else fitted.score(table)
    assert bool(fitted.notes) is not with_population
    for index in range(0, len(table), 5):
        row = table.slice(index, 1).to_pylist()[0]
        assert scores[index] == pytest.approx(slow_rmia(table, population, row, gamma, mode, attack.a), abs=1e-9)


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
