"""Forget sets that trained models choose: measured before the split is known, never on models under test."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.commands.cli import main
from orchestrator.plan.data import load_data
from orchestrator.plan.plan import make_plan
from orchestrator.plan.selection import selection_units, stored_scores
from orchestrator.plan.trained import drawn_part, left_out
from orchestrator.recipe.recipe import check_recipe
from orchestrator.store import LocalStore
from orchestrator.work import kinds
from orchestrator.work.context import Context
from orchestrator.work.ranking import mean_score, memorization


def small(tiny: dict[str, Any], **select: object) -> dict[str, Any]:
    tiny["scenario"]["select"] = {"by": "loss", **select}
    tiny["training"]["epochs"] = 2
    tiny["methods"] = [{"name": "eu_k", "k": 1, "epochs": 1}]
    tiny["attacks"] = [{"name": "loss_threshold"}]
    return tiny


def listed(folder: Path) -> list[dict[str, str]]:
    with (folder / "outputs" / "forget.csv").open() as file:
        return list(csv.DictReader(file))


def slow_scores(document: dict[str, Any], folder: Path, keys: list[str]) -> list[list[float]]:
    """Probability of the label under each model, one sample and model at a time."""
    store = LocalStore(folder / "store")
    context = Context(store, load_data(check_recipe(document), store))
    found = []
    for key in keys:
        model = context.load_model(key)
        images, labels = next(iter(context.loader("train", batch_size=10_000)))
        with torch.inference_mode():
            p = torch.softmax(model(images).double(), dim=1)
        found.append([float(p[row, label]) for row, label in enumerate(labels.tolist())])
    return found


@pytest.mark.medium
def test_the_highest_loss_of_each_class_is_forgotten(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = small(tiny)
    recipe, out = tmp_path / "hard.yaml", tmp_path / "out"
    recipe.write_text(json.dumps(document))
    assert main(["plan", str(recipe), "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert "known when 2 models are trained" in said
    assert "forget 50, retain 150" in said
    assert not out.exists()
    assert main(["run", str(recipe), "--output", str(out), "--address", "inline", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["environment"]["work"]["units_reused"] == 0
    store = LocalStore(out / "store")
    data = load_data(check_recipe(document), store)
    plan = make_plan(check_recipe(document), data)
    units = selection_units(check_recipe(document), data.dataset)
    # Models of the training fold, which the run trains anyway, and none that is under test.
    train = [u.key for u in plan.stages["train"] if u.label.role == "original"][:2]
    assert list(units[-1].spec.models) == train
    assert not {u.key for row in plan.rows[:1] for u in row.producers} & set(train)
    assert results["environment"]["work"]["units_executed"] == len({u.key for u in plan.units()})
    p = slow_scores(document, out, train)
    loss = [-sum(math.log(model[i]) for model in p) / 2 for i in range(200)]
    labels = data.dataset.train.labels
    wanted = {i for c in range(10) for i in sorted(np.flatnonzero(labels == c), key=lambda i: -loss[i])[:5]}
    rows = listed(out)
    assert {int(row["sample_id"]) for row in rows} == wanted
    assert [float(row["score"]) for row in rows] == pytest.approx([loss[int(row["sample_id"])] for row in rows])
    assert "(5 per class, highest loss)" in (out / "report.html").read_text()
    assert main(["run", str(recipe), "--output", str(out), "--address", "inline", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["environment"]["work"]["units_executed"] == 0
    assert again["rows"] == results["rows"]
    # The other end needs no further scores.
    document["scenario"]["select"]["order"] = "lowest"
    lowest = load_data(check_recipe(document), store).split.forget
    assert set(lowest) == {i for c in range(10) for i in sorted(np.flatnonzero(labels == c), key=lambda i: loss[i])[:5]}


@pytest.mark.medium
def test_memorization_has_models_with_and_without_each_sample(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = small(tiny, by="memorization", models=4)
    document["scenario"] = {"kind": "samples", "fraction": 0.1, "select": document["scenario"]["select"]}
    document["shadows"] = {"originals": 1, "retrained": 0, "split": [0, 0, 1]}
    document["attacks"] = []
    recipe, out = tmp_path / "hard.yaml", tmp_path / "out"
    recipe.write_text(json.dumps(document))
    assert main(["run", str(recipe), "--output", str(out), "--address", "inline", "--json"]) == 0
    capsys.readouterr()
    data = load_data(check_recipe(document), LocalStore(out / "store"))
    units = selection_units(check_recipe(document), data.dataset)
    scores = stored_scores(units, LocalStore(out / "store"))
    assert scores is not None
    seed, models = units[-1].spec.part
    parts = [set(drawn_part(200, seed, models, number).tolist()) for number in range(models)]
    p = slow_scores(document, out, list(units[-1].spec.models))
    for i in range(0, 200, 17):
        inside = [p[m][i] for m in range(models) if i in parts[m]]
        outside = [p[m][i] for m in range(models) if i not in parts[m]]
        assert (len(inside), len(outside)) == (3, 1)
        assert scores[i, 1] == pytest.approx(sum(inside) / 3 - outside[0], abs=1e-6)
    assert len(listed(out)) == 20


def test_memorization_is_its_definition() -> None:
    generator = np.random.default_rng(0)
    models, samples = 10, 30
    parts = [drawn_part(samples, 5, models, number) for number in range(models)]
    margins, right = generator.normal(size=(models, samples)), generator.random((models, samples)) < 0.6
    found = memorization(iter(zip(margins, right, strict=True)), parts, samples)
    for i in range(samples):
        inside = [m for m in range(models) if i in parts[m].tolist()]
        outside = [m for m in range(models) if i not in parts[m].tolist()]
        assert len(outside) == left_out(models) == 3
        mem = sum(right[m, i] for m in inside) / len(inside) - sum(right[m, i] for m in outside) / len(outside)
        assert found[i, 0] == pytest.approx(mem)
    # A sample that is right only where it was trained on is memorized in full.
    right[:, 4] = [4 in part.tolist() for part in parts]
    assert memorization(iter(zip(margins, right, strict=True)), parts, samples)[4, 0] == 1.0


def test_scores_are_their_definitions() -> None:
    logits = np.random.default_rng(1).normal(size=(3, 5, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    phi = np.log(p[:, :, 0] / (1 - p[:, :, 0]))
    assert mean_score("loss", iter(phi))[:, 0] == pytest.approx(-np.log(p[:, :, 0]).mean(axis=0))
    assert mean_score("confidence", iter(phi))[:, 0] == pytest.approx(p[:, :, 0].mean(axis=0))
    assert mean_score("margin", iter(phi))[:, 0] == pytest.approx(phi.mean(axis=0))


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"by": "memorisation"}, "did you mean 'memorization'?"),
        ({"by": "loss", "order": "top"}, "order must be one of highest, lowest, not 'top'"),
        ({"by": "loss", "models": 5}, "has no meaning with loss"),
        ({"by": "memorization", "models": 2}, "models must be an integer of 4 or more, not 2"),
        ({"order": "highest"}, "by must be one of memorization, loss, confidence, margin, not None"),
        ("hardest", "first, random and"),
    ],
)
def test_a_bad_choice_is_one_line(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], select: object, message: str
) -> None:
    tiny["scenario"]["select"] = select
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(json.dumps(tiny))
    assert main(["plan", str(recipe)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("scenario", "shadows", "message"),
    [
        ({"kind": "poison", "count": 20}, {}, "no meaning for kind 'poison'"),
        ({"kind": "samples", "ids": [1, 2]}, {}, "no meaning with ids"),
        (
            {"kind": "samples", "per_class": 5},
            {"originals": 2, "retrained": 2, "split": [0, 0, 2]},
            "shadows.split has none",
        ),
    ],
)
def test_what_cannot_be_chosen_by_scores(
    tiny: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    scenario: dict[str, Any],
    shadows: dict[str, Any],
    message: str,
) -> None:
    tiny["scenario"] = {**scenario, "select": {"by": "loss"}}
    tiny["shadows"] |= shadows
    tiny["attacks"] = []
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(json.dumps(tiny))
    assert main(["plan", str(recipe)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.medium
def test_a_unit_that_fails_ends_the_run_with_its_reason(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such luck")

    document = small(tiny)
    document["shadows"] = {"originals": 2, "retrained": 0, "split": [1, 0, 1]}
    document["attacks"] = []
    recipe, out = tmp_path / "hard.yaml", tmp_path / "out"
    recipe.write_text(json.dumps(document))
    monkeypatch.setitem(kinds.KINDS, "rank", broken)
    assert main(["run", str(recipe), "--output", str(out), "--address", "inline", "--quiet"]) == 1
    assert "the forget set cannot be chosen: scores by loss: RuntimeError: no such luck" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["run", str(recipe), "--output", str(out), "--address", "inline", "--quiet"]) == 0
    assert len(listed(out)) == 50
