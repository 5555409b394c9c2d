"""Verdicts come from intervals alone: planted truths hold, planted falsehoods do not, and too few models decide nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attack.metrics.measure import Measure
from attack.metrics.row import Row
from orchestrator.base.errors import RecipeError
from orchestrator.experiments.reproduce import GROUPS, ITEMS, SIZES, chosen, page
from orchestrator.experiments.reproduce.claims import (
    FAILS,
    HOLDS,
    OPEN,
    Verdict,
    above,
    below,
    chance,
    every,
    opposite,
    some,
    within,
)
from orchestrator.experiments.reproduce.item import Comparison
from orchestrator.experiments.reproduce.measure import Experiment, measure
from orchestrator.experiments.reproduce.page import FORMATS
from orchestrator.experiments.reproduce.published import TABLE_1, TABLE_2, TABLE_3
from orchestrator.experiments.reproduce.runner import assess, recipe_of
from orchestrator.recipe.recipe import load_recipe


def row(method: str, params: dict[str, Any] | None = None, models: int = 5, **metrics: float) -> dict[str, Any]:
    """A row whose models lie within ±0.2 % of each metric's value."""
    spread = np.linspace(-0.002, 0.002, models)
    by_model = {name: [value * (1 + s) for s in spread] for name, value in metrics.items()}
    ci = {name: [value * 0.997, value * 1.003] for name, value in metrics.items()}
    return {
        "method": method,
        "params": params or {},
        "metrics": metrics,
        "ci": ci,
        "by_model": by_model,
        "models": models,
        "status": "done",
    }


def experiment(*rows: dict[str, Any], name: str = "x") -> Experiment:
    environment = {
        "git": {"commit": "0" * 40},
        "hardware": {"cpus": 2, "where": "here"},
        "dataset": {"train": 50_000, "classes": 10},
    }
    recipe = {"model": {"name": "small_vgg"}, "shadows": {"originals": 5, "retrained": 5, "split": [1, 1, 3]}}
    return Experiment(name, [Row.from_json(row, name) for row in rows], {"confidence": []}, environment, recipe, Path())


def words(item: str, **experiments: Experiment) -> list[str]:
    return [verdict.word for _, verdict in assess(ITEMS[item], experiments).verdicts]


def published_table1() -> list[dict[str, Any]]:
    names = ("error_forget", "error_retain", "error_test")
    rows = [row("no_unlearn", error_forget=0.01, error_retain=0.01, error_test=9.8)]
    for gamma, numbers in TABLE_1.items():
        values = {name: max(0.01, value) for name, value in zip(names, numbers, strict=True)}
        rows.append(row("retrain", **values) if gamma is None else row("pgu", {"gamma": gamma}, **values))
    return rows


def test_the_published_table_1_gives_the_published_claims() -> None:
    assert words("table1", table1=experiment(*published_table1())) == [HOLDS, HOLDS, HOLDS]


def test_a_table_1_of_the_other_kind_refutes_them() -> None:
    rows = published_table1()
    for each in rows:
        if each["params"].get("gamma") in (0.995, 0.99):
            each.update(row("pgu", each["params"], error_forget=30.0, error_retain=0.01, error_test=9.8))
        if each["params"].get("gamma") == 0.96:
            each.update(row("pgu", each["params"], error_forget=10.0, error_retain=20.0, error_test=40.0))
        if each["params"].get("gamma") == 0.75:
            each.update(row("pgu", each["params"], error_forget=10.0, error_retain=0.01, error_test=9.0))
    assert words("table1", table1=experiment(*rows)) == [FAILS, FAILS, FAILS]


def layers(table: dict[int, tuple[float, float]]) -> list[dict[str, Any]]:
    rows = [row("no_unlearn", auc=table[0][0], error_test=9.0)]
    for k in list(table)[1:]:
        for method, name, auc in (("pgu", "top_k", table[k][0]), ("eu_k", "k", table[k][1])):
            made = row(method, {name: k}, auc=auc, error_test=9.5)
            made["ci"]["auc"] = [auc - 0.012, auc + 0.012]
            rows.append(made)
    return rows


def test_the_published_tables_2_and_3_give_the_published_claims() -> None:
    assert words("table2", table2=experiment(*layers(TABLE_2))) == [HOLDS] * 4
    assert words("table3", table3=experiment(*layers(TABLE_3))) == [HOLDS] * 4
    swapped = {k: (eu_k, pgu) for k, (pgu, eu_k) in TABLE_3.items()}
    assert words("table3", table3=experiment(*layers(swapped))) == [HOLDS, HOLDS, HOLDS, FAILS]


def test_missing_rows_and_two_models_are_not_measurable() -> None:
    assert set(words("table1", table1=experiment())) == {OPEN}
    few = [row(each["method"], each["params"], models=2, **each["metrics"]) for each in published_table1()]
    assert set(words("table1", table1=experiment(*few))) == {OPEN}


@pytest.mark.parametrize("shares", [(1.0, HOLDS), (-1.0, FAILS)])
def test_depoisoning(shares: tuple[float, str]) -> None:
    sign, expected = shares
    experiments = {}
    for item in ITEMS["table4"].runs:
        repaired = 42.0 if sign > 0 else 75.0
        experiments[item.name] = experiment(
            row("no_unlearn", error_test=70.0), row("retrain", error_test=50.0), row("pgu", error_test=repaired)
        )
    experiments["table4-clean"] = experiment(row("no_unlearn", error_test=40.0))
    assert words("table4", **experiments) == [HOLDS, expected, expected]


def stress(point: float, step: int, recovered: float = 30.0) -> dict[str, Any]:
    return row(
        "pgu_incremental",
        {"step": step, "fail_points": 10},
        failing_point=point,
        failing_point_least=point,
        error_test=55.0,
        error_recovered=recovered,
    )


def test_failing_points() -> None:
    steady = experiment(*(stress(400.0, step) for step in (25, 50, 100)))
    vgg = experiment(stress(1100.0, 100))
    assert words("figure5", figure5=steady) == [HOLDS, HOLDS, HOLDS]
    assert words("figure6", figure6=vgg, figure5=steady) == [HOLDS]
    rising = experiment(*(stress(step * 8.0, step, recovered=56.0) for step in (25, 50, 100)))
    assert words("figure5", figure5=rising) == [HOLDS, FAILS, FAILS]
    assert words("figure6", figure6=experiment(stress(100.0, 100)), figure5=steady) == [FAILS]


def epochs(*areas: tuple[int, float, float], early: float = 0.5) -> Experiment:
    rows = [row("no_unlearn", auc=0.66, error_retain=1.0, error_test=9.0, tiny_scores=0.02)]
    rows.append(row("pgu", {"gamma": 0.9}, auc=early, error_retain=1.0, error_test=9.1, tiny_scores=0.06, epochs=12.0))
    for epoch, auc, tiny in areas:
        given = {"gamma": 0.9, "stop_after": epoch}
        rows.append(row("pgu", given, auc=auc, error_retain=1.0, error_test=9.2, tiny_scores=tiny))
    return experiment(*rows)


def test_epochs_past_the_early_stop() -> None:
    over = epochs((5, 0.6, 0.03), (20, 0.45, 0.2), (40, 0.4, 0.4))
    steady = epochs((5, 0.6, 0.03), (20, 0.52, 0.05), (40, 0.52, 0.03))
    assert words("figure1", figure1=over) == [HOLDS, HOLDS, HOLDS]
    assert words("figure1", figure1=steady) == [HOLDS, FAILS, HOLDS]
    assert words("figure2", figure2=steady) == [HOLDS, HOLDS, HOLDS]
    assert words("figure2", figure2=over)[0] == FAILS
    assert words("figure3", figure3=over) == [HOLDS, HOLDS]
    assert words("figure3", figure3=steady) == [FAILS, FAILS]
    assert words("figure4", figure4=steady) == [HOLDS]
    assert words("figure4", figure4=over) == [FAILS]


def test_primitives() -> None:
    sure, wide, alone = Measure(1.0, 0.9, 1.1), Measure(1.0, -3.0, 5.0), Measure(1.0)
    few = Measure(1.0, 0.9, 1.1, models=2)
    assert [above("x", q).word for q in (sure, wide, alone, few, Measure(None))] == [HOLDS, OPEN, OPEN, OPEN, OPEN]
    assert [below("x", q).word for q in (sure, wide, alone)] == [FAILS, OPEN, OPEN]
    assert [within("x", sure, b).word for b in (2.0, 0.5, 1.0)] == [HOLDS, FAILS, OPEN]
    assert chance("x", Measure(0.52, 0.45, 0.58)).word == HOLDS
    assert chance("x", Measure(0.52, 0.3, 0.7)).word == OPEN
    assert chance("x", Measure(0.6, 0.55, 0.65)).word == FAILS
    assert chance("x", Measure(0.52, 0.45, 0.58, models=5)).word == HOLDS
    assert chance("x", Measure(0.52, 0.45, 0.58, models=4)).word == OPEN, "too few models for a verdict"
    verdicts = [Verdict(HOLDS, "a"), Verdict(OPEN, "b"), Verdict(FAILS, "c")]
    assert (every(verdicts).word, some(verdicts).word) == (FAILS, HOLDS)
    assert (every(verdicts[:2]).word, some(verdicts[1:]).word) == (OPEN, OPEN)
    assert every([]).word == OPEN
    assert [opposite(v).word for v in verdicts] == [FAILS, OPEN, HOLDS]


def test_differences_are_paired_where_models_are_the_same() -> None:
    spread = (0.0, 10.0, 20.0, 30.0)

    def read(method: str, values: tuple[float, ...], name: str = "here") -> Measure:
        mean = sum(values) / len(values)
        document = {"metrics": {"error_test": mean}, "ci": {"error_test": [mean - 16.0, mean + 16.0]}}
        return Row.from_json({**document, "method": method, "by_model": {"error_test": values}}, name)["error_test"]

    left = read("pgu", tuple(v + 1.0 for v in spread))
    assert (left - read("eu_k", spread)).interval == (1.0, 1.0)
    for other in (read("retrain", spread), read("eu_k", spread, "elsewhere")):
        apart = left - other
        assert apart.low is not None
        assert apart.high is not None
        assert apart.low < -10 < 10 < apart.high
    # Three models: Student's t, not from the least difference to the greatest.
    few = read("pgu", (11.0, 22.0, 33.0)) - read("eu_k", (10.0, 20.0, 30.0))
    assert few.interval == pytest.approx((2.0 - 4.3027 / 3**0.5, 2.0 + 4.3027 / 3**0.5), abs=1e-3)
    assert measure(Row("pgu"), "auc") == measure(None, "auc") == Measure(None)


def test_every_shipped_recipe_is_sound_and_named_after_its_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_DATA", "/nowhere")
    for item in ITEMS.values():
        for planned in item.runs:
            for size in SIZES:
                assert recipe_of(planned, size).name == f"{planned.name}-{size}"
    assert recipe_of(ITEMS["table4"].runs[1], "paper").scenario.count == 20_000
    assert load_recipe("table1-paper").shadows.split == (40, 5, 5)


def test_the_full_size_is_made_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 leaves most of a GPU's arithmetic unused, and processes that share one gain nothing."""
    monkeypatch.setenv("UNLEARN_DATA", "/nowhere")
    for item in ITEMS.values():
        for planned in item.runs:
            full, mini = (recipe_of(planned, size) for size in ("paper", "mini"))
            assert full.training.precision == "bfloat16"
            assert full.resources.gpus_per_unit == 1
            assert mini.training.precision == "float32", "the committed results are float32's"
            assert mini.resources.gpus_per_unit == 0


def test_the_page_tells_a_precision_that_is_not_the_usual_one() -> None:
    recipe = {"model": {"name": "small_vgg"}, "shadows": {"originals": 50, "retrained": 50, "split": [40, 5, 5]}}
    said = []
    for training in ({}, {"precision": "bfloat16"}):
        experiment = SimpleNamespace(
            recipe={**recipe, "training": training}, environment={"dataset": {"train": 50_000, "classes": 10}}
        )
        said.append(page._recipe(SimpleNamespace(experiments={"table1": experiment})))  # type: ignore[arg-type]
    assert said[0].startswith("Measured with small_vgg on 50,000 training images of 10 classes, ")
    assert said[1].startswith("Measured with small_vgg trained in bfloat16 on 50,000 training images")


def test_items_are_chosen_by_name_in_the_papers_order() -> None:
    assert [item.name for item in chosen(["figure1", "table2", "table2"])] == ["table2", "figure1"]
    assert [item.name for item in chosen(["all"])] == list(GROUPS["all"])
    with pytest.raises(RecipeError, match="did you mean 'table1'"):
        chosen(["tabel1"])


def test_tables_as_text() -> None:
    table = Comparison(
        ("a & b", "published", "measured"),
        (("γ = 1", 0.5, Measure(0.25, 0.2, 0.3)), ("x", None, Measure(None))),
        "Note.",
    )
    assert FORMATS["csv"](table).splitlines() == [
        "a & b,published,measured,measured low,measured high",
        "γ = 1,0.5,0.25,0.2,0.3",
        "x,,,,",
    ]
    assert "| γ = 1 | 0.50 | 0.25 \\[0.20, 0.30\\] |" in FORMATS["md"](table)
    assert r"a \& b & published & measured \\" in FORMATS["tex"](table)
