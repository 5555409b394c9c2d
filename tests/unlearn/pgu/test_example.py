"""The worked example runs and shows what it says: on its own model, and on a narrower one in less time."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

EXAMPLE = Path(__file__).parents[3] / "examples" / "unlearn_resnet18.py"


class Narrow(ResNet):
    """torchvision's ResNet-18 with a quarter of the channels in each stage."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.fc = nn.Linear(512 // 4, 10)

    def _make_layer(self, block, planes, *args, **options):
        return super()._make_layer(block, planes // 4, *args, **options)


def narrow(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Narrow()


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unlearn_resnet18", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.medium
@pytest.mark.parametrize("own_model", [pytest.param(None, marks=pytest.mark.long, id="as it is"), narrow])
def test_the_forget_set_is_forgotten_and_the_rest_is_not(
    example: ModuleType, own_model: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own_model is not None:
        monkeypatch.setattr(example, "own_model", own_model)
    found = example.example(gamma=0.75, top_k=3, save=tmp_path / "moments.safetensors")
    assert found["forget set/original"] > found["test set/original"] + 0.05, "it was remembered"
    # The early stop brings it down to what the model does on data that it never saw.
    assert found["test set/original"] - 0.15 < found["forget set/unlearned"] < found["forget set/original"]
    for name, points in (("retain set", 0.03), ("test set", 0.08)):  # 200 test images: ±0.03 by chance alone
        assert found[f"{name}/unlearned"] > found[f"{name}/original"] - points
