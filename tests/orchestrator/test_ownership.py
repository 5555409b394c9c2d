"""Nothing is deleted or overwritten that we did not write: whatever lies in a folder, and whichever command is given it."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save_file

from attack.outputs.table import outputs_table
from orchestrator.base.files import temporary_name
from orchestrator.commands.cli import main
from orchestrator.records.folder import OutputFolder
from orchestrator.records.ownership import MARKER
from orchestrator.store import LocalStore

from .conftest import TINY


def contents(folder: Path) -> dict[str, str]:
    """Returns relative path → digest of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of a few seconds, its finished run `out`, outputs to audit, and a folder `mine` of the user's own."""
    tiny, tmp_path = copy.deepcopy(TINY), tmp_path_factory.mktemp("place")
    tiny["training"]["epochs"] = 1
    tiny["shadows"] = {"originals": 3, "retrained": 3, "split": [1, 1, 1]}
    tiny["methods"], tiny["attacks"] = [{"name": "eu_k", "k": 1}], [{"name": "loss_threshold"}]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    (tmp_path / "other.yaml").write_text("name: other\nextends: tiny.yaml\nmodel: {name: all_cnn, width: 0.1}\n")
    write_outputs(tmp_path / "o.parquet")
    shutil.copy(tmp_path / "o.parquet", tmp_path / "o2.parquet")
    mine = tmp_path / "mine"
    for name in ("outputs/mine.parquet", "results.json", "recipe.yaml", "figures/auc.png", "tables/results.csv"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text(f"my own {name}")
    assert main([*RUN[:1], str(tmp_path / "tiny.yaml"), *RUN[2:], str(tmp_path / "out")]) == 0
    return tmp_path


@pytest.fixture
def work(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of all but the finished run."""
    shutil.copytree(place, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("out"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_outputs(path: Path) -> None:
    generator = np.random.default_rng(0)
    tables = []
    for role in ("original", "retrained"):
        for number, fold in enumerate(("train", "validation", "test")):
            labels = np.arange(12) % 3
            logits = generator.normal(size=(12, 3)) + 3.0 * np.eye(3)[labels] * (role == "original")
            tables.append(outputs_table(f"{role}-{number}", role, "", "{}", fold, np.arange(12), labels, logits))
    pq.write_table(pa.concat_tables(tables), path)


RUN = ("run", "tiny.yaml", "--address", "inline", "--quiet", "--output")
OTHER = ("run", "other.yaml", "--address", "inline", "--quiet", "--output")
AUDIT = ("audit", "o.parquet", "--attacks", "loss_threshold", "--output")
COMMANDS: dict[str, tuple[str, ...]] = {
    "run": RUN,
    "search": ("search", "search-demo", "--set", "tracking.uri=null", "--address", "local", "--quiet", "--output"),
    "audit": AUDIT,
    "reproduce": ("reproduce", "table2", "--set", "dataset={source: digits}", "--address", "inline", "--output"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_not_ours_is_refused_untouched(
    command: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(work)
    assert main([*COMMANDS[command], "mine"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert error.startswith("--output: ")
    assert "mine': holds files that are not ours (figures, outputs, recipe.yaml and 2 more)" in error
    assert "--force" in error
    assert contents(work) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_name_is_no_folder(command: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(work)
    with pytest.raises(SystemExit) as end:
        main([*COMMANDS[command], ""])
    assert end.value.code == 2
    assert "names no folder" in capsys.readouterr().err
    assert contents(work) == before


def test_force_says_so_and_removes_nothing(work: Path) -> None:
    before = contents(work / "mine")
    assert main([*RUN, "mine", "--force"]) == 0
    after = contents(work / "mine")
    assert after["outputs/mine.parquet"] == before["outputs/mine.parquet"]
    assert after["results.json"] != before["results.json"]
    assert main([*RUN, "mine"]) == 0, "now it is ours"


@pytest.fixture
def ran(place: Path, work: Path) -> Path:
    """A copy of the finished run's folder, in which the user has left files."""
    shutil.copytree(place / "out", work / "out")
    (work / "out" / "outputs" / "mine.parquet").write_text("mine")
    (work / "out" / "figures" / "roc.png.bak").write_text("mine")
    return work / "out"


def changed(path: str, value: str) -> tuple[str, ...]:
    return (*RUN[:2], "--set", f"{path}={value}", *RUN[2:])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (OTHER, "differs in name, model"),
        (changed("training.epochs", "2"), "differs in training"),
        (changed("seed", "9"), "differs in seed"),
        (changed("scenario.per_class", "4"), "differs in scenario"),
        (changed("dataset.limit.train", "190"), "differs in dataset"),
        (AUDIT, "is a run's folder"),
    ],
    ids=["recipe", "training", "seed", "scenario", "dataset", "audit"],
)
def test_anothers_results_stay(
    command: tuple[str, ...], words: str, ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(ran)
    capsys.readouterr()
    assert main([*command, str(ran)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "--force" in error
    assert contents(ran) == before


def test_a_run_at_work_keeps_its_folder(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = OutputFolder(ran)
    folder.lock()
    try:
        before = {name: digest for name, digest in contents(ran).items() if name != "alive.json"}
        assert main([*AUDIT, str(ran)]) == 2
        assert main([*AUDIT, str(ran), "--force"]) == 3, "not even by force"
        assert "another run is at work" in capsys.readouterr().err
        assert {name: digest for name, digest in contents(ran).items() if name != "alive.json"} == before
    finally:
        folder.unlock()


def test_what_adds_to_an_experiment_is_the_same_one(ran: Path) -> None:
    """Methods, attacks and numbers of models may change; outputs of ours that no method has any more go, others stay."""
    stale = sorted(path.name for path in (ran / "outputs").glob("unlearned-eu_k*"))
    assert stale
    assert main([*changed("methods", "[{name: eu_k, k: 2}]"), str(ran)]) == 0
    assert not any((ran / "outputs" / name).exists() for name in stale)
    assert (ran / "outputs" / "mine.parquet").read_text() == "mine"
    assert (ran / "figures" / "roc.png.bak").read_text() == "mine"


def test_a_figure_of_an_earlier_report_goes_only_if_it_is_ours(ran: Path) -> None:
    old, mine = ran / "figures" / "pareto.svg", ran / "figures" / "gamma.svg"
    old.write_text("drawn by an earlier report")
    mine.write_text("mine")
    OutputFolder(ran).seal([old])
    assert main(["report", str(ran)]) == 0
    assert not old.exists()
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("damage", ["gone", "empty", "torn"])
def test_a_folder_of_an_earlier_version_and_a_damaged_marker_resume(damage: str, ran: Path) -> None:
    marker = ran / MARKER
    whole = marker.read_bytes()
    marker.unlink()
    if damage != "gone":
        marker.write_bytes(b"" if damage == "empty" else whole[:40])
    assert main([*RUN, str(ran)]) == 0
    assert json.loads((ran / "results.json").read_bytes())["environment"]["work"]["units_executed"] == 0
    assert marker.read_bytes() == whole


def test_a_killed_start_resumes(work: Path) -> None:
    """What lies there before the marker does: the lock, the heartbeat, a store that was put in place."""
    folder = work / "out"
    LocalStore(folder / "store")
    (folder / ".lock").write_text("process 1 on here")
    (folder / ".alive.json.0123abcd").write_text("{}")
    assert main([*RUN, "out"]) == 0


def test_what_a_killed_write_left_is_gone_after_the_next_run(ran: Path) -> None:
    torn = [temporary_name(ran / name) for name in ("results.json", "outputs/original.parquet", "figures/roc.svg")]
    mine = [ran / "outputs" / name for name in ("mine.tmp", "original.parquet.1a2b3c4d.tmp")]
    (ran / "figures").mkdir(exist_ok=True)
    for path in torn + mine:
        path.write_bytes(b"half")
    assert main([*RUN, str(ran)]) == 0
    assert [path.exists() for path in torn] == [False] * 3
    assert [path.exists() for path in mine] == [True] * 2, "only names that we alone give"


def test_audits_of_other_outputs_are_other_audits(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*AUDIT, "out"]) == 0
    assert main(["audit", "o.parquet", "--attacks", "entropy_threshold", "--output", "out"]) == 0
    before = contents(work / "out")
    capsys.readouterr()
    assert main(["audit", "o2.parquet", *AUDIT[2:], "out"]) == 2
    assert "holds another audit: it differs in outputs" in capsys.readouterr().err
    assert main([*RUN, "out"]) == 2
    assert "is an audit's folder" in capsys.readouterr().err
    assert contents(work / "out") == before


def test_an_output_that_cannot_be_written_is_said_before_any_work(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("orchestrator.experiments.run.load_data", never)
    monkeypatch.setattr("attack.audit.check.Examination.of", never)
    for command in (RUN, AUDIT):
        assert main([*command, "/proc/nope"]) == 3
        assert "cannot be written" in capsys.readouterr().err


# unlearn: a file instead of a folder


@pytest.fixture
def weights(work: Path) -> Path:
    """The current folder with a checkpoint `m.safetensors`."""
    from orchestrator.plan.data import load_data
    from orchestrator.recipe.recipe import load_recipe
    from orchestrator.work.context import Context

    recipe = load_recipe(work / "tiny.yaml")
    model = Context(None, load_data(recipe, None)).new_model(recipe.model, seed=0)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, work / "m.safetensors")
    return work


def unlearn(output: str, *more: str) -> int:
    given = ["unlearn", "--model", "m.safetensors", "--recipe", "tiny.yaml", "--anyway"]  # the model is untrained
    return main([*given, "--output", output, *more])


@pytest.mark.parametrize(
    ("output", "prepare", "code", "words"),
    [
        ("m.safetensors", lambda at: None, 2, "is --model"),
        ("./sub/../m.safetensors", lambda at: (at / "sub").mkdir(), 2, "is --model"),
        ("link.safetensors", lambda at: (at / "link.safetensors").symlink_to("m.safetensors"), 2, "is --model"),
        ("old.safetensors", lambda at: save_file({"x": torch.ones(1)}, at / "old.safetensors"), 2, "is not ours"),
        ("out.safetensors", lambda at: (at / "out.json").write_text('{"my": 1}'), 2, "is not ours"),
        ("dir.safetensors", lambda at: (at / "dir.safetensors").mkdir(), 2, "is a folder"),
        ("/proc/nope/x.safetensors", lambda at: None, 3, "nothing was started"),
    ],
    ids=["same", "same by another path", "link", "foreign weights", "foreign report", "folder", "not writable"],
)
def test_unlearn_keeps_what_is_there(
    output: str,
    prepare: Callable[[Path], object],
    code: int,
    words: str,
    weights: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(weights)
    before = contents(weights)
    monkeypatch.setattr("orchestrator.commands.unlearn.load_data", lambda *given, **more: pytest.fail("work was begun"))
    assert unlearn(output) == code
    assert words in capsys.readouterr().err
    assert contents(weights) == before


def test_unlearn_replaces_its_own_and_others_by_force(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unlearn("u.safetensors") == 0
    assert unlearn("u.safetensors") == 0, "it is ours"
    (weights / "u.json").write_text('{"my": 1}')
    assert unlearn("u.safetensors") == 2
    assert unlearn("u.safetensors", "--force") == 0
    assert unlearn("m.safetensors", "--force") == 2, "an input is never lost"


def test_garbage_collection_leaves_foreign_files(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ran / "store"
    foreign = ["tmp/notes.txt", "claims/readme", "objects/ab/mine/commit.json", "objects/ab/mine.txt", "tmp/work/a.npy"]
    for name in foreign:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text("mine")
        os.utime(store / name, (0, 0))
    os.utime(store / "tmp" / "work", (0, 0))
    LocalStore(store).attempt("ab" * 32).path("half").write_text("ours")
    ours = next((store / "tmp").glob("abab*"))
    os.utime(ours, (time.time() - 1e6,) * 2)
    capsys.readouterr()
    assert main(["store", "gc", str(store), "--keep", str(ran), "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["litter"] == [f"tmp/{ours.name}"]
    assert not ours.exists()
    assert all((store / name).read_text() == "mine" for name in foreign)
    (ran / "objects").mkdir()
    assert main(["store", "gc", str(ran), "--keep", str(ran), "--yes"]) == 2, "objects/ alone is no store"
