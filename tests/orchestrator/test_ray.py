"""The whole line on a local Ray of its own: the same numbers as in one process, workers that die, interruption."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from orchestrator.records.folder import OutputFolder

from .test_experiment import go, untimed

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def start(recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "tests.few_figures",
        "run",
        str(recipe),
        "--output",
        str(out),
        "--address",
        "local",
        "--json",
        *more,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write(document: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_whole_line_gives_the_same_rows_as_one_process(tiny: dict[str, Any], tmp_path: Path) -> None:
    process = start(write(tiny, tmp_path / "tiny.yaml"), tmp_path / "ray")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert document["environment"]["hardware"]["where"].startswith("local Ray")
    assert all(row["status"] == "done" for row in document["rows"])
    inline = go(tiny, tmp_path / "inline")
    assert json.dumps(untimed(document["rows"]), sort_keys=True) == json.dumps(
        untimed(inline.document["rows"]), sort_keys=True
    )
    assert "shadow models: 12 to do" in err
    assert "done in" in err
    assert "Traceback" not in err


@pytest.mark.long
def test_large_populations_go_through_ray_data_and_ray_train(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Logits are the same to the bit. Attackers are not: their data are binned by each worker."""
    recipe = write(tiny, tmp_path / "tiny.yaml")
    large = ["--set", "resources.distributed_rows=1", "--set", "resources.streamed_images=1"]
    process = start(recipe, tmp_path / "ray", *large)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    document = json.loads(out)
    begun = {e["stage"] for e in OutputFolder(tmp_path / "ray").events() if e["event"] == "unit_start"}
    assert begun == {"train", "unlearn", "score"}, "no worker of the queue made logits or attackers"
    inline = go(tiny, tmp_path / "inline").document
    for mine, theirs in zip(document["rows"], inline["rows"], strict=True):
        assert mine["attacks"]["xgboost"]["path"] == "distributed"
        assert theirs["attacks"]["xgboost"]["path"] == "in_process"
        assert abs(mine["metrics"]["auc"] - theirs["metrics"]["auc"]) < 0.1
        errors = [{k: v for k, v in row["metrics"].items() if k.startswith("error_")} for row in (mine, theirs)]
        assert errors[0] == errors[1]
    # A second invocation finds every candidate in the store.
    process = start(recipe, tmp_path / "ray", *large)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert json.loads(out)["environment"]["work"]["units_executed"] == 0


def test_a_killed_worker_costs_the_unit_in_flight(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["training"] |= {"epochs": 60, "batch_size": 32}
    tiny["methods"] = []
    out = tmp_path / "out"
    process = start(write(tiny, tmp_path / "tiny.yaml"), out)
    folder = OutputFolder(out)
    victim = None
    deadline = time.monotonic() + 200
    while victim is None and process.poll() is None and time.monotonic() < deadline:
        if any(event.get("event") == "unit" for event in folder.events()):
            victim = next(
                (
                    p
                    for p in psutil.Process(process.pid).children(recursive=True)
                    if "UnitTrial" in " ".join(_cmdline(p))
                ),
                None,
            )
        time.sleep(0.02)
    assert victim is not None, "no trial actor was seen"
    victim.send_signal(signal.SIGKILL)
    stdout, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert all(row["status"] == "done" for row in json.loads(stdout)["rows"])
    done = [event["unit"] for event in folder.events() if event.get("event") == "unit" and event["status"] == "done"]
    assert len(done) == len(set(done)), "a finished unit ran twice"


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_interrupted_is_130_and_leaves_no_process(tiny: dict[str, Any], tmp_path: Path, number: int) -> None:
    tiny["training"] |= {"epochs": 60, "batch_size": 32}
    out = tmp_path / "out"
    process = start(write(tiny, tmp_path / "tiny.yaml"), out)
    folder = OutputFolder(out)
    deadline = time.monotonic() + 200
    while not any(event.get("event") == "unit" for event in folder.events()) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "resumes" in err
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


@pytest.mark.long
def test_a_failing_method_does_not_take_the_others_down(tiny: dict[str, Any], tmp_path: Path) -> None:
    document = copy.deepcopy(tiny)
    document["methods"] = [
        {"name": "cf_k", "k": 1, "lr": 1e30, "final_lr": 1e30, "epochs": 3},
        {"name": "eu_k", "k": 1},
    ]
    process = start(write(document, tmp_path / "tiny.yaml"), tmp_path / "out")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 1
    rows = {row["method"]: row["status"] for row in json.loads(out)["rows"]}
    assert rows == {"no_unlearn": "done", "retrain": "done", "cf_k": "failed", "eu_k": "done"}
    assert "failed: cf_k" in err


def test_ray_may_have_been_imported_before(tmp_path: Path) -> None:
    """In a notebook `import ray` often comes first, and Ray reads then whether tokens are asked for."""
    code = (
        "import sys, ray; assert ray._raylet.get_authentication_mode() == ray._raylet.AuthenticationMode.DISABLED\n"
        "from orchestrator.engine.ray.session import RaySession\n"
        "session = RaySession('local'); print(session.cpus()); session.close()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
