"""`retry`: all that is missing, what failed, or single units with what waits for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.cli import main
from orchestrator.plan.units import Outcome
from orchestrator.records.folder import OutputFolder
from orchestrator.store import open_store

from .test_experiment import go


def executed(folder: OutputFolder) -> set[str]:
    """Names of the units that the last invocation executed."""
    names: set[str] = set()
    for event in folder.events():
        if event["event"] == "start":
            names = set()
        elif event["event"] == "unit" and event["status"] == "done":
            names.add(event["name"])
    return names


@pytest.mark.medium
def test_single_units_the_failed_ones_and_all(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny["methods"] = [{"name": "eu_k", "k": 1}]
    go(tiny, tmp_path / "out")
    folder = OutputFolder(tmp_path / "out")
    keys = {event["name"]: event["unit"] for event in folder.events() if event["event"] == "unit"}
    store = open_store(folder.store_uri())

    def lose(*names: str) -> None:
        for name in names:
            store.remove(keys[name])

    base = ["retry", str(folder.path), "--address", "inline", "--quiet"]
    lose("eu_k(k=1) original-003", "eu_k(k=1) original-004")
    assert main([*base, "eu_k(k=1) original-003"]) == 1, "the other one is still missing"
    assert executed(folder) == {"eu_k(k=1) original-003"}
    assert main([*base, keys["eu_k(k=1) original-004"][:10], "--json"]) == 0
    assert executed(folder) == {"eu_k(k=1) original-004"}
    capsys.readouterr()
    assert main([*base, "eu_k(k=1) original-03"]) == 2
    assert "did you mean 'eu_k(k=1) original-003'" in capsys.readouterr().err
    assert main([*base, "--failed"]) == 0
    assert "no unit has failed" in capsys.readouterr().out

    # A unit that failed once for a reason that is gone.
    lose("retrained-001", "retrained-002")
    import orchestrator.work.execute as execute

    real = execute.KINDS["train"]

    def fail(unit: Any, *args: Any) -> Any:
        if unit.name == "retrained-001":
            raise OSError("a disk that was full for a while")
        return real(unit, *args)

    monkeypatch.setitem(execute.KINDS, "train", fail)
    main(base)
    assert set(folder.failures()) == {keys["retrained-001"]}
    monkeypatch.undo()
    assert main([*base, "--failed", "--json"]) == 0
    assert executed(folder) == {"retrained-001"}
    assert folder.failures() == {}
    assert all(row["status"] == "done" for row in json.loads((folder.path / "results.json").read_text())["rows"])


@pytest.mark.medium
def test_a_failure_that_somebody_else_has_mended_is_over(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Another experiment with the same store made the unit meanwhile: the log says so, and nothing counts it as failed."""
    tiny["methods"] = []
    go(tiny, tmp_path / "out")
    folder = OutputFolder(tmp_path / "out")
    unit = next(event for event in folder.events() if event["event"] == "unit" and event["stage"] == "train")
    folder.log_outcome("train", Outcome(unit["unit"], unit["name"], "train", "failed", error="planted"))
    assert folder.failures() == {unit["unit"]: "planted"}
    go(tiny, tmp_path / "out")
    assert folder.failures() == {}
    assert executed(folder) == set()
