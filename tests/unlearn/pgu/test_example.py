"""The worked example runs as it is printed, and shows what it says."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "unlearn_resnet18.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    spec = importlib.util.spec_from_file_location("unlearn_resnet18", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.example(gamma=0.75, top_k=3, save=tmp_path_factory.mktemp("example") / "moments.safetensors")


def test_the_forget_set_is_forgotten_and_the_rest_is_not(found: dict[str, float]) -> None:
    assert found["forget set/original"] > found["test set/original"] + 0.05, "it was remembered"
    assert found["forget set/unlearned"] < found["forget set/original"]
    assert abs(found["forget set/unlearned"] - found["forget set/retrained"]) < 0.15
    for name in ("retain set", "test set"):
        assert found[f"{name}/unlearned"] > found[f"{name}/original"] - 0.03
