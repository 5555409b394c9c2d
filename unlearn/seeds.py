"""Seeds: random streams that depend on nothing but the numbers they are named by."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def check_seed(seed: int, field: str = "seed") -> int:
    """Returns `seed` as an int. Raises `ValueError` where it is no integer in [0, 2^63)."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise ValueError(f"{field}: {seed!r} is not allowed; give an integer from 0 to 2^63 - 1")
    return int(seed)


def stream(*numbers: int) -> np.random.Generator:
    """A NumPy generator for the stream named by `numbers`, such as (seed, epoch): neighbours are independent."""
    return np.random.default_rng(list(numbers))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the global generators of torch (every device), NumPy and Python start from `seed`; afterwards they are
    as before.

    Dropout, initialisation and third-party data loaders draw from the global generators. Restoring them keeps a
    training from changing what the caller draws next, and seeding them keeps the caller from changing the training.
    """
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    states = (torch.random.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002
    cuda_states = torch.cuda.get_rng_state_all() if cuda else []
    try:
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        torch.random.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda_states)
