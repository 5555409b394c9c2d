"""Convolutions on very small images as matrix products, beside the library's convolution: time of forward and backward.

    python benchmarks/training/whole_image.py

The layers are those of ResNet-18 on 32×32 images (2×2 and 1×1 where it is deep). One thread; the fastest of six runs.
The last line is JSON.
"""

from __future__ import annotations

import json
import time

import torch
from torch import Tensor, nn

from unlearn.core.memory import keep_freed_memory
from unlearn.training.whole_image import whole_image_products

# inputs, outputs, stride, image side; all 3×3 with padding 1
LAYERS = ((256, 256, 1, 2), (256, 512, 2, 2), (512, 512, 1, 1), (512, 512, 1, 2))


def milliseconds(layer: nn.Conv2d, images: Tensor, gradient: Tensor) -> float:
    """Of one forward and backward pass."""
    best = float("inf")
    for _ in range(7):
        layer.zero_grad()
        images.grad = None
        start = time.perf_counter()
        layer(images).backward(gradient)
        best = min(best, time.perf_counter() - start)
    return 1000 * best


def main() -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    rows = []
    print("| batch | layer | image | convolution, ms | product, ms | ratio |\n|---|---|---|---|---|---|")
    with keep_freed_memory():
        for batch in (64, 256):
            for inputs, outputs, stride, side in LAYERS:
                layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False).to(memory_format=torch.channels_last)
                images = torch.randn(batch, inputs, side, side).contiguous(memory_format=torch.channels_last)
                images.requires_grad_()
                gradient = torch.randn_like(layer(images))
                usual = milliseconds(layer, images, gradient)
                with whole_image_products(layer):
                    ours = milliseconds(layer, images, gradient)
                shape = f"{inputs} to {outputs}, stride {stride}"
                rows.append({"batch": batch, "layer": shape, "side": side, "convolution": usual, "product": ours})
                ratio = f"{usual / ours:.2f}"
                print(f"| {batch} | {shape} | {side}×{side} | {usual:.1f} | {ours:.1f} | {ratio} |", flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
