"""How a published model wants its images is told by a name or a configuration, and becomes numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.base.errors import RecipeError
from orchestrator.recipe.own_code import permit_code
from orchestrator.recipe.recipe import check_recipe
from unlearn.data import load_dataset
from unlearn.data.preprocess import Preprocessing, preprocessing

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RECIPE: dict[str, Any] = {
    "name": "own",
    "dataset": {"source": "image_folder", "train": "a", "test": "b"},
    "scenario": {"kind": "samples", "per_class": 1},
    "model": {"name": "resnet18"},
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("resnet18", Preprocessing(*IMAGENET, 224)),
        ("ResNet50_Weights.IMAGENET1K_V1", Preprocessing(*IMAGENET, 224)),
        ("efficientnet_b3", Preprocessing(*IMAGENET, 300)),
        ({"mean": [0.5], "std": [0.25]}, Preprocessing((0.5,), (0.25,), None)),
        (
            {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 240, 240], "crop_pct": 0.9}},
            Preprocessing((0.5,) * 3, (0.5,) * 3, 240),
        ),
        (
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}},
            Preprocessing((0.5,) * 3, (0.5,) * 3, 224),
        ),
    ],
)
def test_names_and_configurations(given: Any, expected: Preprocessing, tmp_path: Path) -> None:
    assert preprocessing(given) == expected
    if isinstance(given, dict):
        (tmp_path / "config.json").write_text(json.dumps(given))
        assert preprocessing(str(tmp_path / "config.json")) == expected


def test_timm_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"vit_tiny": SimpleNamespace(mean=(0.5,) * 3, std=(0.5,) * 3, input_size=(3, 192, 192))}
    stand_in = SimpleNamespace(get_pretrained_cfg=lambda name, allow_unregistered: known.get(name))
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    assert preprocessing("timm:vit_tiny") == Preprocessing((0.5,) * 3, (0.5,) * 3, 192)
    with pytest.raises(ValueError, match="timm knows no such model"):
        preprocessing("timm:none")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"not installed; give its config\.json"):
        preprocessing("timm:vit_tiny")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("resnet19", "torchvision model"),
        ("fasterrcnn_resnet50_fpn", "no classifier"),
        ("nowhere/config.json", "No such file"),
        (3, "torchvision model"),
        ({"mean": [0.5]}, "std: None"),
        ({"mean": "0.5", "std": [1]}, "mean: '0.5'"),
    ],
)
def test_mistakes_are_one_line(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        preprocessing(given)
    assert "\n" not in str(caught.value)
    dataset = {**RECIPE["dataset"], "preprocess": given}
    with pytest.raises(RecipeError, match=r"dataset\.preprocess") as refused:
        check_recipe({**RECIPE, "dataset": dataset})
    assert len(refused.value.faults) == 1


def test_a_recipe_holds_the_numbers() -> None:
    named = check_recipe({**RECIPE, "dataset": {**RECIPE["dataset"], "preprocess": "resnet18", "image_size": 64}})
    written = {"mean": list(IMAGENET[0]), "std": list(IMAGENET[1]), "image_size": 64}
    assert named.section("dataset") == {**RECIPE["dataset"], **written}
    assert check_recipe({**RECIPE, "dataset": {**RECIPE["dataset"], **written}}).document == named.document
    assert check_recipe({**RECIPE, "dataset": {**RECIPE["dataset"], "preprocess": None}}) == check_recipe(RECIPE)


def test_a_function_of_ones_own_is_asked_where_that_is_permitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_pixels.py").write_text(
        "def half():\n    return {'mean': [0.5], 'std': [0.25]}\n\ndef no(x): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def asked(name: str) -> dict[str, Any]:
        return dict(check_recipe({**RECIPE, "dataset": {**RECIPE["dataset"], "preprocess": name}}).section("dataset"))

    with pytest.raises(
        RecipeError, match="would import and run code of your own; allowed: permit it with --allow-code"
    ):
        asked("own_pixels:half")
    assert "own_pixels" not in sys.modules
    permit_code(True)
    try:
        assert asked("own_pixels:half") == {**RECIPE["dataset"], "mean": [0.5], "std": [0.25]}
        for name, words in (
            ("own_pixels:no", "TypeError"),
            ("own_pixels:gone", "AttributeError"),
            ("none:x", "No module"),
        ):
            with pytest.raises(RecipeError, match=rf"dataset\.preprocess: '{name}'.*{words}") as refused:
                asked(name)
            assert len(str(refused.value).splitlines()) == 1
    finally:
        permit_code(False)
        sys.modules.pop("own_pixels", None)


def test_a_dataset_is_normalised_by_it() -> None:
    found = load_dataset("digits", limit={"train": 20, "test": 10}, preprocess={"mean": [0.5], "std": [0.5]})
    assert (found.mean, found.std) == ((0.5,), (0.5,))
    own = load_dataset("digits", limit={"train": 20, "test": 10}, preprocess={"mean": [0.5], "std": [0.5]}, mean=[0.1])
    assert (own.mean, own.std) == ((0.1,), (0.5,))
