"""`orchestrator methods`, `orchestrator check-method`, and presets in recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.base.errors import RecipeError
from orchestrator.commands.cli import main
from orchestrator.recipe.files import read_document
from orchestrator.recipe.recipe import check_recipe, load_recipe
from orchestrator.recipe.schema import recipe_schema
from unlearn import METHODS


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


def test_every_method_has_a_line_and_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    table = printed(capsys, "methods")
    for name, method in METHODS.items():
        assert f"\n{name} " in table
        card = printed(capsys, "methods", name)
        assert card.startswith(f"{method.card.title} ({name})")
        assert method.card.formula in card
        for preset in method.presets:
            assert f"  {preset}: " in card


def test_cards_are_machine_readable(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "methods", "scrub", "--json"))
    assert (found["name"], found["access"], found["validation"]) == ("scrub", "retain", False)
    settings = {setting["name"]: setting for setting in found["settings"]}
    assert settings["msteps"]["default"] == 3
    assert len(json.loads(printed(capsys, "methods", "--json"))) == len(METHODS)
    assert "top_k" in {s["name"] for s in json.loads(printed(capsys, "methods", "pgu", "--json"))["settings"]}
    assert "stop_after" in {s["name"] for s in json.loads(printed(capsys, "methods", "pgu", "--json"))["settings"]}


def test_an_unknown_method_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "skrub"]) == 2
    assert "did you mean 'scrub'?" in capsys.readouterr().err


TOY = """
from dataclasses import dataclass
from typing import ClassVar
from unlearn.methods.base import Card
from unlearn.methods.kit import GradientMethod, Task, cross_entropy

@dataclass(frozen=True, kw_only=True)
class Toy(GradientMethod):
    name: ClassVar[str] = "toy"
    card: ClassVar[Card] = Card("Toy", "max CE(D_f)")
    lr: float = 1e-3

    def run(self, task: Task) -> None:
        self.fit(task, task.forget.batches, lambda net, b: -cross_entropy(net(b.images), b.labels))

@dataclass(frozen=True, kw_only=True)
class Faulty(Toy):
    def run(self, task: Task) -> None:
        super().run(task)
        task.original.train()
"""


@pytest.mark.medium
def test_a_method_of_ones_own_is_checked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_of_mine.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    assert printed(capsys, "check-method", "toy_of_mine:Toy").rstrip().endswith("toy_of_mine:Toy conforms")
    assert main(["check-method", "toy_of_mine:Faulty", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["conforms"]
    assert {check["check"] for check in found["checks"] if check["holds"] is False} == {"G7"}
    for wrong, told in (
        ("toy_of_mine:Nose", "it cannot be imported"),
        ("toy_of_mine:Task", "it is no unlearn.Method"),
        ("nose", "no such method"),
    ):
        assert main(["check-method", wrong]) == 2
        assert told in capsys.readouterr().err


def recipe(**settings: Any) -> dict[str, Any]:
    return {**read_document("demo"), "methods": [settings]}


def test_a_preset_fills_in_published_values() -> None:
    (point,) = check_recipe(recipe(name="scrub", preset="scrub-rum", epochs=7)).methods
    method = METHODS["scrub"].of(lr=5e-3, msteps=4, temperature=4.0, epochs=7)
    assert point.method == method, "what the recipe says itself wins"
    assert "preset" not in point.params
    assert point.params["msteps"] == 4
    with pytest.raises(RecipeError, match=r"methods.0.preset: 'scrub-run'.*did you mean 'scrub-rum'"):
        check_recipe(recipe(name="scrub", preset="scrub-run"))
    with pytest.raises(RecipeError, match=r"methods.0.preset: 'x'.*none: eu_k has no presets"):
        check_recipe(recipe(name="eu_k", k=1, preset="x"))


def test_the_demonstration_has_every_method_for_samples() -> None:
    shown = [point.name for point in load_recipe("methods-demo").methods]
    wanted = {n for n, m in METHODS.items() if m.selectable and not m.in_steps and "samples" in m.scenarios}
    assert set(shown) == wanted
    assert len(shown) == len(wanted)


def test_all_stands_for_every_method_that_fits_and_is_not_named() -> None:
    named = [{"name": "eu_k", "k": 2}, {"name": "cf_k", "k": 1}, {"name": "finetune", "lr": 0.5}]
    base = {**read_document("demo"), "methods": [*named, {"name": "all"}]}
    samples = check_recipe(base)
    assert [point.name for point in samples.methods[:3]] == ["eu_k", "cf_k", "finetune"]
    assert [point.params for point in samples.methods if point.name == "finetune"] == [{"lr": 0.5}]
    classes = check_recipe({**base, "scenario": {"kind": "classes", "classes": [0]}, "attacks": [{"name": "xgboost"}]})
    assert {p.name for p in classes.methods} - {p.name for p in samples.methods} == {"unsir"}
    written = samples.document["methods"]
    assert {"name": "all"} not in written, "the resolved recipe says what ran"
    assert {"name": "salun"} in written


def test_what_all_cannot_mean_is_told() -> None:
    document = {**read_document("demo"), "methods": [{"name": "all", "epochs": 3}, {"name": "cf_k", "k": 1}]}
    with pytest.raises(RecipeError) as told:
        check_recipe(document)
    text = str(told.value)
    assert "methods.0.epochs: 3: all takes no options" in text
    assert "eu_k has no default k" in text
    assert "{name: eu_k, k: …}" in text


def test_adding_a_method_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demonstration, the table and the conformance suite have it then."""
    (tmp_path / "toy_of_mine.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(METHODS.built_in, "toy", "toy_of_mine:Toy")
    assert "toy" in {point.name for point in load_recipe("methods-demo").methods}
    assert "methods.toy" in recipe_schema()["$defs"]
