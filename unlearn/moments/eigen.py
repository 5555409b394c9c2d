"""The eigendecomposition of symmetric matrices, also of those that one LAPACK gives up."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns eigenvalues `(…, d)`, rising, and eigenvectors `(…, d, d)` of a symmetric matrix.

    MKL's algorithm does not converge on some sound matrices. NumPy brings another LAPACK.
    """
    try:
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors
    except torch.linalg.LinAlgError:
        other = np.linalg.eigh(matrix.cpu().numpy())
        return torch.from_numpy(other[0]).to(matrix.device), torch.from_numpy(other[1]).to(matrix.device)


def eigh_where_alive(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the same for `(groups, d, d)`, without the eigenvalues of rows that are nought in
    every group.

    A 3×3 convolution of 1×1 images sees nothing but padding at eight of its nine places. Leaving
    them out is exact, and a decomposition costs d³.

    **Returns:** values `(groups, r)` and vectors `(groups, d, r)`, r the number of other rows.
    """
    alive = (matrix != 0).any(dim=1).any(dim=0)
    if bool(alive.all()):
        return eigh(matrix)
    values, inner = eigh(matrix[:, alive][:, :, alive])
    vectors = inner.new_zeros(*matrix.shape[:2], inner.shape[2])
    vectors[:, alive] = inner
    return values, vectors
