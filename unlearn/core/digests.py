"""Digests that tie stored statistics to the model and the images that they were computed with."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from .batches import Loader, images_and_labels, to_device

DIGEST_MODULUS = 2**256


def digest_model(model: nn.Module) -> str:
    """Returns the SHA-256 of a model's parameters and buffers by name."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        hasher.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def digest_data(loader: Loader) -> str:
    """Returns the digest of the images of one pass over `loader`, the same in any order and in any
    batches.
    """
    return as_text(sum(digest_images(to_device(batch, images_and_labels(batch)[0].device)[0]) for batch in loader))


def digest_images(images: Tensor) -> int:
    """Returns a sum over images: digests of shards add, and those of subsets subtract."""
    flat = images.detach().cpu().float().contiguous(memory_format=torch.contiguous_format).reshape(len(images), -1)
    return sum(int.from_bytes(hashlib.sha256(row).digest(), "big") for row in flat.numpy())


def as_text(digest: int) -> str:
    """Returns a sum of `digest_images` as 64 hexadecimal digits."""
    return f"{digest % DIGEST_MODULUS:064x}"


def combined(first: str, second: str, sign: int) -> str:
    """Returns the digest of two sets of images together (`sign` 1) or of their difference (−1);
    empty where one is.
    """
    return as_text(int(first, 16) + sign * int(second, 16)) if first and second else ""
