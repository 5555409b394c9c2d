"""Removing classes: outputs say which class each column of the logits is, from the store to the files that an audit reads."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from attack.audit.audit import check
from attack.outputs.sources import ParquetFiles
from attack.outputs.table import logit_classes
from orchestrator.base.errors import RecipeError
from orchestrator.base.values import digest
from orchestrator.experiments.outputs import _write_group
from orchestrator.plan.data import load_data
from orchestrator.plan.plan import make_plan
from orchestrator.plan.units import FORMAT_VERSION, Label, Unit
from orchestrator.recipe.recipe import check_recipe
from orchestrator.work.outputs import model_table, write_fragment

CLASSES = 10
FORGOTTEN = {"front": (0, 1), "middle": (4, 5), "end": (8, 9)}


class Folder:
    """A store of outputs: one Parquet fragment a key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fetch(self, key: str, name: str) -> Path:
        return self.folder / f"{key}.parquet"


@pytest.mark.parametrize("where", FORGOTTEN)
def test_which_class_a_column_is_goes_from_the_store_to_the_audit(where: str, tmp_path: Path) -> None:
    kept = [c for c in range(CLASSES) if c not in FORGOTTEN[where]]
    ids, labels = np.arange(6), np.resize(FORGOTTEN[where], 6)
    store: Any = Folder(tmp_path)
    groups: dict[str, list[Any]] = {"original": [], "retrained": []}
    for role, units in groups.items():
        for number, fold in enumerate(("train", "train", "validation", "test")):
            key = f"{role}-{number}"
            logits = np.random.default_rng(number).normal(size=(6, len(kept)))
            write_fragment(tmp_path / f"{key}.parquet", ids, labels, logits, classes=kept)
            units.append(SimpleNamespace(key=key, kind="outputs", label=Label(role=role, fold=fold, model_id=key)))
            assert logit_classes(model_table(store, key, role=role, fold=fold, model_id=key)) == kept
    paths = []
    for role, units in groups.items():
        paths.append(tmp_path / f"outputs-{role}.parquet")
        _write_group(paths[-1], store, units, "content", {})
        metadata = pq.read_schema(paths[-1]).metadata
        assert metadata[b"orchestrator.content"] == b"content"
    source = ParquetFiles(tuple(map(str, paths)))
    assert check(source, ["xgboost", "entropy_threshold"]) == []
    for name in ("lira", "rmia", "loss_threshold"):
        assert any("was dropped" in str(problem) for problem in check(source, [name])), name


def plan_of(document: dict[str, Any]) -> Any:
    recipe = check_recipe(copy.deepcopy(document))
    return make_plan(recipe, load_data(recipe, None))


@pytest.mark.parametrize("where", FORGOTTEN)
def test_outputs_stored_without_their_classes_are_not_taken_for_these(where: str, tiny: dict[str, Any]) -> None:
    """Only where classes are removed: what other experiments have stored keeps its keys."""

    def without_classes(unit: Any) -> str:
        spec = {name: value for name, value in unit.spec.identity().items() if name not in ("classes", "among_kept")}
        return digest({"format": FORMAT_VERSION, "kind": "outputs", "spec": spec})

    # the stage also holds outputs on unseen images, which are another kind with keys of its own
    outputs = [unit for unit in plan_of(tiny).stages["outputs"] if unit.kind != "unseen"]
    assert outputs
    assert all(unit.key == without_classes(unit) for unit in outputs)
    tiny["scenario"] = {"kind": "classes", "classes": list(FORGOTTEN[where])}
    kept = [c for c in range(CLASSES) if c not in FORGOTTEN[where]]
    # none are on unseen images here: some of those are of a class that has no logit
    for unit in plan_of(tiny).stages["outputs"]:
        assert unit.kind == "outputs"
        assert list(unit.spec.classes) == kept
        assert unit.key != without_classes(unit)
        # Errors stored before they were among the kept classes only are not taken for these.
        old = replace(unit.spec, among_kept=False)
        assert (Unit(old, unit.name, unit.label).key != unit.key) is unit.spec.errors


@pytest.mark.parametrize("name", ["lira", "u_lira", "rmia", "loss_threshold"])
def test_attacks_that_read_the_labels_logit_are_refused_before_anything_runs(name: str, tiny: dict[str, Any]) -> None:
    tiny["shadows"]["unlearn"] = "all"
    tiny["attacks"] = [{"name": "xgboost"}, {"name": name}]
    check_recipe(copy.deepcopy(tiny))
    tiny["scenario"] = {"kind": "classes", "classes": [0, 1]}
    with pytest.raises(RecipeError) as caught:
        check_recipe(copy.deepcopy(tiny))
    [line] = str(caught.value).splitlines()
    assert f"attacks.1.name: '{name}': reads the label's own logit" in line
    assert "allowed: xgboost, entropy_threshold" in line
    tiny["attacks"] = [{"name": "xgboost"}, {"name": "entropy_threshold"}]
    check_recipe(tiny)
