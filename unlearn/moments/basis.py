"""The core gradient space of each layer and the projection out of it.

G_l = U diag(λ) Uᵀ with λ falling; s = √max(λ, 0). M = U[:, :k] spans the core gradient space (CGS),
its complement is the residual gradient space (RGS). One decomposition serves every γ, both criteria
and every top-k. Source: Hoang et al., WACV 2024.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.checked import check_choice, check_number
from ..core.digests import digest_model
from ..core.errors import IncompatibleMoments
from ..core.tensor_files import read_tensors, write_tensors
from .eigen import eigh_where_alive
from .sums import ThinMoment

CRITERIA = ("singular", "energy")
# Negative eigenvalues up to this share of the largest are rounding. Larger ones mean that more was
# subtracted than the moments held.
ROUNDING = 1e-5
# As above, where images were augmented at random: those subtracted are not quite those summed.
AUGMENTED = 0.05
# What float32 products leave where an eigenvalue should be nought, as a share of the largest: at
# most this.
NOISE = 1e-7


@dataclass(frozen=True)
class Projector:
    """Projection of gradients onto the residual gradient space of one layer, by thin factors.

    **Arguments:**

    - `factor`: float32 `(groups, d, r)`, orthonormal columns: of the core space, or of its
        complement where that is narrower. None where the space is empty.
    - `complement`: whether `factor` spans the complement.
    """

    factor: Tensor | None
    complement: bool

    @property
    def frozen(self) -> bool:
        """Whether the core space is the whole space: nothing is left to move in."""
        return self.factor is None and self.complement

    def residual(self, gradient: Tensor) -> Tensor:
        """Returns g − g M Mᵀ for a gradient `(outputs, d)`, or of the weight's own shape `(outputs,
        …)`.
        """
        if self.factor is None:
            return torch.zeros_like(gradient) if self.complement else gradient
        groups, size, _ = self.factor.shape
        grouped = gradient.reshape(groups, -1, size)
        inside = torch.bmm(torch.bmm(grouped, self.factor), self.factor.transpose(1, 2)).reshape(gradient.shape)
        return inside if self.complement else gradient - inside

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Projector:
        """Returns the projector on another device."""
        return Projector(None if self.factor is None else self.factor.to(device, dtype), self.complement)


@dataclass(frozen=True)
class CoreBasis:
    """Eigenvectors and eigenvalues of every layer's second moments.

    **Arguments:**

    - `vectors`: layer → float32 `(groups, d, r)`, columns by falling eigenvalue. What is left out
        has eigenvalue nought: r is less than d for few vectors, and for inputs that are always
        nought.
    - `values`: layer → float64 `(groups, r)`, falling, negative ones as they came.
    - `model_digest`, `data_digest`, `stride_one`: as of the moments. `warnings`: sentences on large
        negative eigenvalues.
    """

    vectors: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    model_digest: str
    data_digest: str = ""
    warnings: list[str] = field(default_factory=list)
    stride_one: bool = False

    @classmethod
    def of(
        cls,
        parts: Iterable[tuple[str, Tensor | ThinMoment]],
        model_digest: str,
        data_digest: str = "",
        *,
        device: str | torch.device | None = None,
        rounding: float = ROUNDING,
        stride_one: bool = False,
    ) -> CoreBasis:
        """Decomposes second moments in float64, one layer at a time (see
        `SecondMoments.decompose`).

        **Arguments:** `parts`: layer names with their moments. `device`: where to compute, None for
        a GPU where there is one; the vectors stay there.
        """
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        vectors, values, warnings = {}, {}, []
        for name, part in parts:
            vectors[name], values[name] = _decompose(part, target)
            smallest, largest = _range(values[name])
            if smallest < -rounding * max(largest, 1e-300):
                warnings.append(
                    f"{name}: an eigenvalue of {smallest:.3g} beside a largest of {largest:.3g}: "
                    "more was subtracted than the moments held; it counts as 0"
                )
        return cls(vectors, values, model_digest, data_digest, warnings, stride_one)

    def absolute(self) -> CoreBasis:
        """Returns the basis by falling |λ|: what a singular value decomposition of the moments
        gives.

        It differs where more was subtracted than the moments held, so that some λ are negative.
        """
        vectors, values = {}, {}
        for name, row in self.values.items():
            values[name], order = row.abs().sort(dim=-1, descending=True, stable=True)
            columns = order.to(self.vectors[name].device)[:, None, :].expand(-1, self.vectors[name].shape[1], -1)
            vectors[name] = self.vectors[name].gather(2, columns)
        return replace(self, vectors=vectors, values=values)

    def check_strides(self, model: nn.Module, stride_one: bool) -> None:
        """Raises `IncompatibleMoments` where patches of strided convolutions were taken
        otherwise."""
        check_strides(model, self.vectors, self.stride_one, stride_one)

    def check_model(self, model: nn.Module) -> None:
        """Raises `IncompatibleMoments` where this is not the basis of `model`."""
        if self.model_digest != digest_model(model):
            raise IncompatibleMoments(
                "moments: this basis was computed with other weights than this model's; decompose moments of this model"
            )

    def ranks(
        self, layer: str, gamma: float, criterion: str = "singular", extra: int = 0, below: bool = False
    ) -> list[int]:
        """Returns k, the dimension of the core gradient space, of each group of a layer.

        - `singular` (the published release): k = #{j : cumsum(s)_j / Σ s ≤ γ}, plus `extra`. With
          `below` it is < γ.
        - `energy`: the smallest k with Σ_{j≤k} λ_j ≥ γ Σ λ, plus `extra`.

        γ = 1 gives d under both: the layer is frozen. A layer that no input reaches has k = 0.
        """
        check_choice("criterion", criterion, CRITERIA)
        check_number("gamma", gamma, least=0, most=1)
        found = []
        size = self.vectors[layer].shape[1]
        for row in self.values[layer]:
            positive = row.where(row > _noise(row), 0.0)
            weights = positive.sqrt() if criterion == "singular" else positive
            total = float(weights.sum())
            if gamma >= 1.0:
                found.append(size)
                continue
            if total == 0.0:
                found.append(0)
                continue
            shares = weights.cumsum(0) / total
            rank = (
                int(((shares < gamma) if below else (shares <= gamma)).sum())
                if criterion == "singular"
                else int((shares < gamma - 1e-15).sum()) + (gamma > 0)
            )
            found.append(min(size, rank + extra))
        return found

    def rank(self, layer: str, gamma: float, criterion: str = "singular", extra: int = 0) -> int:
        """Returns k of a layer; of a grouped convolution the largest of its groups (see
        `ranks`)."""
        return max(self.ranks(layer, gamma, criterion, extra))

    def projector(
        self, layer: str, gamma: float, criterion: str = "singular", extra: int = 0, below: bool = False
    ) -> Projector:
        """Returns the projector onto the layer's residual gradient space, by the narrower of the
        two spaces.
        """
        ranks = self.ranks(layer, gamma, criterion, extra, below)
        vectors = self.vectors[layer]
        size = vectors.shape[1]
        if min(ranks) == size:
            return Projector(None, True)
        if max(ranks) == 0:
            return Projector(None, False)
        known = vectors.shape[2] == size  # a thin basis has no columns for the complement
        if not known and max(ranks) > vectors.shape[2]:
            # γ = 1 freezes every group alike, so this is `extra` asking for more directions than
            # any input spans.
            ranks = [min(k, vectors.shape[2]) for k in ranks]
        complement = known and sum(ranks) > len(ranks) * size / 2
        widest = max(size - k for k in ranks) if complement else max(ranks)
        factor = vectors.new_zeros(len(ranks), size, widest)
        for group, k in enumerate(ranks):
            chosen = vectors[group, :, k:] if complement else vectors[group, :, :k]
            factor[group, :, : chosen.shape[1]] = chosen
        return Projector(factor, complement)

    def core(
        self, layer: str, gamma: float, criterion: str = "singular", extra: int = 0, below: bool = False
    ) -> Tensor:
        """Returns M, float32 `(groups, d, k)`, columns of narrower groups filled with zeros."""
        ranks = self.ranks(layer, gamma, criterion, extra, below)
        vectors = self.vectors[layer]
        factor = vectors.new_zeros(len(ranks), vectors.shape[1], max(ranks))
        for group, k in enumerate(ranks):
            factor[group, :, : min(k, vectors.shape[2])] = vectors[group, :, :k]
        return factor

    def save(self, path: str | Path) -> None:
        """Writes the basis as safetensors, whole or not at all."""
        facts = {
            "layers": list(self.vectors),
            "model_digest": self.model_digest,
            "data_digest": self.data_digest,
            "warnings": self.warnings,
            "stride_one": self.stride_one,
        }
        tensors = {f"vectors/{name}": tensor for name, tensor in self.vectors.items()}
        tensors |= {f"values/{name}": tensor for name, tensor in self.values.items()}
        write_tensors(path, "core_basis", tensors, facts)

    @classmethod
    def load(cls, path: str | Path) -> CoreBasis:
        """Reads a basis that `save` wrote.

        Raises `IncompatibleMoments` where the file is something else or cut short.
        """
        tensors, facts = read_tensors(path, "core_basis")
        names = facts["layers"]
        return cls(
            {name: tensors[f"vectors/{name}"] for name in names},
            {name: tensors[f"values/{name}"] for name in names},
            facts["model_digest"],
            facts["data_digest"],
            facts["warnings"],
            facts.get("stride_one", False),
        )


def check_strides(model: nn.Module, layers: Iterable[str], given: bool, wanted: bool) -> None:
    """Raises `IncompatibleMoments` where moments of strided or dilated convolutions were taken at
    the wrong stride."""
    if given == wanted:
        return
    for name in layers:
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Conv2d) and {*layer.stride, *layer.dilation} != {1}:
            raise IncompatibleMoments(
                f"moments: those of {name} have stride_one={given}, but {wanted} is wanted; "
                f"compute them with second_moments(…, stride_one={wanted})"
            )


def _noise(values: Tensor) -> float:
    """How far rounding moves eigenvalues `(r,)` from nought: as far as the most negative one shows,
    if it is that.

    Without it, hundreds of directions that hold nothing (dead units, few samples) would each add
    √noise to Σ s.
    """
    lowest, highest = _range(values)
    return min(-lowest, NOISE * highest)


def _range(values: Tensor) -> tuple[float, float]:
    """The smallest and the largest, nought among them:

    a thin moment leaves noughts out and may hold nothing.
    """
    padded = torch.cat([values.reshape(-1), values.new_zeros(1)])
    return float(padded.min()), float(padded.max())


def _decompose(part: Tensor | ThinMoment, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns vectors float32 `(groups, d, r)` on `device` and values float64 `(groups, r)` on the
    CPU, falling.
    """
    if isinstance(part, ThinMoment):
        values, vectors = ThinMoment(part.rows.to(device), part.signs.to(device)).eigen()
        return vectors[None], values[None].cpu()
    values, vectors = eigh_where_alive(part.to(device))
    return vectors.float().flip(-1), values.flip(-1).cpu()
