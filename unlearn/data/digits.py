"""scikit-learn's handwritten digits:

1,797 real 8×8 images inside the scikit-learn wheel, so no file is needed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version

import numpy as np

from .images import ImageDataset, ImageSet, make_dataset
from .sources import Limit, Progress, Source, check_limit, limit_of


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 `(1797, 8, 8, 1)`, and labels, int64. scikit-learn reads them from text."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None], digits.target.astype(np.int64)


@dataclass(frozen=True)
class Digits(Source):
    """The digits, one channel, scaled from 0–16 to 0–255.

    **Arguments:**

    - `test_fraction`: this share of each class, evenly spaced over the set, is the test set.
    """

    test_fraction: float = 0.2

    def __post_init__(self) -> None:
        if not 0.01 <= self.test_fraction <= 0.9:
            raise ValueError(f"dataset.test_fraction: {self.test_fraction!r} is not allowed; give 0.01 to 0.9")

    def load(self, *, limit: Limit | None = None, on_progress: Progress | None = None) -> ImageDataset:
        """The digits as an `ImageDataset`.

        Raises `ValueError` where the limit asks for more than there are.
        """
        images, labels = _digits()
        in_test = np.zeros(len(labels), dtype=bool)
        for label in range(10):
            rows = np.flatnonzero(labels == label)
            position = np.arange(len(rows) + 1) * self.test_fraction
            in_test[rows[np.diff(np.floor(position)) > 0]] = True
        parts = []
        for part, mask in (("train", ~in_test), ("test", in_test)):
            rows = np.flatnonzero(mask)
            rows = rows[: check_limit(limit_of(limit, part), len(rows), part)]
            parts.append(ImageSet(images[rows], labels[rows]))
        if on_progress is not None:
            done = len(parts[0]) + len(parts[1])
            on_progress(done, done)
        return make_dataset("digits", parts[0], parts[1], tuple(str(digit) for digit in range(10)))

    def fingerprint(self) -> str:
        """SHA-256 of the scikit-learn version that carries the images, and of the split."""
        return hashlib.sha256(f"digits {version('scikit-learn')} {self.test_fraction!r}".encode()).hexdigest()
