"""SmallVGG: three convolutions and two linear layers, the paper's model for CIFAR-10."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .width import check_images, scaled


def small_vgg(
    *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, width: float = 1.0
) -> nn.Sequential:
    """conv 128, pool, ReLU, BN; conv 256, pool, ReLU, BN; conv 512, ReLU, BN, pool; dropout; linear
    512, ReLU, BN; linear.

    Batch normalisation has no scale or shift of its own, which is what makes the published
    5,678,858 parameters (32×32 colour images, 10 classes, width 1). `width` scales 128, 256, 512
    and 512.

    **Arguments:** images are `(b, in_channels, image_size, image_size)` with `image_size` of 8 or
    more.

    **Returns:** an `nn.Sequential` from images to logits `(b, num_classes)`.

    Raises `ValueError` for sizes and widths that are not allowed.
    """
    check_images("small_vgg", num_classes, in_channels, image_size, smallest=8)
    first, second, third, hidden = (scaled(channels, width) for channels in (128, 256, 512, 512))
    # Pooling ahead of the ReLU gives the same values and gradients, to the bit, and leaves the ReLU
    # a quarter of the work. The flattening stands before the dropout so that its mask is drawn in
    # the same order whatever the memory layout.
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, first, 3, padding=1),
            pool1=nn.MaxPool2d(2),
            relu1=nn.ReLU(),
            norm1=nn.BatchNorm2d(first, affine=False),
            conv2=nn.Conv2d(first, second, 3, padding=1),
            pool2=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            norm2=nn.BatchNorm2d(second, affine=False),
            conv3=nn.Conv2d(second, third, 3, padding=1),
            relu3=nn.ReLU(),
            norm3=nn.BatchNorm2d(third, affine=False),
            pool3=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(0.5),
            linear1=nn.Linear(third * (image_size // 8) ** 2, hidden),
            relu4=nn.ReLU(),
            norm4=nn.BatchNorm1d(hidden, affine=False),
            linear2=nn.Linear(hidden, num_classes),
        )
    )
