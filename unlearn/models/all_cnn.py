"""All-CNN: convolutions only, strided instead of pooled, before one linear layer."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .width import check_images, scaled

# Channels, kernel size and stride of each convolution at width 1.
_LAYERS = ((96, 3, 1), (96, 3, 1), (192, 3, 2), (192, 3, 1), (192, 3, 1), (192, 3, 2), (192, 3, 1), (192, 1, 1))


def all_cnn(*, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Sequential:
    """Eight times conv, BN, ReLU (96, 96, 192/s2, 192, 192, 192/s2, 192, 192 of 1×1), average over
    the image, linear.

    1.6 million parameters at width 1. On 32×32 images the average runs over 8×8 pixels.

    **Arguments:** images are `(b, in_channels, image_size, image_size)` with `image_size` of 4 or
    more.

    **Returns:** an `nn.Sequential` from images to logits `(b, num_classes)`.

    Raises `ValueError` for sizes and widths that are not allowed.
    """
    check_images("all_cnn", num_classes, in_channels, image_size, smallest=4)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = in_channels
    for number, (base, kernel, stride) in enumerate(_LAYERS, start=1):
        wide = scaled(base, width)
        # A bias ahead of batch normalisation would be taken off again at once.
        layers[f"conv{number}"] = nn.Conv2d(channels, wide, kernel, stride, padding=kernel // 2, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(wide)
        layers[f"relu{number}"] = nn.ReLU()
        channels = wide
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(channels, num_classes)
    return nn.Sequential(layers)
