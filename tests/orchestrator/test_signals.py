"""SIGINT and SIGTERM at any moment: exit code 130 within ten seconds, no process left, and the same command resumes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from orchestrator.commands import cli
from orchestrator.records.folder import OutputFolder

from .fault_proxy import FaultProxy
from .test_tracking import free_port

STAGES = ("train", "unlearn", "outputs", "attack", "score")
LIMIT = 60.0  # for a busy machine; that ten seconds are kept is the watchdog's part, tested alone


def start(command: str, recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "tests.few_figures", command, str(recipe), "--output", str(out), *more]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], out: Path, **wanted: Any) -> None:
    """Waits for an event with these values."""
    folder = OutputFolder(out)
    deadline = time.monotonic() + 200
    while not any(wanted.items() <= event.items() for event in folder.events()):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)


def interrupt(process: subprocess.Popen[str], number: int) -> str:
    """Sends the signal and checks all that is promised; returns standard error."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, err
    assert "resumes" in err
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    return err


def finish(out: Path, recipe: Path) -> None:
    """The same command ends it, and nothing that was finished runs again."""
    resumed = start("run", recipe, out, "--address", "inline", "--json")
    stdout, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, err
    assert all(row["status"] == "done" for row in json.loads(stdout)["rows"])
    done = [e["unit"] for e in OutputFolder(out).events() if e.get("event") == "unit" and e["status"] == "done"]
    assert len(done) == len(set(done)), "a finished unit ran twice"


@pytest.fixture
def recipe(tiny: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", ["train", "outputs", *(pytest.param(s, marks=pytest.mark.long) for s in ("unlearn", "attack", "score"))]
)
def test_inline_in_each_stage(recipe: Path, tmp_path: Path, stage: str) -> None:
    out = tmp_path / "out"
    process = start("run", recipe, out, "--address", "inline")
    wait_for(process, out, event="stage_start", stage=stage)
    interrupt(process, signal.SIGTERM if STAGES.index(stage) % 2 else signal.SIGINT)
    finish(out, recipe)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.parametrize("stage", STAGES[:4])
def test_local_ray_in_each_stage(recipe: Path, tmp_path: Path, stage: str) -> None:
    out = tmp_path / "out"
    process = start("run", recipe, out, "--address", "local")
    wait_for(process, out, event="stage_start", stage=stage)
    time.sleep(0.5)
    interrupt(process, signal.SIGINT if STAGES.index(stage) % 2 else signal.SIGTERM)
    finish(out, recipe)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_while_mlflow_does_not_answer(tiny: dict[str, Any], tmp_path: Path, number: int) -> None:
    """The writer hangs in a request that is never answered: that keeps nobody."""
    proxy = FaultProxy(free_port())
    proxy.fault = lambda method, path: 300.0
    tiny["tracking"] = {"uri": proxy.uri}
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny))
    out = tmp_path / "out"
    try:
        process = start("run", recipe, out, "--address", "inline")
        wait_for(process, out, event="stage_start", stage="unlearn")
        deadline = time.monotonic() + 60
        while not proxy.seen and time.monotonic() < deadline:
            time.sleep(0.05)
        interrupt(process, number)
    finally:
        proxy.close()


class Sender:
    """Sends this process a signal where a stage begins, and runs the command in this process."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self._patch, self._capsys = patch, capsys
        self.stages: list[str] = []
        self._log = OutputFolder.log_stage
        patch.setattr(
            OutputFolder, "log_stage", lambda folder, stage, *given, **more: self._stage(folder, stage, *given, **more)
        )
        patch.setattr(cli, "_end_later", lambda: None)  # that would end the tests

    def _stage(self, folder: OutputFolder, stage: str, *given: Any, **more: Any) -> None:
        self._log(folder, stage, *given, **more)
        if stage in self.stages:
            os.kill(os.getpid(), signal.SIGTERM if STAGES.index(stage) % 2 else signal.SIGINT)

    def interrupted(self, arguments: list[str], stage: str) -> None:
        """Runs the command and checks all that is promised."""
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._patch.setattr(cli, "_interrupted", False)
        self._patch.setattr(cli, "signals_seen", [])
        self.stages = [stage]
        try:
            assert cli.main(arguments) == 130
        finally:
            self.stages = []
            for number, handler in handlers.items():
                signal.signal(number, handler)
        err = self._capsys.readouterr().err
        assert "resumes" in err
        assert "Traceback" not in err


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Sender]:
    """See `Sender`."""
    # Where the tests run in the background, a shell has had them ignore SIGINT.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Sender(monkeypatch, capsys)
    signal.signal(signal.SIGINT, handler)


@pytest.mark.medium
def test_in_this_process_in_one_stage_after_another(
    sender: Sender, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each interruption is resumed by the next command; the last one ends the work."""
    arguments = ["run", str(recipe), "--output", str(tmp_path / "out"), "--address", "inline", "--json"]
    for stage in STAGES:
        sender.interrupted(arguments, stage)
    assert cli.main(arguments) == 0
    assert all(row["status"] == "done" for row in json.loads(capsys.readouterr().out)["rows"])
    events = OutputFolder(tmp_path / "out").events("unit")
    done = [event["unit"] for event in events if event["status"] == "done"]
    assert len(done) == len(set(done)), "a finished unit ran twice"


@pytest.mark.medium
def test_in_this_process_while_mlflow_does_not_answer(tiny: dict[str, Any], sender: Sender, tmp_path: Path) -> None:
    proxy = FaultProxy(free_port())
    proxy.fault = lambda method, path: 20.0
    tiny |= {"tracking": {"uri": proxy.uri}, "methods": []}
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny))
    begun = time.monotonic()
    try:
        sender.interrupted(["run", str(recipe), "--output", str(tmp_path / "out"), "--address", "inline"], "outputs")
    finally:
        proxy.close()
    assert time.monotonic() - begun < 20, "it waited for the answer"
    assert proxy.seen, "MLflow was asked"


@pytest.mark.medium
def test_what_does_not_stop_is_stopped(tmp_path: Path) -> None:
    """A clean-up that never ends, and a child with it, are ended by force; a second signal does it at once."""
    code = """
import subprocess, sys, time, types
import orchestrator.commands.cli as cli

def main(args):
    try:
        print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
        time.sleep(600)
    finally:
        time.sleep(600)

command = types.ModuleType("orchestrator.commands.stubborn")
command.main = main
sys.modules[command.__name__] = command
cli.COMMANDS["stubborn"] = cli.Command("stubborn", lambda parser: None, "ends never")
cli.GRACE_SECONDS = float(sys.argv[1])
sys.exit(cli.main(["stubborn"]))
"""
    for grace, signals in (("1.0", 1), ("600", 2)):
        process = subprocess.Popen(
            [sys.executable, "-c", code, grace], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        child = int(process.stdout.readline())
        for _ in range(signals):
            os.kill(process.pid, signal.SIGTERM)
            time.sleep(1.0)  # two that come together are one
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "resumes" in err
        assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


COMMAND = """
import ctypes, sys, threading, types
import orchestrator.commands.cli as cli

def deadlock(args):
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    print("locked", flush=True)
    for _ in range(2):
        libc.pthread_mutex_lock(mutex)

def finish(args):
    print("done", flush=True)
    return 7

command = types.ModuleType("orchestrator.commands.probe")
command.main = globals()[sys.argv[1]]
sys.modules[command.__name__] = command
cli.COMMANDS["probe"] = cli.Command("probe", lambda parser: None, "stands for a command")
cli.GRACE_SECONDS = 1.0
"""


@pytest.mark.medium
def test_a_main_thread_that_hangs_in_c_code_is_ended_all_the_same() -> None:
    """As in a library that joins a cluster: no Python handler runs there."""
    code = f"{COMMAND}sys.exit(cli.main(['probe']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "deadlock"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "resumes" in err


def test_commands_run_in_any_thread() -> None:
    code = (
        f"{COMMAND}found = []\n"
        "thread = threading.Thread(target=lambda: found.append(cli.main(['probe'])))\n"
        "thread.start(); thread.join(); sys.exit(found[0])"
    )
    done = subprocess.run([sys.executable, "-c", code, "finish"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (7, "done\n", "")


@pytest.mark.parametrize("moment", ["exit handlers", "interpreter's own end"])
def test_in_the_last_moment(moment: str) -> None:
    """A signal to a process that has done its work: it ends with the code of that work, not with the signal's number."""
    code = """
import atexit, os, signal, sys, types
import orchestrator.commands.cli as cli

def kill():
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):
        kill(pid, number)

def main(args):
    print("the work is done")
    if sys.argv[1] == "exit handlers":
        atexit.register(kill)
    else:
        sys.kept = Late()
    return 1

command = types.ModuleType("orchestrator.commands.short")
command.main = main
sys.modules[command.__name__] = command
cli.COMMANDS["short"] = cli.Command("short", lambda parser: None, "ends at once")
cli._parse = lambda argv: types.SimpleNamespace(command="short")
cli.console()
"""
    done = subprocess.run([sys.executable, "-c", code, moment], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "the work is done\n", "")


@pytest.mark.medium
def test_a_reader_that_is_gone() -> None:
    """`orchestrator schema | head -1` is no failure."""
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""


@pytest.mark.medium
def test_nobody_reads_the_progress_of_this_process_any_more(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny |= {"shadows": {"originals": 3, "retrained": 3, "split": [1, 1, 1]}, "methods": []}
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump({**tiny, "attacks": [{"name": "loss_threshold"}]}))
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", buffering=1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        assert cli.main(["run", str(recipe), "--output", str(out), "--address", "inline"]) == 0
    with contextlib.suppress(BrokenPipeError):
        stream.close()
    assert all(row["status"] == "done" for row in json.loads((out / "results.json").read_text())["rows"])


@pytest.mark.slow
def test_nobody_reads_the_progress_any_more(tiny: dict[str, Any], tmp_path: Path) -> None:
    """`orchestrator run … 2>&1 | head -1`, or a `tee` that died: the run goes on to its end."""
    tiny |= {"shadows": {"originals": 3, "retrained": 3, "split": [1, 1, 1]}, "methods": []}
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump({**tiny, "attacks": [{"name": "loss_threshold"}]}))
    process = start("run", recipe, out, "--address", "inline")
    assert process.stderr is not None
    assert process.stdout is not None
    assert process.stderr.readline()
    process.stderr.close()
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert all(row["status"] == "done" for row in json.loads((out / "results.json").read_text())["rows"])


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.parametrize("command", ["search", "reproduce"])
def test_search_and_reproduce(tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"
    if command == "search":
        arguments = ["search", "search-demo", "--output", str(out), "--set", "tracking.uri=null"]
        folder = out
    else:
        arguments = ["reproduce", "table2", "--output", str(out), "--set", "dataset={source: digits}"]
        arguments += ["--set", "tracking.uri=null", "--set", "scenario.per_class=2"]
        folder = out
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        logs = list(folder.rglob("events.jsonl")) if folder.exists() else []
        if any(event.get("event") == "unit" for log in logs for event in OutputFolder(log.parent).events()):
            break
        time.sleep(0.1)
    interrupt(process, signal.SIGINT)
