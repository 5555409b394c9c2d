"""Weights on their way into a file."""

from __future__ import annotations

from torch import Tensor, nn


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns a model's weights as a file takes them: on the CPU, contiguous, and each with memory
    of its own."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        # Tied weights share memory, which safetensors refuses: both names are written, and loading
        # ties them again.
        found[name] = plain.clone() if place in seen and plain.numel() else plain
        seen.add(place)
    return found
