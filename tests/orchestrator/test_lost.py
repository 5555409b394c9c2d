"""What a run leaves and finds when things die around it: folders of killed owners, a Ray that is gone, damaged files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.base.errors import EnvironmentFault
from orchestrator.base.scratch import ScratchFolder, sweep
from orchestrator.engine.ray import watchdog
from orchestrator.engine.ray.watchdog import Watchdog
from orchestrator.experiments.run import RunResult, rebuild
from orchestrator.records.folder import OutputFolder
from orchestrator.store import LocalStore

from .test_experiment import go, untimed


def test_folders_of_killed_owners_are_swept_and_no_others(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from orchestrator.base.scratch import ScratchFolder\n"
        "print(ScratchFolder('orc-', Path(sys.argv[1])).path, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    foreign = tmp_path / "orc-of-something-else"
    foreign.mkdir()
    mine = ScratchFolder("orc-", tmp_path)
    assert left.is_dir(), "its owner lives"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert sweep("orc-", tmp_path) == 1
    assert not left.exists()
    assert mine.path.is_dir()
    assert foreign.is_dir()
    mine.close()
    mine.close()
    assert list(tmp_path.iterdir()) == [foreign]


@pytest.fixture
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, socket.socket, Watchdog]]:
    """A raylet's and a head's socket, and a watchdog that is quick to give up."""
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "RAYLET_SECONDS", 0.3)
    monkeypatch.setattr(watchdog, "HEAD_SECONDS", 0.3)
    # Where the tests run in the background, a shell has had them ignore what the command line would have set up.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    raylet = socket.socket(socket.AF_UNIX)
    raylet.bind(str(tmp_path / "raylet"))
    raylet.listen(64)
    head = socket.create_server(("127.0.0.1", 0), backlog=64)
    line = Watchdog(str(tmp_path / "raylet"), f"127.0.0.1:{head.getsockname()[1]}")
    yield raylet, head, line
    line.close()
    raylet.close()
    head.close()
    signal.signal(signal.SIGINT, handler)


@pytest.mark.medium
@pytest.mark.parametrize(("which", "words"), [(0, "raylet"), (1, "head of the Ray cluster")])
def test_work_that_waits_for_a_lost_ray_ends_with_a_clear_line(sockets: Any, which: int, words: str) -> None:
    raylet, head, line = sockets
    with line.guard():
        time.sleep(0.5)
    line.check()
    (raylet, head)[which].close()

    def wait() -> None:
        with line.guard():
            time.sleep(30)

    with pytest.raises(EnvironmentFault, match=f"{words}.*same command"):
        wait()
    with pytest.raises(EnvironmentFault, match=words):
        line.check()


def test_an_interruption_is_not_taken_for_a_lost_ray(sockets: Any) -> None:
    def interrupted() -> None:
        with sockets[2].guard():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_a_torn_event_takes_no_other_with_it(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.append_event({"event": "start", "recipe": "x"})
    log = tmp_path / "events.jsonl"
    log.write_bytes(log.read_bytes() + b'{"time": 1, "event": "uni')
    folder.append_event({"event": "finished", "failed": 0})
    assert [event["event"] for event in folder.events()] == ["start", "finished"]


@pytest.mark.parametrize(
    "line",
    [
        {"event": "unit", "stage": "train", "unit": "k", "name": "n", "statur": "failed"},
        {"event": "unit", "stage": "train", "unit": 5, "name": "n", "status": "failed"},
        {"event": "stage_end", "stage": "train"},
        {"event": "stage_start", "stage": "train", "units": "4", "reused": 0},
        {"evenu": "unit"},
        {"event": ["unit"]},
    ],
)
def test_an_event_with_a_flipped_bit_is_skipped(tmp_path: Path, line: dict[str, Any]) -> None:
    from orchestrator.commands.status import render
    from orchestrator.records.state import ExperimentState

    (tmp_path / "events.jsonl").write_text(json.dumps({"time": 1.0, **line}) + "\n")
    folder = OutputFolder(tmp_path)
    folder.append_event({"event": "stage_end", "stage": "score", "seconds": 1.0})
    assert folder.failures() == {}
    assert folder.stage_seconds() == {"score": 1.0}
    state = ExperimentState(tmp_path)
    state.update(wait=False)
    assert render(state.document())


def test_an_unreadable_store_address_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"store": "s3://buc')
    with pytest.raises(EnvironmentFault, match=r"run\.json"):
        OutputFolder(tmp_path).store_uri()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ValueError("local_filesys.cc:37: Check failed: FileStream.Write incomplete"),
    ],
)
def test_a_full_disk_is_no_fault_of_the_unit(tiny: Any, tmp_path: Path, monkeypatch: Any, error: Exception) -> None:
    from orchestrator.work import execute

    def full(*given: Any) -> Any:
        raise error

    monkeypatch.setitem(execute.KINDS, "train", full)
    with pytest.raises(EnvironmentFault, match="no space left"):
        go(tiny, tmp_path / "out")
    monkeypatch.setitem(execute.KINDS, "train", lambda *given: (_ for _ in ()).throw(ValueError("another")))
    assert go(tiny, tmp_path / "out").failed


@pytest.fixture(scope="module")
def finished(tiny_run: RunResult, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A copy of the finished run for these tests to damage. Each leaves it whole again."""
    from .conftest import TINY

    return go(TINY, Path(shutil.copytree(tiny_run.folder, tmp_path_factory.mktemp("damaged") / "out")))


def flip(path: Path) -> None:
    """Flips a bit in the middle; size and time stamp stay, as on a failing disk."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def score(folder: Path) -> Path:
    store = LocalStore(folder / "store")
    key = next(iter(sorted(key for key in list(store.keys()) if store.meta(key)["kind"] == "score")))
    return store.root / "objects" / key[:2] / key / "curves.json"


def test_a_flipped_bit_in_what_the_driver_reads_is_mended(finished: RunResult) -> None:
    from .conftest import TINY

    flip(score(finished.folder))
    again = go(TINY, finished.folder)
    assert again.document["environment"]["work"]["units_executed"] == 1
    assert untimed(again.document["rows"]) == untimed(finished.document["rows"])


def test_report_of_a_damaged_store_is_a_line_that_says_what_to_do(finished: RunResult) -> None:
    from .conftest import TINY

    flip(score(finished.folder))
    with pytest.raises(EnvironmentFault, match="orchestrator retry"):
        rebuild(OutputFolder(finished.folder))
    go(TINY, finished.folder)
    rebuild(OutputFolder(finished.folder))


@pytest.mark.parametrize("name", ["outputs/original.parquet", "report.html", "figures/auc.png", "tables/results.md"])
def test_a_derived_file_that_is_damaged_is_written_again(finished: RunResult, name: str) -> None:
    from .conftest import TINY

    path = finished.folder / name
    before = path.read_bytes()
    flip(path)
    damaged = path.read_bytes()
    assert damaged != before
    again = go(TINY, finished.folder)
    assert again.document["environment"]["work"]["units_executed"] == 0
    assert path.read_bytes() != damaged
    assert len(path.read_bytes()) == pytest.approx(len(before), rel=0.01)
    unchanged = path.stat().st_mtime_ns
    go(TINY, finished.folder)
    assert path.stat().st_mtime_ns == unchanged, "what is whole is not written again"


def test_facts_are_not_taken_from_damaged_results(finished: RunResult) -> None:
    from .conftest import TINY

    path = finished.folder / "results.json"
    path.write_text(path.read_text().replace('"torch": "2.', '"torch": "3.'))
    again = go(TINY, finished.folder)
    assert again.document["environment"]["versions"]["torch"].startswith("2.")


def test_processes_of_a_ray_are_known_by_their_open_files_too(tmp_path: Path) -> None:
    """A process that gave itself a title, as Ray's agents do, has overwritten its mark."""
    from orchestrator.engine.ray.reaper import MARK, marked

    folder, code = (
        tmp_path / "orc-x",
        "import sys, time; f = open(sys.argv[1], 'w'); print('open', flush=True); time.sleep(60)",
    )
    folder.mkdir()
    environments = {
        "mark": {**os.environ, MARK: str(folder)},
        "file": {**os.environ},
        "tail": {**os.environ},
        "neither": {**os.environ},
    }
    processes = {}
    for name, environment in environments.items():
        path = (folder if name in ("file", "tail") else tmp_path) / f"{name}.log"
        title = "tail" if name == "tail" else "ray::Agent"
        processes[name] = subprocess.Popen(
            [title, "-c", code, path], executable=sys.executable, env=environment, stdout=subprocess.PIPE
        )
        assert processes[name].stdout.readline()
    try:
        assert sorted(marked(str(folder))) == sorted(processes[name].pid for name in ("mark", "file"))
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


@pytest.mark.medium
def test_what_a_killed_driver_leaves_of_its_ray_is_ended(tmp_path: Path) -> None:
    """The agents of Ray outlive a killed driver by a minute or more; the reaper does not let them."""
    import subprocess
    import sys
    import time

    from orchestrator.engine.ray.reaper import MARK, marked

    folder = tmp_path / "ray"
    folder.mkdir()
    script = (
        "import os, subprocess, sys, time; from pathlib import Path; from orchestrator.engine.ray.reaper import *; "
        "folder = sys.argv[1]; reaper = OrphanReaper(Path(folder)); "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'], env={**os.environ, MARK: folder}, "
        "start_new_session=True); print('up', flush=True); time.sleep(300)"
    )
    driver = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"up\n"
    assert MARK
    assert len(marked(str(folder))) == 1
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 60
    while (marked(str(folder)) or folder.exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert marked(str(folder)) == []
    assert not folder.exists()


@pytest.mark.medium
def test_a_killed_creation_of_the_sqlite_store_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is half migrated can never be opened again: it appears whole, or not at all."""
    from mlflow.tracking import MlflowClient

    from orchestrator.records.mlflow_server import create_sqlite

    path = tmp_path / "mlflow.db"
    search = MlflowClient.search_experiments

    def cut_off(client: Any, *args: Any, **options: Any) -> Any:
        assert not path.exists()
        assert client.tracking_uri.startswith(f"sqlite:///{tmp_path}/.mlflow.db.")
        Path(client.tracking_uri.removeprefix("sqlite:///")).write_bytes(b"half migrated")
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, "search_experiments", cut_off)
    with pytest.raises(KeyboardInterrupt):
        create_sqlite(path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(MlflowClient, "search_experiments", search)
    (tmp_path / ".mlflow.db.dead.new").write_bytes(b"left by a kill")
    create_sqlite(path)
    assert [p.name for p in tmp_path.iterdir()] == ["mlflow.db"]
    assert MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
