"""Population samples beside the outputs: what does not fit is named before anything is fitted, and each model gets its own z."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from attack import ATTACKS, RMIA
from attack.audit.audit import audit, run_attacks
from attack.audit.check import Examination
from attack.audit.population import population_problems
from attack.outputs.sources import Tables
from attack.outputs.table import logits_matrix

from .build import area, pool


@pytest.fixture(scope="module")
def outputs() -> pa.Table:
    return pool(models=4, samples=10, unlearned={"pgu": 0.5, "eu_k": 0.0})


@pytest.fixture(scope="module")
def population() -> pa.Table:
    return pool(models=4, samples=7, shift=0.0, unlearned={"pgu": 0.0, "eu_k": 0.0}, seed=2)


def without(table: pa.Table, *ids: str) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["model_id"], value_set=pa.array(ids))))


def with_classes(table: pa.Table, classes: str) -> pa.Table:
    return table.replace_schema_metadata({b"attack.classes": classes.encode()})


def wider(table: pa.Table) -> pa.Table:
    logits = np.hstack([logits_matrix(table), np.zeros((len(table), 1), np.float32)])
    return table.set_column(7, "logits", pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), 5))


def relabelled(table: pa.Table, label: int) -> pa.Table:
    return table.set_column(6, "label", pc.if_else(pc.equal(table["sample_id"], 5), label, table["label"]))


def moved(table: pa.Table) -> pa.Table:
    is_it = pc.equal(table["model_id"], "original-003")
    return table.set_column(4, "fold", pc.if_else(is_it, "train", table["fold"]))


UNFIT: dict[str, tuple[Callable[[pa.Table], pa.Table], list[str]]] = {
    "a model under attack is missing": (
        lambda t: without(t, "pgu-003"),
        [
            "population: model_id: no rows of unlearned model 'pgu-003' (pgu {}); give the outputs of every model under "
            "attack on the population samples"
        ],
    ),
    "two are missing": (
        lambda t: without(t, "pgu-003", "retrained-003"),
        [
            "population: model_id: no rows of retrained model 'retrained-003', unlearned model 'pgu-003' (pgu {}); give "
            "the outputs of every model under attack on the population samples"
        ],
    ),
    "no originals but those under attack": (
        lambda t: without(t, "original-000", "original-001"),
        ["population: role: 1 original models in folds train and validation; rmia needs at least 2"],
    ),
    "another fold": (
        moved,
        ["population: fold: not that of the outputs for original model 'original-003'; a model is in one fold"],
    ),
    "another width": (
        wider,
        ["population: logits: 5 a row, and 4 in the outputs; give the same classes in both"],
    ),
    "other classes": (
        lambda t: with_classes(t, "[0, 1, 2, 3]"),
        [
            "population: logits: its columns are classes 0, 1, 2, 3, those of the outputs all classes; store the same "
            "classes with both"
        ],
    ),
    "a label without a logit": (
        lambda t: relabelled(t, 9),
        [
            "population: label: 9 (sample_id 5 of model 'original-000') lies outside 0 … 3; where columns of classes "
            "were dropped, give num_classes (--num-classes), the number of all classes"
        ],
    ),
    "rows that are not finite": (
        lambda t: t.set_column(
            7,
            "logits",
            pa.FixedSizeListArray.from_arrays(pa.array(np.full(len(t) * 4, np.nan, dtype=np.float32)), 4),
        ),
        [
            "population: logits: 119 rows hold NaN or infinity, the first sample_id 5 of model 'original-000'; mend that model's outputs"
        ],
    ),
    "a column is missing": (
        lambda t: t.drop_columns(["fold"]),
        ["population: fold: the column is missing; there are model_id, role, method, params, sample_id, label, logits"],
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_named_before_anything_is_fitted(
    outputs: pa.Table, population: pa.Table, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, lines = UNFIT[case]
    for name in ATTACKS:
        monkeypatch.setattr(ATTACKS[name], "fit", lambda *_, **__: pytest.fail("it was fitted"))
    with pytest.raises(ValueError, match=r"^population: ") as caught:
        audit(outputs, ["loss_threshold", "rmia"], population=change(population), bootstrap=20)
    assert str(caught.value).splitlines() == lines


def test_what_fits_has_no_problems_and_only_rmia_asks_for_models(outputs: pa.Table, population: pa.Table) -> None:
    mine, theirs, fewer = (
        Examination.of(Tables((table,))) for table in (outputs, population, without(population, "pgu-003"))
    )
    assert population_problems(mine, theirs, ["rmia"]) == []
    assert len(population_problems(mine, fewer, ["lira", "rmia"])) == 1
    assert population_problems(mine, fewer, ["lira"]) == []
    # Unlearned models of the other folds are fitted on by U-LiRA alone, which takes no population.
    assert (
        population_problems(mine, Examination.of(Tables((without(population, "pgu-000", "pgu-001"),))), ["rmia"]) == []
    )


def test_many_missing_models_are_counted() -> None:
    outputs, population = (pool(models=40, samples=3, seed=seed, references=False) for seed in (0, 1))
    fewer = without(population, *(f"original-{number:03d}" for number in range(28, 40)))
    [problem] = population_problems(*(Examination.of(Tables((t,))) for t in (outputs, fewer)), ["rmia"])
    assert str(problem).count("original model 'original-0") == 8
    assert " and 4 more; give" in str(problem)


def test_unlearned_models_of_one_id_in_two_methods_get_their_own_z() -> None:
    """Both methods are made of the same originals and carry their ids; their outputs on population samples differ."""

    def renamed(table: pa.Table) -> pa.Table:
        is_it = pc.equal(table["role"], "unlearned")
        number = pc.utf8_slice_codeunits(table["model_id"], -3)
        return table.set_column(
            0, "model_id", pc.if_else(is_it, pc.binary_join_element_wise("o", number, "-"), table["model_id"])
        )

    outputs = pool(models=8, samples=40, unlearned={"a": 1.0, "b": 1.0}, references=False)
    population = pool(models=8, samples=50, shift=0.0, unlearned={"a": 0.0, "b": 4.0}, references=False, seed=2)
    rows = run_attacks(renamed(outputs), ["rmia"], bootstrap=20, population=renamed(population))
    found = {row["method"]: row["metrics"].get("rmia/auc") for row in rows}
    fitted = RMIA().fit(outputs, population)
    scores = fitted.score(outputs, population)  # here every model has an id of its own
    for method in ("a", "b"):
        assert found[method] == pytest.approx(area(outputs, scores, method))
    assert found["a"] > found["b"] + 0.1


def test_an_examined_population_is_taken_as_it_is(outputs: pa.Table, population: pa.Table) -> None:
    given, examined = (
        run_attacks(outputs, ["rmia"], bootstrap=20, population=population_)
        for population_ in (population, Examination.of(Tables((population,))))
    )
    assert [row["metrics"] for row in given] == [row["metrics"] for row in examined]
