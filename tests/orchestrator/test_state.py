"""Following a run from its folder alone: counts, ETA, running units, failures, and whether its driver still lives."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.base import processes
from orchestrator.base.errors import EnvironmentFault
from orchestrator.commands.cli import main
from orchestrator.commands.status import rate_text, render, render_unit
from orchestrator.commands.watch import picture
from orchestrator.plan.specs import PlainSpec
from orchestrator.plan.units import Outcome, Unit
from orchestrator.records import events, lock
from orchestrator.records.folder import OutputFolder
from orchestrator.records.state import ExperimentState, unit_history
from orchestrator.work.log import recording


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    (tmp_path / "recipe.yaml").write_text("name: tiny\n")
    return OutputFolder(tmp_path)


UNITS = [Unit(PlainSpec("train", {"i": i}), f"original-{i:03d}", cost=10.0 * (i + 1)) for i in range(4)]


def outcome(unit: Unit, status: str = "done", **more: Any) -> Outcome:
    return Outcome(unit.key, unit.name, unit.kind, status, 2.0, where="node-1", **more)


def record(folder: OutputFolder) -> None:
    """Two of four units done, one failed, one running."""
    folder.log_begin("tiny")
    folder.log_stage("train", UNITS, reused=3)
    for unit in UNITS:
        folder.log_start("train", unit, "10.0.0.7")
    folder.log_outcome("train", outcome(UNITS[0]), UNITS[0].cost)
    folder.log_outcome("train", outcome(UNITS[1]), UNITS[1].cost)
    log = [{"time": 1.0, "level": "warning", "logger": "x", "message": "look \x1b[31m out", "host": "node-1", "pid": 7}]
    failed = outcome(UNITS[2], "failed", error="ValueError: bad\x1b[2J", traceback="Traceback\n  deep inside", log=log)
    folder.log_outcome("train", failed, UNITS[2].cost)


def test_counts_eta_running_and_failures(folder: OutputFolder) -> None:
    folder.lock()
    record(folder)
    state = ExperimentState(folder.path)
    state.update()
    stage = state.stages["train"]
    found = state.document(now=stage.since + 30.0)
    assert found["state"] == "running"
    counts = found["stages"]["train"]
    assert (counts["to_do"], counts["stored"], counts["done"], counts["failed"], counts["left"]) == (4, 3, 2, 1, 1)
    # 60 of 100 units of cost took 30 s, so 20 s are left; three of four units did, so 10 s.
    assert counts["seconds_left"] == pytest.approx(15.0)
    assert counts["units_per_second"] == pytest.approx(0.1)
    assert counts["mean_unit_seconds"] == 2.0
    (running,) = found["running"].values()
    assert (running["name"], running["where"], running["attempt"]) == ("original-003", "10.0.0.7", 1)
    (failure,) = found["failures"].values()
    assert failure["name"] == "original-002"
    text = render(found)
    assert "2/4 done, 1 failed, 3 were stored" in text
    assert "running: original-003 on 10.0.0.7" in text
    assert "\x1b" not in text, "what a unit says cannot steer the terminal"
    folder.unlock()
    state.update()
    assert state.state == "stopped"
    assert state.document()["running"] == {}
    assert "resume with" not in render(state.document()), "there is a failure to see first"


def test_before_any_unit_has_ended_nothing_is_estimated(folder: OutputFolder) -> None:
    folder.log_begin("tiny")
    folder.log_stage("train", UNITS, reused=0)
    state = ExperimentState(folder.path)
    state.update()
    state.at_work = True
    counts = state.document()["stages"]["train"]
    assert counts["seconds_left"] is None
    assert counts["units_per_second"] is None
    assert counts["mean_unit_seconds"] is None


def test_following_reads_only_what_is_new_and_survives_torn_lines(folder: OutputFolder) -> None:
    record(folder)
    state = ExperimentState(folder.path)
    assert len(state.update()) == 9
    assert state.update() == []
    path = folder.path / "events.jsonl"
    with path.open("a") as file:
        file.write('{"event": "uni')
    assert state.update() == []
    with path.open("a") as file:
        file.write('t_start", "unit": "k", "stage": "train", "name": "n", "where": "", "attempt": 1, "time": 1}\n')
    assert [event["event"] for event in state.update()] == ["unit_start"]
    with path.open("a") as file:
        file.write('{"event": "torn')  # a driver is killed here
    folder.lock()
    folder.append_event({"event": "interrupted"})
    folder.unlock()
    assert [event["event"] for event in state.update()] == ["interrupted"], "the line after a torn one is not lost"
    path.write_text('{"event": "start", "recipe": "other", "time": 5}\n')
    state.update()
    assert state.recipe == "other", "a file that was made anew is read from its beginning"


def test_a_retried_unit_is_another_attempt(folder: OutputFolder) -> None:
    record(folder)
    later = OutputFolder(folder.path)
    later.log_begin("tiny")
    later.log_stage("train", UNITS[2:3], reused=3)
    later.log_start("train", UNITS[2], "10.0.0.8")
    later.log_outcome("train", outcome(UNITS[2]))
    (unit,) = unit_history(folder.path, UNITS[2].key[:10])
    assert [(a["attempt"], a["status"], a["where"]) for a in unit["attempts"]] == [
        (1, "failed", "node-1"),
        (2, "done", "node-1"),
    ]
    assert unit["log"][0]["attempt"] == 1
    text = render_unit(unit)
    assert "deep inside" in text
    assert "look �[31m out" in text
    assert unit_history(folder.path, "original-002")[0]["unit"] == UNITS[2].key
    assert unit_history(folder.path, UNITS[2].key[:7]) == []


@pytest.mark.medium
def test_a_beat_from_another_machine_counts_while_it_rises(
    folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LOOK_SECONDS", 1.0)
    beat = {"host": "far", "machine": "another", "pid": 5, "count": 0, "time": 0.0, "run": "r"}

    def write(count: int) -> None:
        (folder.path / ".beat").write_text(json.dumps({**beat, "count": count}))
        os.replace(folder.path / ".beat", folder.path / lock.HEARTBEAT)

    write(0)
    assert not folder.is_locked(), "a beat that stays is a driver that died there"
    stop = threading.Event()

    def keep() -> None:
        count = 0
        while not stop.wait(0.2):
            count += 1
            write(count)

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        assert folder.is_locked()
        with pytest.raises(EnvironmentFault, match="process 5 on far"):
            OutputFolder(folder.path).lock()
        state = ExperimentState(folder.path)
        state.update()
        assert state.state == "running"
    finally:
        stop.set()
        thread.join()
    folder.lock()  # taken over from the dead
    assert lock.read_heartbeat(folder.path).machine == processes.boot()  # type: ignore[union-attr]
    folder.unlock()
    assert lock.read_heartbeat(folder.path) is None


@pytest.mark.medium
def test_many_events_are_read_at_once_and_then_only_the_new_ones(folder: OutputFolder) -> None:
    folder.log_begin("big")
    with (folder.path / "events.jsonl").open("a") as file:
        for i in range(100_000):
            file.write(
                json.dumps(
                    {
                        "time": i,
                        "event": "unit",
                        "stage": "train",
                        "unit": f"{i}",
                        "name": "n",
                        "status": "done",
                        "seconds": 1.0,
                    }
                )
                + "\n"
            )
    state = ExperimentState(folder.path)
    state.update()
    assert state.stages["train"].done == 100_000
    tail = events.Tail(folder.path / "events.jsonl")
    list(tail.new())
    folder.append_event({"event": "finished", "failed": 0})
    opened: list[int] = []
    real = tail.new

    def counted() -> Any:
        before = tail._offset
        yield from real()
        opened.append(tail._offset - before)

    assert len(list(counted())) == 1
    assert opened[0] < 200, "bytes read again"


def test_events_of_some_kinds_are_those_among_all(folder: OutputFolder) -> None:
    folder.append_event({"event": "unit", "stage": "train", "unit": "a", "name": "stage_end", "status": "done"})
    folder.append_event({"event": "stage_end", "stage": "unit", "seconds": 1.5})
    with (folder.path / "events.jsonl").open("a") as file:
        file.write('{"time":5,"event":"stage_end","stage":"train","seconds":2}\n{"event": "stage_end", "torn')
    folder.append_event({"event": "unit_start", "stage": "train", "unit": "a", "name": '"event": "unit"'})
    everything = list(folder.events())
    for kinds in (("unit",), ("stage_end",), ("unit", "unit_start"), ("finished",)):
        assert list(folder.events(*kinds)) == [event for event in everything if event["event"] in kinds]
    assert folder.stage_seconds() == {"unit": 1.5, "train": 2.0}


def test_workers_words_are_kept(folder: OutputFolder) -> None:
    import logging
    import warnings

    with recording() as records, warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("that was odd", UserWarning, stacklevel=1)
        logging.getLogger("third.party").warning("careful with %s", "that")
        logging.getLogger("third.party").info("not this")
        logging.getLogger("ray.worker").error("nor that")
    assert [(r["level"], r["message"].split(" (")[0]) for r in records] == [
        ("warning", "that was odd"),
        ("warning", "careful with that"),
    ]
    assert all(r["pid"] == os.getpid() and r["host"] for r in records)


@pytest.mark.medium
def test_the_log_of_a_run_has_a_line_for_each_unit(tiny: dict[str, Any], tmp_path: Path) -> None:
    from .test_experiment import go

    tiny["methods"] = []
    go(tiny, tmp_path / "out")
    folder = OutputFolder(tmp_path / "out")
    done = [event for event in folder.events() if event.get("event") == "unit"]
    lines = [line for line in events.read(folder.path / events.LOG) if line["role"] == "worker"]
    assert {line["unit"] for line in lines} == {event["unit"] for event in done}
    for line in lines:
        assert {"time", "level", "message", "unit", "name", "stage", "attempt", "host", "pid"} <= set(line)
    assert any(
        line["role"] == "driver" and "shadow models" in line["message"]
        for line in events.read(folder.path / events.LOG)
    )
    started = {event["unit"] for event in folder.events() if event.get("event") == "unit_start"}
    assert started == {event["unit"] for event in done}
    finished = next(event for event in folder.events() if event["event"] == "finished")
    assert finished["driver_peak_mib"] > 0


@pytest.mark.parametrize("height", [6, 12, 40])
def test_the_live_view_fits_the_terminal(folder: OutputFolder, height: int) -> None:
    from rich.console import Console

    folder.lock()
    record(folder)
    many = [Unit(PlainSpec("train", {"j": j}), f"more-{j:03d}") for j in range(200)]
    for unit in many:
        folder.log_start("train", unit, "10.0.0.9")
    for unit in many[:20]:
        folder.log_outcome("train", outcome(unit, "failed", error="E: [bold]no markup[/bold]"))
    state = ExperimentState(folder.path)
    state.update()
    console = Console(width=100, height=height, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(picture(state.document(), height))
    text = console.export_text()
    assert len(text.splitlines()) <= height
    assert "tiny  running" in text
    assert "shadow models" in text
    if height >= 12:
        assert "181 running" in text
        assert "[bold]no markup[/bold]" in text
    folder.unlock()


def test_rates_read_well() -> None:
    assert [rate_text(r) for r in (None, 12.5, 0.1, 0.001)] == [
        "no unit yet",
        "12.5 units/s",
        "6 units/min",
        "3.6 units/h",
    ]


def read_terminal(controller: int, shown: list[bytes]) -> None:
    """Reads what is written to a terminal until that is closed: it holds a few kilobytes, a slow watcher draws more."""
    with contextlib.suppress(OSError), os.fdopen(controller, "rb", buffering=0) as screen:
        while piece := screen.read(4096):
            shown.append(piece)


def test_watching_until_the_driver_ends(folder: OutputFolder, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """On a terminal (pty) in this process, beside a thread that stands for the run; then as lines and as JSON."""
    command = ["watch", str(folder.path), "--interval", "0.2"]
    shown: list[bytes] = []

    def play() -> None:
        deadline = time.monotonic() + 60
        while on_terminal and not shown and time.monotonic() < deadline:
            time.sleep(0.01)  # for the watcher: on a busy machine the run would end before it looks
        folder.log_stage("train", UNITS, reused=0)
        for unit in UNITS:
            folder.log_start("train", unit, "here")
            time.sleep(0.2)
            folder.log_outcome("train", outcome(unit, log=[{"message": "look", "level": "warning", "time": 1.0}]))
        folder.append_event({"event": "stage_end", "stage": "train", "seconds": 1.0})
        folder.append_event({"event": "finished", "failed": 0})
        folder.unlock()

    def watch_it() -> int:
        folder.log_begin("tiny")
        folder.lock()
        run = threading.Thread(target=play)
        run.start()
        code = main(command)
        run.join()
        return code

    controller, terminal = pty.openpty()
    on_terminal = True
    reader = threading.Thread(target=read_terminal, args=(controller, shown))
    reader.start()
    with monkeypatch.context() as patch, os.fdopen(terminal, "w") as screen:
        patch.setattr("sys.stdout", screen)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "110")
        patch.setenv("LINES", "30")
        assert watch_it() == 0
    reader.join()
    on_terminal = False
    text = b"".join(shown).decode(errors="replace")
    assert "shadow models" in text
    assert "throughput" in text
    assert "finished" in text
    assert watch_it() == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert printed.strip().endswith("finished")
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "finished"
    assert main(["status", str(folder.path), "original-000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["units"][0]["log"]
    assert main(["status", str(folder.path), "orignal-000"]) == 2
    assert "did you mean 'original-00" in capsys.readouterr().err


@pytest.mark.slow
def test_watching_on_a_terminal_until_the_run_ends(tiny: dict[str, Any], tmp_path: Path) -> None:
    """A real terminal (pty) beside a real run; then as lines, as JSON, and from a unit's id to its log."""
    tiny["training"]["epochs"] = 40  # so that it is still training when the watchers have started
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    base = [sys.executable, "-m", "orchestrator"]
    out = str(tmp_path / "out")
    command = [*base, "run", str(tmp_path / "tiny.yaml"), "--address", "inline", "--quiet", "--output", out]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (tmp_path / "out" / "events.jsonl").exists():
        assert runner.poll() is None
        time.sleep(0.05)
    controller, terminal = pty.openpty()
    lines = subprocess.Popen([*base, "watch", out, "--interval", "0.2"], stdout=subprocess.PIPE, text=True)
    watcher = subprocess.Popen(
        [*base, "watch", out, "--interval", "0.2"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "110", "LINES": "30"},
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            block = os.read(controller, 65536)
        except OSError:
            break
        if not block:
            break
        shown += block
    assert watcher.wait(timeout=60) == 0
    assert runner.wait(timeout=120) == 0
    text = shown.decode(errors="replace")
    assert "shadow models" in text
    assert "throughput" in text
    assert "finished" in text
    printed = lines.communicate(timeout=60)[0]
    assert lines.returncode == 0
    assert "\x1b" not in printed
    assert "unlearning: ended after" in printed
    assert printed.strip().endswith("finished")
    told = subprocess.run([*base, "watch", out, "--json"], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(told.stdout)["state"] == "finished"
    one = subprocess.run([*base, "status", out, "original-000", "--json"], capture_output=True, text=True, timeout=60)
    assert json.loads(one.stdout)["units"][0]["log"]
    wrong = subprocess.run([*base, "status", out, "orignal-000"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 2
    assert "did you mean 'original-00" in wrong.stderr
