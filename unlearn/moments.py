"""Second moments of layer inputs, G_l(S) = Σ_{x∈S} Σ_positions x xᵀ (uncentred), in one streaming pass.

They add, subtract and merge, so unlearning needs the forget set and the stored moments only: the retain set may be
gone. Source: Hoang et al., WACV 2024; Saha et al., gradient projection memory, ICLR 2021.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .fit import Loader, device_of, to_device
from .layers import projectable_layers, weight_matrix_shape
from .methods.base import IncompatibleMoments
from .moments_conv import convolution_moments
from .training import evaluating

# Rows that one float32 product may sum: short enough that its rounding stays under 1e-6 of the sum, long enough to be
# a full-speed product. Chunks are summed in float64.
CHUNK_ROWS = 16_384


@dataclass(frozen=True)
class SecondMoments:
    """Second moments of the inputs of a model's convolution and linear layers.

    **Arguments:**

    - `matrices`: layer name → float64 `(groups, d, d)`; d is C_in/groups·k_h·k_w for a convolution, features for a
        linear layer.
    - `count`: samples that were seen (those subtracted are taken off).
    - `model_digest`: of the weights that they were computed with. `data_digest`: of the images, in any order.
    """

    matrices: Mapping[str, Tensor]
    count: int
    model_digest: str
    data_digest: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def nbytes(self) -> int:
        """Bytes that the matrices take."""
        return sum(matrix.numel() * matrix.element_size() for matrix in self.matrices.values())

    def __add__(self, other: SecondMoments) -> SecondMoments:
        """Moments of both sets of samples. Raises `IncompatibleMoments` where model or layers differ."""
        self._check(other)
        return self._combined(other, 1)

    def __sub__(self, other: SecondMoments) -> SecondMoments:
        """Moments without the other's samples. Raises `IncompatibleMoments` where model or layers differ."""
        self._check(other)
        return self._combined(other, -1)

    def subtract(self, other: SecondMoments, *, allow_model_change: bool = False) -> SecondMoments:
        """As `-`. In an incremental run the forget set's moments come from the current model: allow that explicitly."""
        self._check(other, allow_model_change)
        return replace(
            self._combined(other, -1), model_digest=other.model_digest if allow_model_change else self.model_digest
        )

    def _combined(self, other: SecondMoments, sign: int) -> SecondMoments:
        matrices = {
            name: torch.add(matrix, other.matrices[name].to(matrix.device), alpha=sign)
            for name, matrix in self.matrices.items()
        }
        digest = _combine_digests(self.data_digest, other.data_digest, sign)
        return SecondMoments(matrices, self.count + sign * other.count, self.model_digest, digest, self.notes)

    @staticmethod
    def merge(shards: Iterable[SecondMoments]) -> SecondMoments:
        """Moments of all shards of the data together."""
        parts = list(shards)
        if not parts:
            raise ValueError("shards: none were given")
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _check(self, other: SecondMoments, allow_model_change: bool = False) -> None:
        if list(self.matrices) != list(other.matrices):
            missing = sorted(set(self.matrices) ^ set(other.matrices))
            raise IncompatibleMoments(
                f"moments: the two sides are of different layers ({', '.join(missing[:5]) or 'another order'})"
            )
        for name, matrix in self.matrices.items():
            if matrix.shape != other.matrices[name].shape:
                raise IncompatibleMoments(
                    f"moments: {name} has shape {tuple(matrix.shape)} on one side, {tuple(other.matrices[name].shape)} on the other"
                )
        if not allow_model_change and self.model_digest != other.model_digest:
            raise IncompatibleMoments(
                "moments: the two sides were computed with different models; compute both with one, or use subtract(allow_model_change=True)"
            )

    def check_model(self, model: nn.Module) -> None:
        """Raises `IncompatibleMoments` where these are not the moments of `model`."""
        if self.model_digest != digest_model(model):
            raise IncompatibleMoments(
                "moments: they were computed with other weights than this model's; compute them with it, when training ends"
            )

    def decompose(self) -> Any:
        """Returns the eigendecomposition of every layer's moments, a `CoreBasis`: it serves every γ, criterion and top-k."""
        from .projection import CoreBasis

        return CoreBasis.from_moments(self)

    def save(self, path: str | Path) -> None:
        """Writes the moments as safetensors, whole or not at all."""
        from safetensors.torch import save_file

        facts = {
            "kind": "second_moments",
            "order": list(self.matrices),
            "count": self.count,
            "model_digest": self.model_digest,
            "data_digest": self.data_digest,
        }
        metadata = {"unlearn": json.dumps(facts)}
        tensors = {name: matrix.cpu().contiguous() for name, matrix in self.matrices.items()}
        write_atomically(Path(path), lambda temporary: save_file(tensors, temporary, metadata=metadata))

    @classmethod
    def load(cls, path: str | Path) -> SecondMoments:
        """Reads moments that `save` wrote. Raises `IncompatibleMoments` where the file is something else or torn."""
        tensors, facts = read_tensors(Path(path), "second_moments")
        return cls(tensors, facts["count"], facts["model_digest"], facts["data_digest"])


def second_moments(
    model: nn.Module,
    loader: Loader,
    *,
    layers: Iterable[str] | None = None,
    augment_passes: int = 1,
    device: str | torch.device | None = None,
) -> SecondMoments:
    """Returns the second moments of the inputs of `model`'s convolution and linear layers over `loader`.

    The model is in evaluation mode and left untouched. Memory is bounded by the moments plus one chunk of one batch.

    **Arguments:**

    - `loader`: batches of (images, labels); labels are not looked at.
    - `layers`: names of the layers wanted; None for all.
    - `augment_passes`: passes over an augmenting loader; the moments are divided by it, so that counts stay those of
        the data.
    - `device`: where batches are moved; None for where the model is.

    **Raises:** `ValueError` where a named layer does not exist or the loader is empty; a layer that a forward pass does
    not reach has moments of zero.
    """
    found = projectable_layers(model)
    wanted = list(found) if layers is None else list(layers)
    for name in wanted:
        if name not in found:
            raise ValueError(
                f"layers: {name!r} is no convolution or linear layer of the model; it has {', '.join(found)}"
            )
    target = device_of(model) if device is None else torch.device(device)
    matrices = {}
    for name in wanted:
        groups, _, size = weight_matrix_shape(found[name])
        matrices[name] = torch.zeros(groups, size, size, dtype=torch.float64, device=target)
    count, data = 0, 0
    handles = [found[name].register_forward_pre_hook(_accumulator(matrices[name])) for name in wanted]
    try:
        with evaluating(model), torch.no_grad():
            for index in range(augment_passes):
                for batch in loader:
                    images, _ = to_device(batch, target)
                    model(images)
                    count += len(images) if index == 0 else 0
                    data = (data + _digest_images(images)) % 2**256
    finally:
        for handle in handles:
            handle.remove()
    if count == 0:
        raise ValueError("loader: holds no images to compute moments of")
    if augment_passes > 1:
        for matrix in matrices.values():
            matrix /= augment_passes
    return SecondMoments(matrices, count, digest_model(model), f"{data:064x}")


def _accumulator(matrix: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().float()
        if isinstance(module, nn.Conv2d):
            convolution_moments(values, module, matrix, CHUNK_ROWS)
        else:
            for rows in values.reshape(-1, values.shape[-1]).split(CHUNK_ROWS):
                matrix[0] += rows.T @ rows

    return hook


def digest_model(model: nn.Module) -> str:
    """Returns the SHA-256 of a model's parameters and buffers by name."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        hasher.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def _digest_images(images: Tensor) -> int:
    """Returns a number that adds up over images to the same sum in any order: shards merge, subsets subtract."""
    flat = (
        images.detach().cpu().float().contiguous(memory_format=torch.contiguous_format).reshape(len(images), -1).numpy()
    )
    return sum(int.from_bytes(hashlib.sha256(row.tobytes()).digest(), "big") for row in flat) % 2**256


def _combine_digests(first: str, second: str, sign: int) -> str:
    if not first or not second:
        return ""
    return f"{(int(first, 16) + sign * int(second, 16)) % 2**256:064x}"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary name, syncs what it wrote and renames it to `path`."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and the facts of a file of this package. Raises `IncompatibleMoments` where it is not one."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("unlearn", "{}"))
            if facts.get("kind") != kind:
                raise IncompatibleMoments(f"{path}: holds {facts.get('kind', 'other tensors')}, not {kind}")
            return {name: file.get_tensor(name) for name in facts.get("order", file.keys())}, facts
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise IncompatibleMoments(f"{path}: not readable as {kind} ({error}); it may be cut short") from None
