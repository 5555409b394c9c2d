"""Adversarial images: the nearest ones that a model takes for something else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import UnlearnError
from ...core.margins import odds_against
from .samples import Samples
from .work import Network


@dataclass(frozen=True)
class Pixels:
    """The range of normalised images: pixel value v in [0, 1] becomes (v − mean) / std.

    **Arguments:** `mean`, `std`: float32 `(1, channels, 1, 1)`.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, samples: Samples) -> Pixels:
        """The range of a set.

        Raises `UnlearnError` where its loader does not say how it normalises.
        """
        if samples.array is None:
            raise UnlearnError(
                f"{samples.part}: adversarial images need pixels; give an ArrayLoader, which knows mean and std"
            )
        mean, std = (
            torch.tensor(numbers, dtype=torch.float32, device=samples.device).view(1, -1, 1, 1)
            for numbers in (samples.array.mean, samples.array.std)
        )
        return cls(mean, std)

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised images as pixels in [0, 1]."""
        return (images * self.std + self.mean).clamp(0.0, 1.0)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] as normalised images."""
        return (pixels - self.mean) / self.std


def uphill(network: Network, pixels: Tensor, labels: Tensor, scale: Pixels) -> Tensor:
    """The direction in which the cross-entropy of each image grows fastest, by its pixels.

    Its length is not the gradient's, which vanishes where the model is sure.
    """
    with torch.enable_grad():
        inputs = pixels.detach().requires_grad_(True)
        module = Network(network.module, network.precision)
        against = odds_against(module(scale.normalised(inputs)), labels)
        (found,) = torch.autograd.grad(against.sum(), inputs)
    return found


def fgsm(network: Network, images: Tensor, labels: Tensor, scale: Pixels, epsilon: float) -> Tensor:
    """One step of size `epsilon` in pixel space up the cross-entropy, rounded to 8 bits; normalised
    images.

    Source: Goodfellow, Shlens, Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015.
    """
    pixels = scale.pixels(images)
    moved = (pixels + epsilon * uphill(network, pixels, labels, scale).sign()).clamp(0.0, 1.0)
    return scale.normalised((moved * 255.0).round() / 255.0)


def pgd_l2(network: Network, images: Tensor, labels: Tensor, scale: Pixels, epsilon: float, steps: int) -> Tensor:
    """Steps up the cross-entropy inside a ball of Euclidean radius `epsilon` in pixel space;
    normalised images.

    Each step has length 2.5·epsilon/steps and is projected back. Source: Madry et al., Towards Deep
    Learning Models Resistant to Adversarial Attacks, ICLR 2018.
    """
    start = scale.pixels(images)
    moved = start
    for _ in range(steps):
        up = uphill(network, moved, labels, scale)
        length = up.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        moved = moved + up / length * (2.5 * epsilon / steps)
        away = moved - start
        size = away.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        moved = (start + away * (epsilon / size).clamp(max=1.0)).clamp(0.0, 1.0)
    return scale.normalised(moved)
