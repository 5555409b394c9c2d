"""The first example of the README, executed as it stands on a model of a user's own, prints what the README shows."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .places import ROOT

WORDS = {"forgot", "remembers", "over-unlearned", "damaged", "undecided"}
# Another make of processor is another result; see the explanation of determinism.
POINTS, POINTS_OF_LEAK = 15.0, 60.0


def blocks() -> tuple[str, str]:
    """Returns the README's first command, and what it shows below."""
    found = re.search(r"^```sh\n(.*?)^```$.*?^```text\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert found is not None
    return found[1].replace("\\\n", " "), found[2]


def rows(printed: str) -> dict[str, list[str]]:
    """Returns the table: the head, and the cells of each line by its name."""
    lines = [line for line in printed.splitlines() if (" %" in line and "  " in line) or "forget accuracy" in line]
    cells = [re.split(r" {2,}", line.strip()) for line in lines]
    return {"": cells[0], **{row[0]: row[1:] for row in cells[1:]}}


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", cell)]


def check_same(shown: str, printed: str) -> None:
    """The same models and columns, the same verdict, and numbers that another processor may give."""
    wanted, found = rows(shown), rows(printed)
    assert list(found) == list(wanted)
    assert found.pop("") == wanted.pop("")
    for name, cells in wanted.items():
        assert len(cells) == len(found[name]), name
        for place, (cell, other) in enumerate(zip(cells, found[name], strict=True)):
            if place == 4:
                assert other == cell, f"{name}: another verdict"
                continue
            allowed = POINTS if place < 3 else POINTS_OF_LEAK
            assert numbers(other) == pytest.approx(numbers(cell), abs=allowed), name
    tail = [re.sub(r"[-\d.]+ ?%?|[0-9a-f]{8}", "#", text.splitlines()[-1]) for text in (shown, printed)]
    assert tail[0] == tail[1]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_first_example_prints_what_the_readme_shows(tmp_path: Path) -> None:
    command, shown = blocks()
    [verify] = [shlex.split(line) for line in command.splitlines()]
    assert verify[:2] == ["orchestrator", "verify"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}

    def ran(*command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *command]
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)

    made = ran(str(ROOT / "examples" / "my_resnet18.py"))
    assert made.returncode == 0, made.stderr
    done = ran("-m", *verify, "--address", "inline")
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "printed.txt").write_text(done.stdout)
    (tmp_path / "progress.txt").write_text(done.stderr)
    assert "right on" in done.stderr, "accuracy before unlearning comes first"
    assert "training takes about" in done.stderr, "the cost is said before the work"
    found = json.loads((tmp_path / "runs" / "verify" / "verify.json").read_text())
    assert [subject["unlearned"] for subject in found["subjects"]] == [False, True]
    assert found["subjects"][1]["word"] in WORDS
    assert found["forget"] == 40
    assert found["model"] == "resnet18", "the architecture was found from the weights"
    assert "What may not be said" in (tmp_path / "runs" / "verify" / "report.html").read_text()
    check_same(shown, done.stdout)


def test_what_the_readme_shows_is_held_against_what_was_printed() -> None:
    shown = blocks()[1]
    check_same(shown, shown)
    for change in (("your model", "my model"), ("after pgu ", "after ssd ")):
        with pytest.raises(AssertionError):
            check_same(shown, shown.replace(*change))
    cell = next(cell for cell in rows(shown)["your model"] if "%" in cell)
    with pytest.raises(AssertionError):
        check_same(shown, shown.replace(cell, "1.0 %", 1))
