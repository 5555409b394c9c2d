"""What the first version stored is found again: its units' keys, and a whole store that it wrote.

`fixtures/store-b095c32` was written by commit b095c32: `store.tar.gz` and `rows.json` by one run of `recipe.yaml`,
`keys.json` by planning four recipes that use every method, attack and scenario.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from orchestrator.experiments.run import RunOptions, run
from orchestrator.plan.data import load_data
from orchestrator.plan.plan import make_plan
from orchestrator.plan.specs import OutputsSpec
from orchestrator.recipe.recipe import check_recipe, load_recipe

FIXTURE = Path(__file__).parent / "fixtures" / "store-b095c32"
KEYS = json.loads((FIXTURE / "keys.json").read_text())


@pytest.mark.parametrize("name", KEYS)
def test_units_keep_their_keys(name: str) -> None:
    recipe = check_recipe(KEYS[name]["recipe"])
    plan = make_plan(recipe, load_data(recipe, None))
    planned = {unit.key for unit in plan.units()} | {key for unit in plan.units() for key in unit.ancestors()}
    # RMIA is calibrated on unseen images since, ε follows double thresholds too, and the share of tiny scores has
    # another floor. What they measured before is something else, and must not be taken for the new.
    changed = ("score: ", "distance: ")
    lost = [unit for unit, key in KEYS[name]["units"].items() if key not in planned and not unit.startswith(changed)]
    if name == "classes":
        # PGU's stop by the gap always failed where whole classes are removed, so no store holds these.
        lost = [unit for unit in lost if "pgu(epochs=2)" not in unit]
        # Errors are among the classes that are left since; only models under test have any.
        again = [unit for unit in plan.units() if isinstance(unit.spec, OutputsSpec) and unit.spec.errors]
        lost = [unit for unit in lost if unit not in {f"outputs: {each.name}" for each in again}]
    assert lost == [], "the results of these units are stored under another key; they would be made again"


@pytest.mark.medium
def test_a_store_of_the_first_version_is_reused(tmp_path: Path) -> None:
    with tarfile.open(FIXTURE / "store.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    recipe = load_recipe(FIXTURE / "recipe.yaml", ["tracking.uri=null"])
    options = RunOptions(tmp_path / "out", store=str(tmp_path / "store"), address="inline", quiet=True)
    document = run(recipe, options).document
    plan = make_plan(recipe, load_data(recipe, None))
    # what verdicts rest on besides, and what measures in another way since
    added = [unit for unit in plan.units() if unit.kind in ("unseen", "traces", "distance", "score")]
    again = sum(unit.kind in ("distance", "score") for unit in added)
    assert document["environment"]["work"] == {"units_executed": len(added), "units_reused": 36 - again}
    for before, now in zip(json.loads((FIXTURE / "rows.json").read_text()), document["rows"], strict=True):
        assert (now["method"], now["params"]) == (before["method"], before["params"])
        # the word that each attack once had for itself, and what is measured in another way
        other = ("forgetting_quality/", "tiny_scores", "streisand")
        same = [name for name in before["metrics"] if not any(part in name for part in other)]
        assert {name: now["metrics"].get(name) for name in same} == {name: before["metrics"][name] for name in same}
