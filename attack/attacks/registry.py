"""Attack names to classes. A new attack is a file beside this one and one line here, or an entry
point elsewhere."""

from __future__ import annotations

from ..registry import Registry
from .base import Attack

ATTACKS: Registry[Attack] = Registry(
    "attack.attacks",
    "attack.attacks.base:Attack",
    {
        "xgboost": "attack.attacks.xgboost:XGBoostAttack",
        "lira": "attack.attacks.lira:LiRA",
        "u_lira": "attack.attacks.u_lira:ULiRA",
        "rmia": "attack.attacks.rmia:RMIA",
        "one_shadow": "attack.attacks.one_shadow:OneShadow",
        "gap": "attack.attacks.gap:Gap",
        "loss_threshold": "attack.attacks.thresholds:LossThreshold",
        "entropy_threshold": "attack.attacks.thresholds:EntropyThreshold",
    },
)


def directed(name: str) -> bool:
    """Says whether a high score of the attack `name` means "trained on"."""
    return ATTACKS[name].directed


def label_free() -> list[str]:
    """Returns the attacks that do not read the label's own logit: those that class removal
    leaves."""
    return [name for name, attack in ATTACKS.items() if not attack.reads_label]
