"""What every unlearning method shares: the protocol, the result and the errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import nn

from ..core.batches import EpochCallback, Loader


@dataclass
class UnlearnResult:
    """An unlearned model and how it came about.

    **Arguments:**

    - `model`: a new module; the one given to the method is left untouched.
    - `history`: one dict for each epoch, epoch 0 being the model as given where the method evaluates it.
    - `stopped_at`: the epoch whose weights `model` carries where an early stop chose one, else None.
    - `notes`: sentences for the user, such as clipped eigenvalues.
    """

    model: nn.Module
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped_at: int | None = None
    notes: list[str] = field(default_factory=list)


class Method(Protocol):
    """An unlearning method: a frozen dataclass whose fields are its hyperparameters and its recipe keys.

    `access` declares the data that the method may see: `forget` (the forget set alone), `moments` (that and stored
    statistics of the training data) or `retain` (the full retain set). The caller hands over nothing more, but for
    `graphs`, captured steps of earlier models (see `unlearn.train`), to a method with a true attribute `uses_graphs`.
    """

    name: ClassVar[str]
    access: ClassVar[str]

    def requires(self) -> frozenset[str]:
        """Names of the optional arguments of `unlearn` that this configuration needs."""
        ...

    def unlearn(
        self,
        model: nn.Module,
        *,
        forget: Loader,
        retain: Loader | None = None,
        moments: Any = None,
        validation: Loader | None = None,
        num_classes: int | None = None,
        forget_classes: tuple[int, ...] = (),
        monitor: Mapping[str, Loader] | None = None,
        on_epoch: EpochCallback | None = None,
    ) -> UnlearnResult:
        """Returns an unlearned copy of `model`."""
        ...
