"""Widths and sizes that the models here allow."""

from __future__ import annotations


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, at least 1. Raises `ValueError` for widths outside (0, 16]."""
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width <= 16:
        raise ValueError(f"model.width: {width!r} is not allowed; give a number above 0, at most 16")
    return max(1, round(channels * width))


def check_images(model: str, num_classes: int, in_channels: int, image_size: int, smallest: int) -> None:
    """Raises `ValueError` where there are no classes or channels, or the images are too small for
    the model.
    """
    if num_classes < 1 or in_channels < 1:
        raise ValueError(
            f"model: {num_classes} classes and {in_channels} channels are not allowed; give 1 or more of each"
        )
    if image_size < smallest:
        raise ValueError(f"model.name: {model} needs images of {smallest} pixels or more, these have {image_size}")
