"""Whether a device that a user names is there."""

from __future__ import annotations

import torch

from ..base.errors import EnvironmentFault, UserError, first_line


def check_device(name: str) -> None:
    """Makes sure that a device can be used, before anything is put on it.

    **Raises:** `UserError` where it is no device's name; `EnvironmentFault` where this machine has
    no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device: {name!r} is not allowed; give cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFault(f"--device: {name!r}: no GPU here that PyTorch can use; give --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentFault(f"--device: {name!r}: this machine has {torch.cuda.device_count()} GPUs, counted from 0")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise EnvironmentFault(f"--device: {name!r}: cannot be used ({first_line(error)})") from None
