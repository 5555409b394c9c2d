"""Where the published release does otherwise than the paper or this project, choice by choice.

The release is `hnanhtuan/projected_gradient_unlearning`. `docs/explanation/release.md` has the
whole list and what each choice changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ...core.checked import check_choice, check_integer
from ...data.augment import check_augment

ORDERS = ("given", "class")
SPECTRA = ("positive", "absolute")
RANK_RULES = ("at_most", "below")
GAP_RULES = ("nearest", "released")
AFTER_DROP = ("previous", "last")
# directions that the release's linear layers learn a scale for
SCALED = 400


def _later(default: Any) -> Any:
    """A field that enters a unit's key only where it is not at its default."""
    return field(default=default, metadata={"since": 3})


@dataclass(frozen=True)
class Released:
    """Choices in which the published release differs. A recipe gives them beside the others.

    **Arguments:**

    - `release`: makes every choice below as the release does, whatever they say.
    - `evaluate_first`: epoch 0 of `epochs` only evaluates. So there are `epochs` − 1 passes, and
        the first has the rate of the second.
    - `order`: `class` hands the forget set over class by class, poisoned samples pair by pair and
        alternating. `given` keeps the order of the data. An experiment orders the data; a loader of
        your own comes as you made it.
    - `rank_rule`: whether k counts cumulative shares that are `at_most` γ, or `below` it.
    - `spectrum`: `absolute` takes |λ| for a negative eigenvalue of G(D) − G(D_f), as a singular
        value decomposition does. `positive` takes 0.
    - `stride_one`: the moments come from patches at stride 1, also in strided convolutions.
    - `gap_rule`: `released` keeps the earlier of two equal gaps, and may keep epoch 0 without a
        word. Where the gap never closes it gives back the original model.
    - `after_drop`: the epoch that `retain_drop` keeps: the `previous` one, or the `last`, whose
        accuracy has fallen.
    - `augment`: augmentation of the passes, `flip` or `crop_flip`; None for plain images.
    - `clean_moments`: the moments are those of the data without the forget set. Nothing is
        subtracted. An experiment computes them in one pass with the training's augmentation, which
        reads the retain data.
    - `scale_size`: in depoisoning, a linear layer learns a scale for this many of its weakest core
        directions only. None: for all. 0: no layer learns a scale.

    Raises `ValueError` for values that are not allowed.
    """

    release: bool = _later(False)
    evaluate_first: bool = _later(False)
    order: str = _later("given")
    rank_rule: str = _later("at_most")
    spectrum: str = _later("positive")
    stride_one: bool = _later(False)
    gap_rule: str = _later("nearest")
    after_drop: str = _later("previous")
    augment: str | None = _later(None)
    clean_moments: bool = _later(False)
    scale_size: int | None = _later(None)

    def __post_init__(self) -> None:
        check_choice("order", self.order, ORDERS)
        check_choice("rank_rule", self.rank_rule, RANK_RULES)
        check_choice("spectrum", self.spectrum, SPECTRA)
        check_choice("gap_rule", self.gap_rule, GAP_RULES)
        check_choice("after_drop", self.after_drop, AFTER_DROP)
        check_augment(self.augment)
        check_integer("scale_size", self.scale_size, 0, optional=True)

    def resolved(self, depoisons: bool) -> Released:
        """Returns the choices that hold: with `release`, those of the release's script."""
        if not self.release:
            return self
        common = replace(self, evaluate_first=True, order="class", stride_one=True, after_drop="last")
        if depoisons:
            return replace(
                common, rank_rule="below", augment="crop_flip", clean_moments=True, scale_size=SCALED,
            )  # fmt: skip
        return replace(common, spectrum="absolute", gap_rule="released")
