"""The chaos suite as tests. What has a finished run beneath it is `slow`; whole scenarios on Ray are `long`."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import checks, disk, files, table
from .__main__ import SCENARIOS
from .lab import Lab, Place
from .scenario import Report
from .watch import Attempts, AttemptWatch

pytestmark = [pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found through /proc")]

# A run of a few seconds.
SMALL = {
    "dataset": {"source": "digits", "limit": {"train": 200, "test": 100}},
    "training": {"lr": 0.05, "final_lr": 0.005, "batch_size": 32, "epochs": 3, "augment": None},
    "shadows": {"originals": 4, "retrained": 4, "split": [2, 1, 1]},
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab whose undisturbed run was made in one process: the numbers are the same anywhere."""
    made = Lab(seed=0, address="inline", **SMALL)
    yield made
    made.close()


@pytest.fixture(scope="module")
def ray_lab() -> Iterator[Lab]:
    made = Lab(seed=0)
    yield made
    made.close()


@pytest.mark.slow
def test_the_undisturbed_run_passes_every_check(lab: Lab) -> None:
    assert checks.check_all(lab.clean.place, restarts=0) == []


@pytest.mark.slow
def test_flipped_bits_in_every_kind_of_object(lab: Lab) -> None:
    report = Report("files", "files")
    files.damage_store(lab, random.Random(0), report, modes=("flipped",))
    assert report.problems == []
    assert report.faults > 15


@pytest.mark.long
def test_damaged_files_of_the_output_folder(lab: Lab) -> None:
    report = Report("files", "files")
    files.damage_folder(lab, random.Random(0), report, together=True)
    assert report.problems == []
    assert report.faults > 30


@pytest.mark.long
@pytest.mark.skipif(not disk.can_mount(), reason="mounting a small tmpfs needs root")
def test_a_full_disk(lab: Lab) -> None:
    report = Report("disk", "disk")
    disk.full_disk(lab, random.Random(0), report, times=1)
    assert report.problems == []
    assert report.faults


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_on_ray(ray_lab: Lab, name: str) -> None:
    title, function, _ = SCENARIOS[name]
    report = Report(name, title)
    options = {"kills": 4} if name == "driver" else {}
    function(ray_lab, random.Random(0), report, **options)
    assert report.problems == []
    assert report.faults or report.notes


def test_executions_are_counted_from_outside(tmp_path: Path) -> None:
    from orchestrator.base.values import digest
    from orchestrator.store import LocalStore

    watch = AttemptWatch(tmp_path / "store")
    store = LocalStore(tmp_path / "store")
    keys = [digest(number) for number in range(3)]
    for key in (keys[0], keys[0]):  # the second one is executed for nothing
        with store.attempt(key) as attempt:
            attempt.path("data").write_bytes(b"x")
            attempt.commit({})
    with store.attempt(keys[1]):
        pass
    store.attempt(keys[2])  # cut off
    watch.close()
    seen = [watch.attempts[key[:16]] for key in keys]
    assert [len(a.begun) for a in seen] == [2, 1, 1]
    assert [len(a.committed) for a in seen] == [1, 0, 0]
    assert [len(a.dropped) for a in seen] == [1, 1, 0]


@pytest.mark.slow
def test_checks_find_what_they_look_for(lab: Lab) -> None:
    """A check that cannot fail shows nothing: each is given something to find."""
    place = files.copy_of_clean(lab, "found")
    _ = place.watch
    assert checks.check_results(place) == checks.check_tracking(place) == []
    results = place.folder / "results.json"
    results.write_text(results.read_text().replace('"auc": 0.', '"auc": 0.0'))
    assert "rows differ" in checks.check_results(place)[0]
    key = next(k for k, mark in place.marks().items() if mark["meta"]["kind"] == "train")
    _execute_again(place, key)
    place.watch.close()
    problems = checks.check_executions(place, restarts=0)
    assert any("for nothing" in problem for problem in problems)
    assert checks.check_executions(place, restarts=0, expected=set()) == []
    (place.store / "tmp" / "left").mkdir()
    assert any("store's tmp" in problem for problem in checks.check_litter(place))
    _leave_run_open(place)
    assert "not finished" in checks.check_tracking(place)[0]


def test_only_what_a_killed_driver_had_in_flight_may_be_tidied_up(tmp_path: Path) -> None:
    """An execution beside another, after a commit, or long after the kill was for nothing."""
    kills = [100.0]
    alone = Attempts(begun=[99.0, 120.0], committed=[130.0], dropped=[101.0], spans=[(99.0, 101.0)])
    beside = Attempts(begun=[99.0, 100.5], committed=[130.0], dropped=[101.0], spans=[(99.0, 101.0)])
    after = Attempts(begun=[98.0, 99.5], committed=[99.0], dropped=[101.0], spans=[(99.5, 101.0)])
    late = Attempts(begun=[99.0], dropped=[111.0], spans=[(99.0, 111.0)])
    found = [
        seen.alone(seen.spans[0]) and checks._follows(seen.spans[0][1], kills) for seen in (alone, beside, after, late)
    ]
    assert found == [True, False, False, False]


@pytest.mark.slow
def test_a_process_that_is_left_is_found(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    monkeypatch.setattr(checks, "PATIENCE", 0.5)
    process = subprocess.Popen(["sleep", "60"], env=lab.environment())
    try:
        assert checks.check_processes(lab, allowed=[process.pid]) == []
        assert f"{process.pid} sleep" in checks.check_processes(lab)[0]
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert checks.check_processes(lab) == []


def _execute_again(place: Place, key: str) -> None:
    from orchestrator.store import LocalStore

    with LocalStore(place.store).attempt(key) as attempt:
        attempt.path("data").write_bytes(b"x")
        attempt.commit({})


def _leave_run_open(place: Place) -> None:
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(place.database)) as connection:
        connection.execute("UPDATE runs SET status = 'RUNNING' WHERE name = 'original-000'")
        connection.commit()


def test_the_table_keeps_each_seed_and_says_which_one_failed(tmp_path: Path) -> None:
    def found(seed: int, problems: list[str]) -> dict[str, Any]:
        report = Report("driver", "SIGKILL of the driver", faults=4, problems=problems, seconds=60.0)
        report.experiments.append(
            {"seconds": 50.0, "restarts": 1, "units_cut_off": 2, "ratio": 1.2, "ratio_with_ray": 0.9}
        )
        origin = {"seed": seed, "commit": "abc", "clean_seconds": 33.2, "start_up_seconds": 2.1, "objects": 84}
        return {"driver": report.document() | origin}

    for seed, problems in ((10, []), (2, ["rows differ"]), (10, ["a process is left"]), (10, [])):
        table.write_table(tmp_path, table.merge(tmp_path, found(seed, problems)), list(SCENARIOS))
    stored = json.loads((tmp_path / table.FILE).read_text())["scenarios"]
    assert [(run["seed"], run["survived"]) for run in stored["driver"]] == [(2, False), (10, True)]
    page = (tmp_path / "README.md").read_text()
    assert "1 of 2 runs of 1 scenarios, 8 faults" in page
    assert "| SIGKILL of the driver | 2, 10 | **1 of 2** | 8 | 4 | 1.20 × (0.90 ×) | 33 s | 2.1 s | abc |" in page
    assert "- Seed 2, 60 s. experiments: 50 s, 1 restart. **not survived**: rows differ" in page
    assert "a process is left" not in page
