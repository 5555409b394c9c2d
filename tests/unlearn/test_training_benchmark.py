"""What the training benchmark compares: equal warm-up, passes that begin together, and the layout apart from the code."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "training"


@pytest.fixture(scope="module")
def measuring() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    try:
        import measuring

        yield measuring
    finally:
        sys.path.remove(str(FOLDER))


def test_the_pass_that_counts_begins_when_all_are_ready(measuring: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = measuring.Trainee("resnet18", 32, 0.0625, "fast", measuring.BATCH, "cpu", "float32")
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
