"""A few drawn inputs of every kind end in order, and the harness sees a planted fault of each kind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from . import harness
from .harness import few_figures, problem_of, search, warm_up
from .inputs import KINDS, Input, recipe_of

EXAMPLES = {"recipes": 40, "mappings": 12, "outputs": 12, "checkpoints": 12, "images": 16}


@pytest.fixture(scope="module", autouse=True)
def warm() -> Iterator[None]:
    """Imports are done before the clock of an input starts."""
    with few_figures():
        warm_up()
        yield


@pytest.mark.medium
@pytest.mark.parametrize("share", [pytest.param(3, id="a third"), pytest.param(1, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_given_a_command_ends_in_order(kind: str, share: int) -> None:
    count = EXAMPLES[kind] // share
    assert search(kind, count, first=0) >= count // 2


def crash(args: Any) -> int:
    raise AttributeError("planted")


def hang(args: Any) -> int:
    time.sleep(5)
    return 0


def overwrite(name: str) -> Any:
    return lambda args: Path(name).write_text("yours") and 0


def tell(text: str) -> Any:
    def main(args: Any) -> int:
        import sys

        print(text, file=sys.stderr)
        return 2

    return main


PLANTED = {
    "traceback": (crash, "an error that nobody foresaw"),
    "hang": (hang, "it took more than"),
    "input overwritten": (overwrite("r.yaml"), "it changed r.yaml"),
    "input deleted": (lambda args: Path("r.yaml").unlink() or 0, "it changed r.yaml"),
    "foreign file overwritten": (overwrite("mine/results.json"), "it changed mine/results.json"),
    "file out of place": (overwrite("new.txt"), "it wrote new.txt"),
    "code": (lambda args: 7, "it ended with 7"),
    "silence": (lambda args: 2, "without a word"),
    "memory address": (tell("model: <object at 0x7f0123456789> is not allowed"), "a memory address"),
    "endless line": (tell("x" * 2000), "a line of more than"),
}


@pytest.mark.medium
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted, words = PLANTED[fault]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.commands.plan.main", planted)
    drawn = Input({"r.yaml": yaml.safe_dump(recipe_of()).encode()}, ["plan", "r.yaml"])
    assert words in problem_of(drawn, tmp_path, seconds=1 if fault == "hang" else 20)


@pytest.mark.medium
def test_a_rare_fault_is_found_by_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.commands import show

    whole = show.main

    def planted(args: Any) -> int:
        if "yes" in Path("r.yaml").read_text(errors="replace"):
            raise AttributeError("planted")
        return whole(args)

    monkeypatch.setattr("orchestrator.commands.show.main", planted)
    monkeypatch.setattr("orchestrator.commands.plan.main", planted)
    with pytest.raises(harness.Faulty, match="an error that nobody foresaw"):
        search("recipes", 200, first=0)
