"""A small network of every kind of layer, and data that it learns and remembers."""

from typing import Any

import torch
from torch import Tensor, nn

from unlearn import PGU, Method

Batches = list[tuple[Tensor, Tensor]]


class Net(nn.Module):
    """Convolutions plain, strided, grouped and dilated, normalisation of both kinds, and two linear layers."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=2)
        self.conv3 = nn.Conv2d(16, 16, 3, dilation=2, padding=1, padding_mode="reflect", bias=False)
        self.dropout = nn.Dropout(dropout)
        self.linear1 = nn.Linear(16 * 9, 24)
        self.norm2 = nn.BatchNorm1d(24)
        self.linear2 = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.conv2(x))
        x = self.dropout(torch.relu(self.conv3(x)).flatten(1))
        return self.linear2(torch.relu(self.norm2(self.linear1(x))))


LAYERS = ["conv1", "conv2", "conv3", "linear1", "linear2"]


def batches(images: Tensor, labels: Tensor, size: int = 64) -> Batches:
    return list(zip(images.split(size), labels.split(size), strict=True))


def patterned(count: int, seed: int, strength: float = 0.2) -> tuple[Tensor, Tensor]:
    """Images of five classes that differ by a faint pattern under noise: learnt, and not without remembering."""
    patterns = torch.randn(5, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 5
    noise = torch.randn(count, 3, 10, 10, generator=torch.Generator().manual_seed(seed))
    return strength * patterns[labels] + noise, labels


def fitted(images: Tensor, labels: Tensor, dropout: float = 0.2) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net(dropout)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for _ in range(12):
            for part, classes in batches(images, labels):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(part), classes).backward()
                optimizer.step()
    return net.eval()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: model.get_submodule(name).weight.detach().double() for name in LAYERS}


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def ten_steps(**changes: Any) -> Method:
    settings = {"epochs": 10, "lr": 0.05, "final_lr": 0.01, "batch_size": 1000, "early_stop": None, "gamma": 0.9}
    return PGU.of(**{**settings, **changes})
