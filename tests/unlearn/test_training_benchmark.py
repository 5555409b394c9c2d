"""What the training benchmark compares: equal warm-up, passes that begin together, and the layout apart from the code."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from unlearn import Graphs

from .recorded_graphs import recorder

FOLDER = Path(__file__).parents[2] / "benchmarks" / "training"
SMALL = ("resnet18", 32, 0.0625)


@pytest.fixture(scope="module")
def measuring() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import measuring

        yield measuring


def test_the_pass_that_counts_begins_when_all_are_ready(measuring: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = measuring.Trainee(*SMALL, "fast", measuring.BATCH, "cpu", "float32")
    events: list[str] = []
    monkeypatch.setattr(trainee.loader, "set_epoch", lambda epoch: events.append(f"pass {epoch}"))
    images, seconds = trainee.train(ready=lambda: events.append("ready"))
    assert events == ["pass 0", "ready", "pass 1"]
    assert images == measuring.BATCH, "of one pass"
    assert seconds > 0


def test_all_images_over_the_slowest_time(measuring: ModuleType) -> None:
    assert measuring.rate_of_all([(100, 1.0), (100, 2.0)]) == 100
    assert measuring.rate_of_all([(100, 2.0)]) == 50


def test_the_layout_is_told_apart_from_the_code(measuring: ModuleType) -> None:
    import bench

    assert bench.ratios([2.0, 6.0], [1.0, 2.0]) == {"median": 2.5, "least": 2.0, "largest": 3.0}
    assert bench.ratios([2.0], []) is None


def test_the_plain_way_counts_with_the_better_number_of_workers(measuring: ModuleType) -> None:
    import bench

    def counts(device: str, workers: int, no_plain: bool = False) -> list[int]:
        return bench.worker_counts(SimpleNamespace(device=device, workers=workers, no_plain=no_plain))

    assert counts("cuda", 16) == [0, 16]
    assert counts("cuda", 0) == counts("cpu", 16) == [0]
    assert counts("cuda", 16, no_plain=True) == []
    assert bench.fastest({0: [100.0, 110.0], 16: [90.0, 300.0]}) == 16
    assert bench.fastest({}) is None


def test_the_plain_way_trains_with_the_switches_that_torch_comes_with(measuring: ModuleType) -> None:
    """And the fast path by the project's own, in the same process."""

    def switches() -> tuple[Any, ...]:
        return torch.backends.cudnn.deterministic, torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]

    seen: dict[str, set[tuple[Any, ...]]] = {}
    for path in ("plain", "fast", "plain"):
        trainee = measuring.Trainee(*SMALL, path, measuring.BATCH, "cpu", "float32")
        seen[path] = set()
        trainee.net.register_forward_hook(lambda *given, path=path: seen[path].add(switches()))
        trainee.train()
    assert seen["plain"] == {switches()}
    assert seen["fast"] == {(True, "ieee")}
    assert switches() != (True, "ieee")


def test_workers_stay_from_pass_to_pass(measuring: ModuleType) -> None:
    """Starting them is no part of the plain way's speed."""

    def children() -> set[int | None]:
        return {child.pid for child in multiprocessing.active_children()}

    before = children()
    trainee = measuring.Trainee(*SMALL, "plain", 2 * measuring.BATCH, "cpu", "float32", workers=2)
    assert trainee.train()[0] == 2 * measuring.BATCH
    workers = children() - before
    assert len(workers) == 2
    trainee.train()
    assert children() - before == workers


def test_a_step_is_captured_once_for_all_passes(measuring: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "Graphs", lambda: Graphs(record=recorder, device_type="cpu"))
    trainee = measuring.Trainee(*SMALL, "fast", measuring.BATCH, "cpu", "float32")
    trainee.train()
    trainee.train()
    assert trainee.graphs.captured == 1


def test_a_profile_on_a_gpu_is_of_replays_alone(measuring: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass, after a training that captured the step; what runs at once is counted once, annotations not at all."""
    import bench

    events: list[str] = []

    class Profiler:
        def __init__(self, activities: list[Any]) -> None:
            assert torch.profiler.ProfilerActivity.CUDA in activities

        def start(self) -> None:
            events.append("start")

        def stop(self) -> None:
            events.append("stop")

        def __enter__(self) -> None:
            events.append("set up")

        def __exit__(self, *error: object) -> None:
            pass

        def key_averages(self) -> Any:
            return SimpleNamespace(table=lambda **options: "table")

        def events(self) -> list[Any]:
            def event(start: float, end: float, kind: DeviceType = DeviceType.CUDA, note: bool = False) -> Any:
                return SimpleNamespace(
                    time_range=SimpleNamespace(start=start, end=end), device_type=kind, is_user_annotation=note
                )

            kernels = [event(0, 2e5), event(1e5, 3e5), event(4e5, 5e5)]
            return [*kernels, event(0, 1e6, DeviceType.CPU), event(0, 1e6, note=True)]

    class Trainee:
        def __init__(self, *case: Any) -> None:
            assert case[4] >= 50 * measuring.BATCH, "many replays"

        def train(self, ready: Callable[[], Any] | None = None) -> tuple[int, float]:
            events.append("pass")
            if ready is not None:
                ready()
            events.append("pass")
            return 0, 0.5

    monkeypatch.setattr(bench, "Trainee", Trainee)
    monkeypatch.setattr(torch.profiler, "profile", Profiler)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    for name in ("DISABLE_CUPTI_LAZY_REINIT", "TEARDOWN_CUPTI"):
        monkeypatch.setenv(name, "")  # put back afterwards
    said = bench.profile(SMALL, "cuda")
    assert events == ["set up", "pass", "pass", "pass", "start", "pass", "stop"]
    assert said.endswith("GPU at work 0.4000 s of the 0.5000 s of a pass of 64 steps: 80 %")


@pytest.mark.medium
def test_a_profile_on_a_cpu_names_operations(measuring: ModuleType) -> None:
    import bench

    assert "aten::" in bench.profile(SMALL, "cpu")


def test_neighbours_are_held_against_all_cores(measuring: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accounts are of all cores, however few the benchmark itself uses."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    ticks = os.sysconf("SC_CLK_TCK")
    everything = iter([0, 5 * ticks])
    clock = iter([10.0, 11.0])
    monkeypatch.setattr(measuring.Neighbours, "_all", lambda self: next(everything))
    monkeypatch.setattr(measuring.Neighbours, "_own", lambda self: 0)
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert measuring.Neighbours().share() == pytest.approx(5 / 8)


def _busy(seconds: float, done: Any, leave: Any) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    done.set()
    leave.wait()


def test_children_are_no_neighbours(measuring: ModuleType) -> None:
    context = multiprocessing.get_context("fork")
    done, leave = context.Event(), context.Event()
    neighbours = measuring.Neighbours()
    before = neighbours._own()
    child = context.Process(target=_busy, args=(0.3, done, leave), daemon=True)
    child.start()
    assert done.wait(60)
    taken = neighbours._own() - before
    leave.set()
    child.join()
    assert taken >= 0.25 * os.sysconf("SC_CLK_TCK")


@pytest.mark.medium
@pytest.mark.parametrize("script", ["bench.py"])
def test_a_script_runs_from_a_checkout_that_is_not_installed(script: str, tmp_path: Path) -> None:
    """`-S` leaves out what makes an editable installation known; torch and the others are found by their folder."""
    environment = {**os.environ, "PYTHONPATH": str(Path(torch.__file__).parents[1])}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)

    assert run("-c", "import torch").returncode == 0
    if run("-c", "import unlearn").returncode == 0:
        pytest.skip("the package lies beside torch: installed, and not as an editable one")
    found = run(str(FOLDER / script), "--help")
    assert found.returncode == 0, found.stderr
    assert "usage" in found.stdout
