"""Attack names to classes. A new attack is a file beside this one and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

_BUILT_IN = {
    "xgboost": "attack.attacks.xgboost:XGBoostAttack",
    "lira": "attack.attacks.lira:LiRA",
    "u_lira": "attack.attacks.u_lira:ULiRA",
    "rmia": "attack.attacks.rmia:RMIA",
    "loss_threshold": "attack.attacks.thresholds:LossThreshold",
    "entropy_threshold": "attack.attacks.thresholds:EntropyThreshold",
}


class _Registry(Mapping[str, Any]):
    """The built-in attacks and those of the entry-point group `attack.attacks`."""

    def _targets(self) -> dict[str, str]:
        third_party = {entry.name: entry.value for entry in entry_points(group="attack.attacks")}
        return {**third_party, **_BUILT_IN}

    def __getitem__(self, name: str) -> Any:
        # Built-in names first: looking through every installed package takes 50 ms.
        module, _, attribute = (_BUILT_IN.get(name) or self._targets()[name]).partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __contains__(self, name: object) -> bool:
        return name in _BUILT_IN or name in self._targets()

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets())

    def __len__(self) -> int:
        return len(self._targets())


ATTACKS = _Registry()


def reads_label(name: str) -> bool:
    """Says whether the attack `name` reads the label's own logit, which class removal drops; one that does not say is taken to."""
    return bool(getattr(ATTACKS[name], "reads_label", True))


def label_free() -> list[str]:
    """Returns the attacks that do not read the label's own logit: those that class removal leaves."""
    return [name for name in ATTACKS if not reads_label(name)]


def directed(name: str) -> bool:
    """Says whether a high score of the attack `name` means "trained on", so that a low one means too much forgetting.

    One that does not say is taken to, unless it is fitted for each method: then a high score means "unlearned".
    """
    attack = ATTACKS[name]
    return bool(getattr(attack, "directed", not attack.per_method))
