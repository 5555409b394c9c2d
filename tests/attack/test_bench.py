"""The benchmark of the attack compares like with like: the plain way in float32, Ray's start told, no import on the clock."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_of_the_attack", ROOT / "benchmarks/attack/bench.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return module


def test_the_plain_way_holds_its_features_in_float32(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import xgboost

    bench.write(tmp_path, 1000, 10)
    kinds: list[Any] = []
    monkeypatch.setattr(xgboost.XGBClassifier, "fit", lambda self, data, truth: kinds.append((data.dtype, data.shape)))
    bench.plain(tmp_path, 10, {})
    assert kinds == [(np.dtype(np.float32), (800, 20))]


def test_rays_start_has_a_field_of_its_own_outside_the_seconds(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import orchestrator.engine.attacker.scores
    import orchestrator.engine.ray.session

    clock = iter(range(1000))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(clock)))

    class Session:
        def __init__(self, address: str) -> None:
            for _ in range(7):  # so many seconds go by
                next(clock)

        def close(self) -> None: ...

    monkeypatch.setattr(orchestrator.engine.ray.session, "RaySession", Session)
    monkeypatch.setattr(orchestrator.engine.attacker.scores, "score_distributed", lambda *_: iter(()))
    bench.write(tmp_path, 1000, 10)
    found = bench.stage("distributed_scores", tmp_path, 10, None)
    assert found["ray_start_seconds"] == 8.0
    assert found["seconds"] == 1.0


def test_xgboost_is_imported_before_the_clock_starts(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that needs no XGBoost imports it too: where it cannot be had, no clock has been looked at."""
    bench.write(tmp_path, 1000, 10)
    looks: list[int] = []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: looks.append(1) or 0.0)
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(ImportError):
        bench.stage("decode", tmp_path, 10, None)
    assert looks == []
