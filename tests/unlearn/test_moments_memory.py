"""How much memory sums of second moments take."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unlearn.moments import sums as accumulate
from unlearn.moments.conv_sums import ShiftSum
from unlearn.moments.sums import PatchSum


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("kind", ["shifts", "patches"])
def test_patches_are_never_all_there_at_once(kind: str) -> None:
    """Not even those of one batch: 4,000 images of 16 MB, whose patches would take 147 MB."""
    layer = nn.Conv2d(16, 16, 3, padding=1)
    images = torch.randn(4000, 16, 8, 8)
    total = ShiftSum(layer, images.device) if kind == "shifts" else PatchSum(layer, images.device)
    with Largest() as largest:
        total.add(images)
        total.finish()
    assert images.nbytes == 4000 * 16 * 64 * 4
    assert largest.bytes <= 2 * accumulate._BUFFER_BYTES
