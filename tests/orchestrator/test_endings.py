"""How commands end: one line and a code of ours, whatever goes wrong, and whatever standard output is."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.base.errors import EnvironmentFault, UserError
from orchestrator.commands import recipes
from orchestrator.commands.cli import main

ENDINGS: dict[str, tuple[BaseException, int, str]] = {
    "user": (UserError("field: 1: wrong"), 2, "field: 1: wrong"),
    "environment": (EnvironmentFault("disk: full"), 3, "disk: full"),
    "interrupt": (KeyboardInterrupt(), 130, "resumes"),
    "system": (PermissionError(13, "Permission denied", "/x"), 3, "/x: Permission denied"),
    "bug": (AttributeError("'NoneType' object has no attribute 'x'\nmore"), 3, "AttributeError: 'NoneType' object has"),
    "cuda": (AssertionError("Torch not compiled with CUDA enabled"), 3, "AssertionError: Torch not"),
    "memory": (MemoryError(), 3, "MemoryError"),
    "deep": (RecursionError("maximum recursion depth exceeded"), 3, "RecursionError"),
    "text": (UnicodeEncodeError("ascii", "…", 0, 1, "ordinal not in range"), 3, "UnicodeEncodeError"),
    "secret": (RuntimeError("s3://key:hidden@bucket/x is gone"), 3, "s3://***@bucket/x"),
}


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_error_is_one_line_and_a_code_of_the_contract(
    ending: str, as_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error, code, words = ENDINGS[ending]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(recipes, "main", fail)
    assert main(["recipes", *(["--json"] if as_json else [])]) == code
    told = capsys.readouterr()
    assert len(told.err.strip().splitlines()) == 1
    assert words in told.err
    assert "hidden" not in told.err
    if as_json and code != 130:
        assert json.loads(told.out)["exit_code"] == code
    files = list(tmp_path.iterdir())
    if ending in ("bug", "cuda", "memory", "deep", "text", "secret"):
        named = re.search(r"traceback: (\S+)\)", told.err)
        assert named
        assert [Path(named[1])] == files
        assert "Traceback" in files[0].read_text()
        assert "hidden" not in files[0].read_text()
    else:
        assert files == []


def test_a_command_may_run_in_a_thread(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["recipes", "--json"])))
    thread.start()
    thread.join()
    assert codes == [0]


# Prints what no narrow encoding holds; then what `run` prints last.
PRINTING = """
import sys
from orchestrator.commands import cli, printing, recipes
def main(args):
    with printing.shown():
        printing.console(120).print('γ=0.9 ★ ≤ „…“')
        print('γ…'); print('Δ', file=sys.stderr)
    return 1
recipes.main = main
sys.argv = ['orchestrator', 'recipes']
cli.console()
"""


@pytest.mark.medium
@pytest.mark.parametrize(
    ("redirect", "encoding", "codes"),
    [
        ("", "ascii", {1}),
        ("", "latin-1", {1}),
        (">&-", "utf-8", {1}),
        (">&- 2>&-", "ascii", {1}),
        ("| head -0", "utf-8", {1}),
        ("> /dev/full", "utf-8", {3}),
    ],
)
def test_what_standard_output_is_changes_no_ending(redirect: str, encoding: str, codes: set[int]) -> None:
    """1 is what this command comes to. Only a full disk is another ending: its output is lost, and the user wants to know."""
    command = f'set -o pipefail; "{sys.executable}" -c "$CODE" {redirect}'
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "CODE": PRINTING, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode in codes, done.stderr
    assert b"Traceback" not in done.stderr
    if not redirect and encoding == "ascii":
        assert done.stdout.count(b"?") >= 5


@pytest.mark.parametrize(
    ("device", "code", "words"), [("cuda", 3, "no GPU here"), ("gpu", 2, "give cpu, cuda or cuda:N")]
)
def test_a_device_that_is_not_there_is_said_at_once(
    device: str, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    given = ["unlearn", "--model", "m.pt", "--recipe", "demo", "--output", str(tmp_path / "o.safetensors")]
    assert main([*given, "--device", device]) == code
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
