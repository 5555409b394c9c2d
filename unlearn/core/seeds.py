"""Seeds: random streams that depend on nothing but the numbers they are named by."""

from __future__ import annotations

import pickle
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
    """A NumPy generator for the stream named by `numbers`, such as (seed, epoch):

    neighbours are independent.
    """
    return np.random.default_rng(list(numbers))


class HostRandom:
    """The states of the host's global generators as they are now:

    Python's, NumPy's and torch's on the CPU.
    """

    def __init__(self) -> None:
        self.python, self.numpy, self.torch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002

    def moved(self) -> list[str]:
        """Those that were drawn from, or seeded, since."""
        now = HostRandom()
        same = {
            "Python's random numbers": now.python == self.python,
            "NumPy's random numbers": pickle.dumps(now.numpy) == pickle.dumps(self.numpy),
            "torch's random numbers on the CPU": torch.equal(now.torch, self.torch),
        }
        return [name for name, equal in same.items() if not equal]

    def put_back(self) -> None:
        """Sets the generators to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.torch)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the global generators of torch (every device), NumPy and Python start from `seed`;
    afterwards they are as before.

    Dropout, initialisation and third-party data loaders draw from the global generators. Restoring
    them keeps a training from changing what the caller draws next, and seeding them keeps the
    caller from changing the training.
    """
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    host = HostRandom()
    cuda_states = torch.cuda.get_rng_state_all() if cuda else []
    try:
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        host.put_back()
        if cuda:
            torch.cuda.set_rng_state_all(cuda_states)
