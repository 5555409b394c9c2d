"""Second moments of layer inputs, G_l(S) = Σ_{x∈S} Σ_positions x xᵀ (uncentred), in one streaming
pass.

They add, subtract and merge, so unlearning needs the forget set and the stored moments only: the
retain set may be gone. Source: Hoang et al., WACV 2024; Saha et al., gradient projection memory,
ICLR 2021.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.batches import Loader, device_of, read_again, to_device
from ..core.checked import check_integer
from ..core.digests import as_text, combined, digest_data, digest_images, digest_model
from ..core.errors import IncompatibleMoments
from ..core.memory import keep_freed_memory
from ..core.numerics import deterministic_convolutions, full_float32
from ..core.tensor_files import read_tensors, write_tensors
from ..data.loader import ArrayLoader
from ..models.layers import Projectable, projectable_layers, weight_matrix_shape
from ..models.logits import forward
from ..training.predict import evaluating
from .basis import AUGMENTED, ROUNDING, CoreBasis, check_strides
from .conv_sums import ShiftSum, can_shift
from .sums import Accumulator, PatchSum, RowSum, ThinMoment, combine


@dataclass(frozen=True)
class SecondMoments:
    """Second moments of the inputs of a model's convolution and linear layers.

    **Arguments:**

    - `parts`: layer name → float64 `(groups, d, d)`, or a `ThinMoment` where fewer vectors were
        seen than there are dimensions. Here d is C_in/groups·k_h·k_w for a convolution, features
        for a linear layer.
    - `count`: samples that were seen (those subtracted are taken off).
    - `model_digest`: of the weights that they were computed with. `data_digest`: of the images, in
        any order.
    - `augment`: how the images were augmented, where their loader says so.
    - `stride_one`: whether strided convolutions gave patches at stride 1.
    """

    parts: Mapping[str, Tensor | ThinMoment]
    count: int
    model_digest: str
    data_digest: str = ""
    augment: str | None = None
    stride_one: bool = False

    @property
    def matrices(self) -> dict[str, Tensor]:
        """Layer name → float64 `(groups, d, d)`.

        Thin ones are multiplied out anew at every call.
        """
        return {name: part.dense() if isinstance(part, ThinMoment) else part for name, part in self.parts.items()}

    @property
    def nbytes(self) -> int:
        """Bytes that the moments take."""
        tensors = (part.rows if isinstance(part, ThinMoment) else part for part in self.parts.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def __add__(self, other: SecondMoments) -> SecondMoments:
        """Moments of both sets of samples.

        Raises `IncompatibleMoments` where model or layers differ.
        """
        self._check(other)
        return self._combined(other, 1)

    def __sub__(self, other: SecondMoments) -> SecondMoments:
        """Moments without the other's samples.

        Raises `IncompatibleMoments` where model or layers differ.
        """
        self._check(other)
        return self._combined(other, -1)

    def subtract(self, other: SecondMoments, *, allow_model_change: bool = False) -> SecondMoments:
        """As `-`.

        In an incremental run the forget set's moments come from the current model: allow that
        explicitly.
        """
        self._check(other, allow_model_change)
        return replace(self._combined(other, -1), model_digest=other.model_digest)

    @staticmethod
    def merge(shards: Iterable[SecondMoments]) -> SecondMoments:
        """Moments of all shards of the data together, summed as they come.

        Raises `ValueError` where there are none.
        """
        total: SecondMoments | None = None
        for shard in shards:
            total = shard if total is None else total + shard
        if total is None:
            raise ValueError("shards: none were given")
        return total

    def select(self, layers: Iterable[str]) -> SecondMoments:
        """Moments of some layers only, nothing copied.

        Raises `IncompatibleMoments` where one is not held.
        """
        names = list(layers)
        missing = [name for name in names if name not in self.parts]
        if missing:
            raise IncompatibleMoments(f"moments: they lack the layers {', '.join(missing[:5])}")
        return replace(self, parts={name: self.parts[name] for name in names})

    def _combined(self, other: SecondMoments, sign: int) -> SecondMoments:
        parts = {name: combine(part, other.parts[name], sign) for name, part in self.parts.items()}
        digest = combined(self.data_digest, other.data_digest, sign)
        return replace(self, parts=parts, count=self.count + sign * other.count, data_digest=digest)

    def _check(self, other: SecondMoments, allow_model_change: bool = False) -> None:
        if set(self.parts) != set(other.parts):
            only = sorted(set(self.parts) ^ set(other.parts))
            raise IncompatibleMoments(f"moments: only one side holds the layers {', '.join(only[:5])}")
        for name, part in self.parts.items():
            if tuple(part.shape) != tuple(other.parts[name].shape):
                raise IncompatibleMoments(
                    f"moments: {name} has shape {tuple(part.shape)} on one side, {tuple(other.parts[name].shape)} on the other"
                )
        if self.stride_one != other.stride_one:
            raise IncompatibleMoments(
                f"moments: stride_one is {self.stride_one} on one side, {other.stride_one} on the other"
            )
        if not allow_model_change and self.model_digest != other.model_digest:
            raise IncompatibleMoments(
                "moments: the two sides were computed with different models; compute both with one, or use subtract(…, allow_model_change=True)"
            )

    def check_model(self, model: nn.Module) -> None:
        """Raises `IncompatibleMoments` where these are not the moments of `model`."""
        if self.model_digest != digest_model(model):
            raise IncompatibleMoments(
                "moments: they were computed with other weights than this model's; compute them with it, when training ends"
            )

    def check_strides(self, model: nn.Module, stride_one: bool) -> None:
        """Raises `IncompatibleMoments` where patches of strided convolutions were taken
        otherwise."""
        check_strides(model, self.parts, self.stride_one, stride_one)

    def check_data(self, loader: Loader) -> None:
        """Raises `IncompatibleMoments` where these are not the moments of exactly the images of
        `loader`, in any order.

        Augmentation changes images, so moments of augmented data answer to that very pass only.
        """
        if self.data_digest != digest_data(loader):
            raise IncompatibleMoments("moments: they were computed with other images than this loader's")

    def decompose(self, *, minus: SecondMoments | None = None, device: str | torch.device | None = None) -> CoreBasis:
        """Returns the eigendecomposition of every layer's moments, which serves every γ, criterion
        and top-k.

        **Arguments:** `minus` is subtracted one layer at a time, so that no second set of moments
        is held. `device` is where to compute, None for a GPU where there is one; the vectors stay
        there.

        Raises `IncompatibleMoments` where `minus` has other layers or was computed with another
        model.
        """
        if minus is None:
            parts: Iterable[tuple[str, Tensor | ThinMoment]] = self.parts.items()
            data = self.data_digest
        else:
            self._check(minus)
            parts = ((name, combine(part, minus.parts[name], -1)) for name, part in self.parts.items())
            data = combined(self.data_digest, minus.data_digest, -1)
        rounding = ROUNDING if self.augment is None else AUGMENTED
        return CoreBasis.of(
            parts, self.model_digest, data, device=device, rounding=rounding, stride_one=self.stride_one
        )

    def save(self, path: str | Path) -> None:
        """Writes the moments as safetensors, whole or not at all.

        Thin ones are written as √λ·eigenvectors.
        """
        tensors: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            if isinstance(part, ThinMoment):
                rotated = part.rotated()
                tensors |= {f"rows/{name}": rotated.rows, f"signs/{name}": rotated.signs}
            else:
                tensors[f"dense/{name}"] = part
        digests = {"model_digest": self.model_digest, "data_digest": self.data_digest}
        write_tensors(
            path,
            "second_moments",
            tensors,
            {"layers": list(self.parts), "count": self.count, "augment": self.augment, "stride_one": self.stride_one}
            | digests,
        )

    @classmethod
    def load(cls, path: str | Path, *, model: nn.Module | None = None, data: Loader | None = None) -> SecondMoments:
        """Reads moments that `save` wrote, and checks that they are of `model` and of the images of
        `data` where given.

        Raises `IncompatibleMoments` where the file is something else or cut short, or belongs to
        another model or to other data.
        """
        tensors, facts = read_tensors(path, "second_moments")
        parts: dict[str, Tensor | ThinMoment] = {}
        for name in facts["layers"]:
            if f"dense/{name}" in tensors:
                parts[name] = tensors[f"dense/{name}"]
            else:
                parts[name] = ThinMoment(tensors[f"rows/{name}"], tensors[f"signs/{name}"])
        moments = cls(parts, facts["count"], facts["model_digest"], facts["data_digest"], facts.get("augment"))
        moments = replace(moments, stride_one=facts.get("stride_one", False))
        if model is not None:
            moments.check_model(model)
        if data is not None:
            moments.check_data(data)
        return moments


def second_moments(
    model: nn.Module,
    loader: Loader,
    *,
    layers: Iterable[str] | None = None,
    augment_passes: int = 1,
    stride_one: bool = False,
    device: str | torch.device | None = None,
) -> SecondMoments:
    """Returns the second moments of the inputs of `model`'s convolution and linear layers over
    `loader`.

    The model is in evaluation mode, in full float32, and left untouched. Memory is bounded by the
    moments plus a chunk.

    **Arguments:**

    - `loader`: batches of (images, labels); labels are not looked at.
    - `layers`: names of the layers wanted; None for all.
    - `augment_passes`: passes over an augmenting loader; the moments are divided by it, so that
        counts stay those of the data.
    - `stride_one`: takes patches at stride 1 and dilation 1 from every convolution, also from a
        strided one. The published release does so. The exact statement takes the layer's own.
    - `device`: where batches are moved; None for where the model is.

    Layers that a forward pass does not reach are left out, so that nothing updates them.

    **Raises:** `ValueError` where one of `layers` does not exist or is not reached, or the loader
    is empty.
    """
    check_integer("augment_passes", augment_passes, 1)
    if augment_passes > 1:
        read_again(loader, "loader", f"augment_passes is {augment_passes}")
    found = projectable_layers(model)
    wanted = list(found) if layers is None else list(layers)
    for name in wanted:
        if name not in found:
            raise ValueError(
                f"layers: {name!r} is no convolution or linear layer of the model; it has {', '.join(found)}"
            )
    target = device_of(model) if device is None else torch.device(device)
    shown = {name: _at_stride_one(found[name]) if stride_one else found[name] for name in wanted}
    sums: dict[str, Accumulator] = {name: accumulator(layer, target) for name, layer in shown.items()}
    reached: set[str] = set()
    handles = [
        found[name].register_forward_pre_hook(_feed(name, sums[name], reached), with_kwargs=True) for name in wanted
    ]
    count, data = 0, 0
    # A caller's autocast would round activations and sums alike to bfloat16.
    exact = torch.autocast(target.type, enabled=False)
    try:
        with (
            evaluating(model),
            torch.no_grad(),
            exact,
            full_float32(),
            deterministic_convolutions(),
            keep_freed_memory(),
        ):
            for index in range(augment_passes):
                for batch in loader:
                    images, _ = to_device(batch, target)
                    forward(model, images)
                    count += len(images) if index == 0 else 0
                    data += digest_images(images)
            if count == 0:
                raise ValueError("loader: holds no images to compute moments of")
            unreached = [name for name in wanted if name not in reached]
            if (unreached and layers is not None) or not reached:
                raise ValueError(
                    f"layers: a forward pass does not reach {', '.join(unreached[:5])}; name the layers that it does"
                )
            # One layer at a time, so that its buffer is gone before the next one's sum is made.
            parts = {name: _divided(sums.pop(name).finish(), augment_passes) for name in wanted if name in reached}
    finally:
        for handle in handles:
            handle.remove()
    augment = loader.augment if isinstance(loader, ArrayLoader) else None
    return SecondMoments(parts, count, digest_model(model), as_text(data), augment, stride_one)


def _feed(name: str, total: Accumulator, reached: set[str]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> None:
        values = (inputs[0] if inputs else named["input"]).detach()
        if values.dtype not in (torch.float32, torch.float64):
            values = values.float()
        if isinstance(module, nn.Conv2d) and values.ndim == 3:
            values = values[None]
        total.add(values)
        reached.add(name)

    return hook


def _divided(part: Tensor | ThinMoment, passes: int) -> Tensor | ThinMoment:
    if passes == 1:
        return part
    return ThinMoment(part.rows / passes**0.5, part.signs) if isinstance(part, ThinMoment) else part.div_(passes)


def _at_stride_one(layer: Projectable) -> Projectable:
    """Returns a convolution that shares its weight and has stride and dilation 1; other layers as
    they are."""
    if not isinstance(layer, nn.Conv2d):
        return layer
    plain = copy.copy(layer)
    plain.stride = plain.dilation = (1, 1)
    return plain


def accumulator(layer: Projectable, device: torch.device) -> Accumulator:
    """Returns what sums a layer's inputs fastest."""
    if isinstance(layer, nn.Conv2d):
        return ShiftSum(layer, device) if can_shift(layer) else PatchSum(layer, device)
    groups, _, size = weight_matrix_shape(layer)
    return RowSum(groups, size, device)
