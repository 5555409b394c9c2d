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
from orchestrator.records.folder import OutputFolder
from orchestrator.store import LocalStore

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


@pytest.mark.parametrize("place", ["s3:/bucket/x", "S3://bucket/x", "gs://bucket/x", "https://host/x"])
def test_a_place_that_is_neither_folder_nor_s3_is_refused(
    place: str, recipe_file: Path, tmp_path: Path, command: Command
) -> None:
    before = sorted(tmp_path.iterdir())
    for name in ("run", "plan"):
        code, _, err = command(name, str(recipe_file), "--store", place)
        assert code == 2
        assert err.count("\n") == 1
        assert f"--store: {place!r}: not a store; give a folder or s3://BUCKET/PREFIX" in err
    with pytest.raises(SystemExit, match="2"):
        command("run", str(recipe_file), "--output", place)
    assert [path for path in sorted(tmp_path.rglob("*")) if "bucket" in path.parts] == []
    assert sorted(path for path in tmp_path.iterdir() if path.name != "runs") == before


@pytest.mark.medium
def test_what_a_run_leaves_out_and_what_it_replaces_is_said(
    tiny: dict[str, Any], tmp_path: Path, command: Command
) -> None:
    recipe = tmp_path / "r.yaml"
    tiny["training"]["epochs"] = 1
    tiny["shadows"] = {"originals": 4, "retrained": 4, "split": [1, 1, 2]}
    tiny["methods"], tiny["attacks"] = [{"name": "eu_k", "k": 1}], [{"name": "loss_threshold"}]
    tiny["search"] = {"method": {"name": "eu_k", "k": {"grid": [1, 2]}}, "samples": 2}
    recipe.write_text(yaml.safe_dump(tiny))
    run = ("run", str(recipe), "--address", "inline", "--output", "out")
    code, _, err = command(*run)
    assert code == 0
    assert "search: `run` leaves this section of the recipe out; `orchestrator search` is for it" in err
    assert "search: `plan` leaves" in command("plan", str(recipe))[2]
    assert (
        "replaced"
        not in command(*run)[2] + command(*run, "--set", "methods=[{name: eu_k, k: 1}, {name: cf_k, k: 1}]")[2]
    )
    more = command(*run, "--set", "attacks=[{name: loss_threshold}, {name: gap}]")[2]
    assert "not as in the last run here" not in more, "an attack more replaces nothing"
    assert "attacks: gap: not as in the last run here; what it found is replaced" in command(*run)[2]
    err = command(*run, "--set", "methods=[{name: cf_k, k: 1}]", "--set", "shadows.split=[2,1,1]")[2]
    assert "shadows.split: not as in the last run here, so all its numbers are replaced" in err
    assert "no longer in the recipe, and no longer in the results: eu_k(k=1)" in err
    # Units by the beginning of their names.
    assert "original-003" in command("status", "out", "original-0")[1]
    assert command("retry", "out", "origina")[0] == 0
    assert "did you mean 'original-00" in command("retry", "out", "orignal-003")[2]


@pytest.mark.medium
def test_a_report_of_a_run_at_work_is_refused_and_of_an_unfinished_one_says_so(
    tiny_copy: Path, command: Command
) -> None:
    folder = OutputFolder(tiny_copy)
    folder.lock()
    try:
        assert command("report", str(tiny_copy))[0] == 3
    finally:
        folder.unlock()
    store = tiny_copy / "store"
    rerun = json.loads((tiny_copy / "run.json").read_text())
    (tiny_copy / "run.json").write_text(json.dumps({**rerun, "store": str(store)}))
    made = next(event["unit"] for event in folder.events("unit") if event["stage"] == "unlearn")
    LocalStore(store).remove(made)
    code, _, err = command("report", str(tiny_copy))
    assert code == 0
    assert "1 of " in err
    assert f"rows are not done yet; `orchestrator retry {tiny_copy}` goes on" in err


@pytest.mark.medium
def test_gc_spares_a_store_that_is_in_use_and_one_that_no_kept_folder_uses(
    tiny_copy: Path, tmp_path: Path, command: Command
) -> None:
    store = tiny_copy / "store"
    gc = ("store", "gc", str(store), "--keep", str(tiny_copy), "--yes")
    other = LocalStore(tmp_path / "other")
    with other.attempt("cd" * 32) as attempt:
        attempt.path("a").write_text("a")
        attempt.commit({"kind": "a"})
    code, _, err = command("store", "gc", other.uri, "--keep", str(tiny_copy), "--yes")
    assert code == 2
    assert "nothing of it is in this store" in err
    assert list(other.keys()) == ["cd" * 32]
    folder = OutputFolder(tiny_copy)
    folder.lock()
    try:
        code, _, err = command(*gc)
    finally:
        folder.unlock()
    assert code == 3
    assert "a run is at work in" in err
    claim = LocalStore(store).claim("ab" * 32)
    assert claim is not None
    with claim:
        code, _, err = command(*gc)
    assert code == 3
    assert "units are being made in it (1 now)" in err
    assert list(LocalStore(store).keys())


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
