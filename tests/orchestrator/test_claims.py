"""Verdicts come from intervals alone: planted truths hold, planted falsehoods do not, and too few models decide nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attack.metrics.measure import Measure
from attack.metrics.row import Row
from attack.metrics.verdict import Verdict as Judgement
from orchestrator.base.errors import RecipeError
from orchestrator.experiments.reproduce import GROUPS, ITEMS, SIZES, chosen, page
from orchestrator.experiments.reproduce.claim_pages import claim_pages
from orchestrator.experiments.reproduce.claims import (
    FAILS,
    HOLDS,
    OPEN,
    Verdict,
    above,
    below,
    chance,
    every,
    forgets,
    opposite,
    over_unlearned,
    remembers,
    some,
    within,
)
from orchestrator.experiments.reproduce.item import Comparison
from orchestrator.experiments.reproduce.measure import Experiment, measure
from orchestrator.experiments.reproduce.page import FORMATS
from orchestrator.experiments.reproduce.price import Size, cpu_rate
from orchestrator.experiments.reproduce.published import TABLE_1, TABLE_2, TABLE_3
from orchestrator.experiments.reproduce.runner import assess, recipe_of
from orchestrator.recipe.choices import Choice
from orchestrator.recipe.recipe import load_recipe
from orchestrator.recipe.sections import Recipe
from unlearn import build_model


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
            row("no_unlearn", error_test=70.0),
            row("retrain", error_test=50.0),
            row("pgu", error_test=repaired),
            row("pgu", {"scale_size": 0}, error_test=45.0),
        )
    experiments["table4-clean"] = experiment(row("no_unlearn", error_test=40.0))
    assert words("table4", **experiments) == [HOLDS, expected, expected]
    found = ITEMS["table4"].compare(experiments)
    first = dict(zip(found.columns, found.texts()[0], strict=True))
    assert first["measured PGU"].startswith(f"{100 - repaired:.2f}"), "the claims are about PGU as published"
    assert first["PGU without a scale"].startswith("55.00")
    assert first["as the release does"] == "–"


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


def judged(word: str, auc: float = 0.5, needed: int | None = None, **params: Any) -> Row:
    found = Row.from_json(row("pgu", params, auc=auc), "x")
    return replace(found, judged=Judgement(word, "reason", needed=needed))  # type: ignore[arg-type]


def test_claims_about_forgetting_follow_the_verdict_on_the_row() -> None:
    said = {
        "forgot": (HOLDS, FAILS, FAILS),
        "remembers": (FAILS, HOLDS, FAILS),
        "over_unlearned": (FAILS, FAILS, HOLDS),
        "damaged": (FAILS, OPEN, FAILS),
        "undecided": (OPEN, OPEN, OPEN),
    }
    for word, expected in said.items():
        # An AUC that alone would say otherwise is told, and does not count.
        found = [rule("x", judged(word, auc=0.58)) for rule in (forgets, remembers, over_unlearned)]
        assert tuple(verdict.word for verdict in found) == expected, word
        assert "AUC 0.580" in found[0].because
    assert forgets("x", judged("undecided", needed=30)).needed == 30
    assert "About 30 models" in forgets("x", judged("undecided", needed=30)).decides
    assert forgets("x", None).word == OPEN


def test_what_the_auc_alone_says_is_told_beside_a_verdict() -> None:
    """The paper judges by it. `row` gives five models and an interval of ±0.05 or so around the AUC."""
    at_chance = judged("remembers", auc=0.5)
    found = forgets("x", at_chance)
    assert (found.word, found.by_auc, found.published) == (FAILS, HOLDS, HOLDS)
    assert over_unlearned("x", at_chance).published == OPEN
    assert forgets("x", judged("forgot", auc=0.5)).by_auc is None, "both say the same"
    low = judged("over_unlearned", auc=0.1)
    assert (forgets("x", low).word, forgets("x", low).by_auc) == (FAILS, None)
    assert every([found, Verdict(HOLDS, "y")]).published == HOLDS
    assert every([found, Verdict(OPEN, "y")]).published == OPEN
    assert every([found, Verdict(FAILS, "y")]).by_auc is None
    assert some([found, Verdict(FAILS, "y")]).published == HOLDS
    assert opposite(found).published == FAILS
    finding = SimpleNamespace(verdicts=(("claim", found), ("other", Verdict(OPEN, "z"))))
    told = page.counts([finding])  # type: ignore[list-item]
    assert told.startswith("0 of 2 claims hold here, 1 do not, 1 are")
    assert told.endswith("By the AUC alone, as the paper judges, 1 hold, 0 do not, 1 are not measurable.")


def test_how_many_models_would_decide() -> None:
    """The half-width 4 of 4 models has to fall to the distance of the mean to the nearest bound, 1."""
    wide = Measure(1.0, -3.0, 5.0, models=4)
    assert [verdict.needed for verdict in (above("x", wide), within("x", wide, 2.0), below("x", wide))] == [64] * 3
    assert within("x", wide, 1.0).needed is None, "at the bound no number of models decides"
    assert above("x", Measure(1.0, 0.9, 1.1, models=4)).needed is None
    assert every([above("x", wide), above("y", Measure(2.0, -3.0, 5.0, models=4))]).needed == 64
    assert chance("x", Measure(0.5, 0.3, 0.7, models=5)).needed == 20
    assert "decided" in above("x", Measure(1.0, 0.9, 1.1, models=4)).decides
    assert "More than 1,000" in above("x", Measure(0.01, -3.0, 3.02, models=4)).decides


def test_each_claim_has_a_page() -> None:
    rows = published_table1()
    rows[7].update(row("pgu", rows[7]["params"], error_forget=10.0, error_retain=20.0, error_test=40.0))
    finding = assess(ITEMS["table1"], {"table1": experiment(*rows)})
    pages = claim_pages(finding, "small", {})
    assert list(pages) == [f"claims/table1-{number}.md" for number in (1, 2, 3)]
    assert "## Why" not in pages["claims/table1-1.md"]
    failing = pages["claims/table1-2.md"]
    for part in ("✗ **does not hold**, at size small", "that γ = 0.85 costs: 19.99", "It is decided.", "| γ = 0.85 |"):
        assert part in failing, part
    assert "Not measured here. `orchestrator reproduce ablation-width --size small`" in failing
    varied = experiment(*rows)
    varied.recipe["model"]["width"] = 0.25
    width = assess(ITEMS["ablation-width"], {run.name: varied for run in ITEMS["ablation-width"].runs})
    explained = claim_pages(finding, "small", {"ablation-width": width})["claims/table1-2.md"]
    assert "Ablation: width of SmallVGG varies just that" in explained
    assert "| width 0.25, γ = 0.85 | 10.00" in explained


def test_stress_tests_tell_parameters_and_failing_points() -> None:
    runs = {}
    for place, run in enumerate(ITEMS["stress-width"].runs):
        found = experiment(stress(100.0 * (1 + place % 4), 20))
        name = "all_cnn" if place < 4 else "small_vgg"
        found.recipe.update(model={"name": name, "width": 0.125 * (1 + place % 4)}, dataset={"source": "parquet"})
        runs[run.name] = found
    table = assess(ITEMS["stress-width"], runs).comparison
    assert table is not None
    assert [cells[0] for cells in table.texts()[:2]] == ["all_cnn, width 0.125", "all_cnn, width 0.25"]
    counted = [int(cells[1].replace(",", "")) for cells in table.texts()]
    assert counted[:4] == sorted(counted[:4])
    assert counted[4:] == sorted(counted[4:])
    (figure,) = ITEMS["stress-width"].figures(runs)
    assert "all_cnn: " in figure.panels[0].alt
    rows = [
        row("pgu_incremental", {"fail_points": 10}, failing_point=40.0, failing_point_least=40.0, error_test=50.0),
        row("stepwise", {"method": "finetune", "fail_points": 10}, failing_point_least=80.0, stress_auc=0.61),
    ]
    told = assess(ITEMS["stress-methods"], {"stress-methods": experiment(*rows)}).comparison
    assert told is not None
    assert [cells[:2] for cells in told.texts()] == [["pgu", "40.000 [39.880, 40.120]"], ["finetune", "not up to 80"]]


def test_the_learned_scale_is_varied_alone() -> None:
    """Each line holds rows of one rate and one number of passes."""

    def pgu(size: int | None, lr: float, epochs: int, test: float) -> dict[str, Any]:
        params = {"scale_size": size, "lr": lr, "epochs": epochs}
        return row("pgu", params, error_forget=test + 1, error_retain=1.0, error_test=test)

    rows = [row("no_unlearn", error_forget=5.0, error_retain=1.0, error_test=70.0)]
    rows += [pgu(size, lr, 5, 60.0 + 100 * lr - (size == 0) * 10) for size in (None, 0) for lr in (0.01, 0.1)]
    told = assess(ITEMS["ablation-scale"], {"ablation-scale": experiment(*rows)}).comparison
    assert told is not None
    assert [cells[0] for cells in told.texts()] == ["poisoned", "lr 0.01, 5 passes", "lr 0.1, 5 passes"]
    assert [[cell.split()[0] for cell in cells[3::3]] for cells in told.texts()[1:]] == [
        ["61.00", "51.00"],
        ["70.00", "60.00"],
    ]
    assert all(cells[-1].startswith("10.00") for cells in told.texts()[1:])


def test_operations_are_those_of_the_layers() -> None:
    """SmallVGG: 158.7 million multiply-adds forward, a published count; 8,192 inputs of its widest layer."""
    size = Size.of(build_model("small_vgg", num_classes=10), 3, 32)
    assert size.forward / 2 == pytest.approx(158.7e6, rel=1e-3)
    assert size.dimensions == (27, 1152, 2304, 8192, 512)
    assert size.moments == 2 * (1024 * 27**2 + 256 * 1152**2 + 64 * 2304**2 + 8192**2 + 512**2)
    assert cpu_rate(Choice("small_vgg", {"width": 0.25})) < cpu_rate(Choice("small_vgg", {"width": 0.5})) < 212e9


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


@pytest.fixture(scope="module")
def recipes() -> dict[tuple[str, str], Recipe]:
    """Every recipe of the items, by its name and size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_DATA", "/nowhere")
        runs = {planned.name: planned for item in ITEMS.values() for planned in item.runs}
        return {(name, size): recipe_of(planned, size) for name, planned in runs.items() for size in SIZES}


@pytest.mark.medium
def test_every_shipped_recipe_is_sound_and_named_after_its_item(
    recipes: dict[tuple[str, str], Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_DATA", "/nowhere")
    assert len(recipes) > 20
    for (name, size), recipe in recipes.items():
        assert recipe.name == f"{name}-{size}"
    assert recipe_of(ITEMS["table4"].runs[1], "paper").scenario.count == 20_000
    assert load_recipe("table1-paper").shadows.split == (40, 5, 5)


@pytest.mark.medium
def test_the_full_size_is_made_for_gpus(recipes: dict[tuple[str, str], Recipe]) -> None:
    """Float32 leaves most of a GPU's arithmetic unused, and processes that share one gain nothing."""
    for name in {name for name, _ in recipes}:
        full, mini = recipes[name, "paper"], recipes[name, "mini"]
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
