"""The first example of the README, executed as it stands with fewer shadow models, on a model of a user's own."""

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


@pytest.mark.slow
def test_the_first_example_ends_in_a_table_a_verdict_and_a_page(tmp_path: Path) -> None:
    block = re.search(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    [verify] = [shlex.split(line) for line in block.group(1).replace("\\\n", " ").splitlines()]
    assert verify[:2] == ["orchestrator", "verify"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}

    def ran(*command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *command]
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)

    made = ran(str(ROOT / "examples" / "my_resnet18.py"))
    assert made.returncode == 0, made.stderr
    done = ran("-m", *verify, "--shadows", "5", "--address", "inline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "your model" in done.stdout
    assert "right on" in done.stderr, "accuracy before unlearning comes first"
    assert "training takes about" in done.stderr, "the cost is said before the work"
    found = json.loads((tmp_path / "runs" / "verify" / "verify.json").read_text())
    assert [subject["unlearned"] for subject in found["subjects"]] == [False, True]
    assert found["subjects"][1]["word"] in WORDS
    assert found["forget"] == 80
    assert found["model"] == "resnet18", "the architecture was found from the weights"
    assert "What may not be said" in (tmp_path / "runs" / "verify" / "report.html").read_text()
