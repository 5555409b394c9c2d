"""The whole line on the Ray that tests share: interrupted, resumed, and a unit that kills its worker."""

from __future__ import annotations

import dataclasses
import gc
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.engine.base import Told
from orchestrator.engine.ray.engine import RayEngine
from orchestrator.experiments.run import RunOptions, RunResult, run
from orchestrator.plan.data import load_data
from orchestrator.plan.plan import make_plan
from orchestrator.plan.units import Outcome
from orchestrator.recipe.choices import Choice
from orchestrator.recipe.recipe import check_recipe
from orchestrator.records.folder import OutputFolder
from orchestrator.store import LocalStore

from .test_experiment import untimed


def workers() -> list[psutil.Process]:
    """The processes of this Ray that run units."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "UnitTrial" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_interrupted_and_resumed_it_gives_the_rows_of_one_process(
    ray_session: None, tiny: dict[str, Any], tiny_run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ray that this process has joined already is used and left as it is. Workers end with the run."""
    import ray

    options = RunOptions(tmp_path / "out", quiet=True)
    log = OutputFolder.log_outcome
    seen: list[int] = []

    def interrupt(folder: OutputFolder, *given: Any) -> None:
        log(folder, *given)
        if not seen:
            seen.append(len(workers()))
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "log_outcome", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(check_recipe(tiny), options)
    assert seen[0] > 0
    gc.collect()  # the frames that were interrupted hold Tune's actors
    deadline = time.monotonic() + 30
    while workers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers() == []
    result = run(check_recipe(tiny), options)
    assert result.failed == 0
    assert result.document["environment"]["hardware"]["where"].startswith("Ray cluster")
    mine, theirs = (json.dumps(untimed(each.document["rows"]), sort_keys=True) for each in (result, tiny_run))
    assert mine == theirs
    events = OutputFolder(tmp_path / "out").events("unit")
    done = [event["unit"] for event in events if event["status"] == "done"]
    assert len(done) == len(set(done)), "a finished unit ran twice"
    assert ray.get(ray.put("alive")) == "alive"


def test_a_unit_that_kills_its_worker_fails_alone(
    ray_session: None, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a working folder whose packages are named like ours, with a model of the user's own in it."""
    for name in ("attack", "unlearn"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the package of the working folder')")
    (tmp_path / "my_model.py").write_text("from unlearn import small_vgg as factory\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    tiny |= {"model": {"name": "my_model:factory", "width": 0.0625}, "resources": {"max_retries": 0}}
    tiny |= {"shadows": {"originals": 3, "retrained": 0, "split": [0, 0, 3]}, "attacks": [], "methods": []}
    recipe = check_recipe(tiny)
    store = LocalStore(tmp_path / "store")
    data = load_data(recipe, store, allow_factory=True)
    units = list(make_plan(recipe, data).stages["train"])
    model = Choice("tests.orchestrator.killers:deadly")
    units[1] = dataclasses.replace(units[1], spec=dataclasses.replace(units[1].spec, model=model))
    outcomes: list[Outcome] = []
    engine = RayEngine(None, store, data, recipe.resources, allow_factory=True)
    try:
        engine.run(units, Told(outcomes.append))
    finally:
        engine.close()
    assert [outcome.name for outcome in outcomes if outcome.failed] == [units[1].name]
    assert "its worker crashed" in next(outcome.error for outcome in outcomes if outcome.failed)
    assert Counter(outcome.key for outcome in outcomes) == Counter(unit.key for unit in units)
