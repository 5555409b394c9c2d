"""Loss-free SSD: dampening by the sensitivity of the output's length, which needs no labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Card, Preset, Presets
from .ssd import SSD


@dataclass(frozen=True, kw_only=True)
class LFSSD(SSD):
    """SSD with the importance E|∂‖f(x)‖²/∂θ| in place of the Fisher diagonal. The fields are those
    of `SSD`."""

    name: ClassVar[str] = "lfssd"
    version: ClassVar[int | None] = None  # unlike SSD's, its statistic has not changed
    card: ClassVar[Card] = Card(
        "LFSSD",
        "where S_f > α·S_D: θ ← θ·min(λ·S_D/S_f, 1), S = E|∂‖f(x)‖²/∂θ|",
        "Foster, Fogarty, Schoepf, Dugue, Öztireli, Brintrup, An Information Theoretic Approach, 2402.01401",
        "one pass of single-sample gradients over the forget set, and one over all data when training ends",
        ("The absolute value is taken of single samples, so that the size of batches does not matter.",),
    )
    presets: ClassVar[Presets] = {
        "lfssd-vit": Preset({"alpha": 3.5, "lam": 1.0}, "jwf40, ViT, samples at random"),
        "lfssd-vgg16": Preset({"alpha": 10.0, "lam": 4.0}, "jwf40, VGG16, samples at random"),
        "lfssd-class": Preset({"alpha": 10.0, "lam": 1.0}, "jwf40, whole classes"),
    }
    statistic: ClassVar[str] = "sensitivity"
