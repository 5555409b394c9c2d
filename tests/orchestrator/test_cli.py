"""The command line as a script sees it: exit codes, one clear line for a mistake, JSON alone on standard output."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.commands.cli import COMMANDS, main

Command = Callable[..., tuple[int, str, str]]


def cli(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *args], capture_output=True, text=True, timeout=300, cwd=cwd
    )


@pytest.fixture
def recipe_file(tiny: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from orchestrator.commands.cli import build_parser; build_parser().format_help();"
        "heavy = {'torch', 'ray', 'mlflow', 'xgboost', 'numpy', 'pyarrow', 'pydantic', 'matplotlib'} & set(sys.modules); print(sorted(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: orchestrator")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["rnu", "demo"], "did you mean 'run'"),
        (["run"], "RECIPE"),
        (["run", "dmo"], "allowed: a path, or a name that `orchestrator recipes` lists; did you mean 'demo'"),
        (["run", "league-cifr-mini"], "lists, such as league-cifar-mini"),
        (["run", "demo", "--set", "sead=1"], "did you mean 'seed'"),
        (["run", "demo", "--set", "scenario.per_class=4000"], "scenario.per_class: 4000"),
        (["show", "demo", "--set", "training.lr=fast"], "training.lr: 'fast'"),
        (["status", "nowhere"], "nowhere: no experiment here"),
        (["table", "nowhere"], "results.json is missing"),
        (["store", "verify", "nowhere"], "no store there"),
    ],
)
def test_a_mistake_is_exit_2_and_one_line(
    args: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(args)
    except SystemExit as stopped:  # argparse's own way
        code = stopped.code
    said = capsys.readouterr()
    check_mistake(code, said.out, said.err, words)


def check_mistake(code: int | str | None, out: str, err: str, words: str) -> None:
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


@pytest.mark.medium
def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    result = cli("run", "demo", "--set", "sead=1", cwd=tmp_path)
    check_mistake(result.returncode, result.stdout, result.stderr, "did you mean 'seed'")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in the test's folder; returns its exit code and all that the process printed."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(list(args))
        return code, *capfd.readouterr()

    return call


def test_a_store_that_cannot_be_written_is_exit_3(recipe_file: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = command("run", str(recipe_file), "--address", "inline", "--store", str(tmp_path / "file" / "store"))
    assert code == 3
    assert "--store" in err
    assert "Traceback" not in err


@pytest.mark.medium
def test_run_status_report_table_compare(recipe_file: Path, tmp_path: Path, command: Command) -> None:
    run = ("run", str(recipe_file), "--address", "inline", "--json")
    code, out, err = command(*run)
    assert code == 0, err
    document = json.loads(out)
    assert document["environment"]["work"]["units_reused"] == 0
    folder = tmp_path / "runs" / "tiny"
    for name in (
        "results.json",
        "recipe.yaml",
        "report.html",
        "tables/results.csv",
        "tables/results.md",
        "tables/results.tex",
        "events.jsonl",
    ):
        assert (folder / name).is_file(), name
    assert list((folder / "outputs").glob("*.parquet"))
    assert list((folder / "figures").glob("*.svg"))

    code, out, _ = command(*run)
    assert code == 0
    repeated = json.loads(out)
    assert repeated["environment"]["work"]["units_executed"] == 0
    assert repeated["rows"] == document["rows"]

    here = str(folder)
    assert json.loads(command("status", here, "--json")[1])["state"] == "finished"
    assert "finished" in command("status", here)[1]
    planned = json.loads(command("plan", str(recipe_file), "--json")[1])
    assert all(stage["missing"] == 0 for stage in planned["stages"].values())
    assert command("report", here)[0] == 0
    assert json.loads((folder / "results.json").read_text())["rows"] == document["rows"]
    for form in ("csv", "md", "latex"):
        code, out, _ = command("table", here, "--format", form)
        assert code == 0
        assert "pgu" in out.lower()
    assert command("compare", here, here)[0] == 0
    page, notes = tmp_path / "page.html", tmp_path / "notes.txt"
    notes.write_text("mine")
    assert command("compare", here, here, "--page", str(notes))[0] == 2
    assert notes.read_text() == "mine"
    assert [command("compare", here, here, "--page", str(page))[0] for _ in range(2)] == [0, 0], "its own page goes"
    assert command("watch", here)[0] == 0
    assert "no unit has failed" in command("retry", here, "--failed")[1]
    checked = json.loads(command("store", "verify", str(folder / "store"), "--json")[1])
    assert checked["damaged"] == []
    swept = json.loads(command("store", "gc", str(folder / "store"), "--keep", here, "--json")[1])
    assert swept["would_remove"] == []


def test_plan_leaves_nothing_behind(recipe_file: Path, tmp_path: Path, command: Command) -> None:
    code, out, err = command("plan", str(recipe_file))
    assert code == 0, err
    assert "shadow models" in out
    assert not (tmp_path / "runs").exists()
