"""How much each weight matters to the outputs on a set of samples, in one pass, from the gradients
of single samples.

Sums add and subtract, so that unlearning needs the forget set and the stored sums only: the retain
set may be gone. The gradient is taken sample by sample. A square of the mean of a batch is smaller
by about the size of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.batches import Loader, device_of, to_device
from ..core.checked import check_choice
from ..core.digests import as_text, combined, digest_images, digest_model
from ..core.errors import IncompatibleMoments
from ..core.memory import keep_freed_memory
from ..core.numerics import deterministic_convolutions, full_float32
from ..core.tensor_files import read_tensors, write_tensors
from ..models.logits import classify
from ..training.predict import evaluating
from .per_sample import Gradients, per_sample_gradients

STATISTICS = ("fisher", "expected", "sensitivity")
# Of statistics whose sums have changed: stored ones of an earlier version are not used.
VERSIONS = {"fisher": "version 2", "expected": "version 2"}


@dataclass(frozen=True)
class Fisher:
    """Sums over samples of one number for each weight.

    **Arguments:**

    - `sums`: parameter name → float64, of the parameter's shape.
    - `count`: samples that were seen (those subtracted are taken off).
    - `statistic`: what is summed. `fisher`: (∂CE(x, y)/∂θ)² with the sample's own label.
        `expected`: Σ_c p(c|x)·(∂CE(x, c)/∂θ)². `sensitivity`: |∂‖f(x)‖²/∂θ|, which uses no label.
    - `model_digest`: of the weights that they were computed with. `data_digest`: of the images, in
        any order.
    """

    sums: Mapping[str, Tensor]
    count: int
    statistic: str
    model_digest: str
    data_digest: str = ""

    @property
    def mean(self) -> dict[str, Tensor]:
        """Parameter name → the mean over samples, float64."""
        return {name: total / max(1, self.count) for name, total in self.sums.items()}

    def __add__(self, other: Fisher) -> Fisher:
        """Sums over both sets of samples.

        Raises `IncompatibleMoments` where model or statistic differ.
        """
        return self._combined(other, 1)

    def __sub__(self, other: Fisher) -> Fisher:
        """Sums without the other's samples.

        Raises `IncompatibleMoments` where model or statistic differ.
        """
        return self._combined(other, -1)

    def _combined(self, other: Fisher, sign: int) -> Fisher:
        if self.model_digest != other.model_digest or set(self.sums) != set(other.sums):
            raise IncompatibleMoments("fisher: the two sides were computed with different models; use one model")
        if self.statistic != other.statistic:
            raise IncompatibleMoments(f"fisher: one side is {self.statistic}, the other is {other.statistic}")
        sums = {
            name: torch.add(total, other.sums[name].to(total.device), alpha=sign) for name, total in self.sums.items()
        }
        digest = combined(self.data_digest, other.data_digest, sign)
        return Fisher(sums, self.count + sign * other.count, self.statistic, self.model_digest, digest)

    def check(self, model: nn.Module, statistic: str) -> None:
        """Raises `IncompatibleMoments` where these are not the sums of `statistic` for `model`."""
        if self.statistic != statistic:
            raise IncompatibleMoments(f"fisher: it holds {self.statistic}, but {statistic} is needed")
        if self.model_digest != digest_model(model):
            raise IncompatibleMoments(
                "fisher: it was computed with other weights than this model's; compute it when training ends"
            )

    def save(self, path: str | Path) -> None:
        """Writes the sums as safetensors, whole or not at all."""
        facts = {
            "count": self.count,
            "statistic": self.statistic,
            "model_digest": self.model_digest,
            "data_digest": self.data_digest,
        }
        write_tensors(path, "fisher", dict(self.sums), facts)

    @classmethod
    def load(cls, path: str | Path) -> Fisher:
        """Reads sums that `save` wrote.

        Raises `IncompatibleMoments` where the file is something else or cut short.
        """
        tensors, facts = read_tensors(path, "fisher")
        return cls(tensors, facts["count"], facts["statistic"], facts["model_digest"], facts["data_digest"])


def fisher_diagonal(
    model: nn.Module,
    loader: Loader,
    *,
    statistic: str = "fisher",
    device: str | torch.device | None = None,
) -> Fisher:
    """Returns the sums of `statistic` (see `Fisher`) over `loader`, for every parameter that
    requires gradients.

    The model is in evaluation mode, in full float32, and left untouched. The result does not depend
    on the order or the size of the batches, beyond rounding.

    **Arguments:** `loader`: batches of (images, labels). `device`: where batches are moved; None
    for where the model is.

    Raises `ValueError` where the loader is empty or there is no such statistic.
    """
    check_choice("statistic", statistic, STATISTICS)
    target = device_of(model) if device is None else torch.device(device)
    sums = {
        name: torch.zeros_like(parameter, dtype=torch.float64, memory_format=torch.contiguous_format)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    count, data = 0, 0
    # A caller's autocast would round gradients and sums alike to bfloat16.
    exact = torch.autocast(target.type, enabled=False)
    with evaluating(model), exact, full_float32(), deterministic_convolutions(), keep_freed_memory():
        for batch in loader:
            images, labels = to_device(batch, target)
            _add(sums, model, images, labels, statistic)
            count += len(images)
            data += digest_images(images)
    if count == 0:
        raise ValueError("loader: holds no images to compute the Fisher diagonal of")
    return Fisher(sums, count, statistic, digest_model(model), as_text(data))


def _add(sums: Gradients, model: nn.Module, images: Tensor, labels: Tensor, statistic: str) -> None:
    if statistic == "fisher":
        _add_squares(sums, per_sample_gradients(model, images, labels))
    elif statistic == "sensitivity":
        for some in per_sample_gradients(model, images, labels, lambda logits, _: logits.square().sum()):
            for name, gradient in some.items():
                sums[name] += gradient.abs().sum(dim=0)
    else:
        with torch.no_grad():
            probabilities = classify(model, images).softmax(dim=1)
        for label in range(probabilities.shape[1]):
            # √p scales the gradient, so that its square carries the weight p.
            weight = probabilities[:, label].sqrt()
            guess = torch.full_like(labels, label)
            done = 0
            for some in per_sample_gradients(model, images, guess):
                size = len(next(iter(some.values())))
                part = weight[done : done + size]
                done += size
                _add_squares(sums, [{n: g * part.view(-1, *[1] * (g.ndim - 1)) for n, g in some.items()}])


def _add_squares(sums: Gradients, gradients: Iterable[Gradients]) -> None:
    for some in gradients:
        for name, gradient in some.items():
            # In place where it can be: fresh memory of that size costs as much as the squares. What
            # is expanded over the samples, or may be a view of a weight (one sample), is copied.
            own = len(gradient) > 1 and gradient.is_contiguous()
            sums[name] += (gradient.square_() if own else gradient.square()).sum(dim=0)
