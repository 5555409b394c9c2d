"""ResNet-18 with a width factor.

At width 1 it computes what torchvision's does, under the same names.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .width import check_images, scaled


class _Conv(nn.Conv2d):
    """A convolution without bias whose own initialisation is the one that ResNet uses (He,
    fan-out).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same convolution, without a call that corrupts memory.

        With a stride, a 1×1 convolution only skips pixels. Below 8 channels we skip them first.
        There the backward pass of oneDNN writes past its workspace, on CPUs without AVX-512.
        It takes images stored channels-last to do so. Source: uxlfoundation/oneDNN, issue 6035.
        """
        if self.kernel_size == (1, 1) and self.stride != (1, 1) and self.in_channels < 8:
            rows, columns = self.stride
            return F.conv2d(input[..., ::rows, ::columns], weight, bias)
        return super()._conv_forward(input, weight, bias)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _Conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _Conv(outputs, outputs, 3, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(_Conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + shortcut)


class ResNet18(nn.Module):
    """See `resnet18`."""

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        stem = scaled(64, width)
        self.conv1 = _Conv(in_channels, stem, 7, 2)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs = stem
        for number, base in enumerate((64, 128, 256, 512), start=1):
            outputs = scaled(base, width)
            blocks = BasicBlock(inputs, outputs, 1 if number == 1 else 2), BasicBlock(outputs, outputs, 1)
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            inputs = outputs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)

    def chain(self) -> list[nn.Module]:
        """The modules whose composition is the forward pass, in order."""
        blocks = [block for number in range(1, 5) for block in getattr(self, f"layer{number}")]
        return [self.conv1, self.bn1, self.relu, self.maxpool, *blocks, self.avgpool, nn.Flatten(), self.fc]

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(*, num_classes: int = 200, in_channels: int = 3, image_size: int = 64, width: float = 1.0) -> nn.Module:
    """ResNet-18 (He et al. 2016) as torchvision builds it: 7×7 stem of stride 2, max-pooling, four
    pairs of basic blocks.

    11,279,112 parameters for 200 classes at width 1.

    **Arguments:** images are `(b, in_channels, image_size, image_size)` with `image_size` of 8 or
    more.

    **Returns:** a module from images to logits `(b, num_classes)`.

    Raises `ValueError` for sizes and widths that are not allowed.
    """
    check_images("resnet18", num_classes, in_channels, image_size, smallest=8)
    return ResNet18(num_classes, in_channels, width)
