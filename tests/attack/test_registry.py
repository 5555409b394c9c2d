"""Names to classes: built-in ones, and those of other packages by an entry point."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import pytest

import attack.registry
from attack import ATTACKS, DIVERGENCES
from attack.attacks.base import FITTED, Attack
from attack.audit.check import check

from .build import pool

HERE = __name__


class Loud(Attack):
    """Needs more models than anybody has."""

    name = "loud"
    needs = {("original", FITTED): 99, ("unlearned", "test"): 2}  # noqa: RUF012

    def fit(self, outputs: object) -> object:  # type: ignore[override]
        return self


class Stray:
    """No attack at all."""


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = {"loud": "Loud", "stray": "Stray", "xgboost": "Stray"}
    points = [EntryPoint(name, f"{HERE}:{target}", "attack.attacks") for name, target in targets.items()]
    monkeypatch.setattr(attack.registry, "entry_points", lambda group: [p for p in points if p.group == group])


def test_other_packages_add_to_the_built_in_names_and_replace_none(added: None) -> None:
    assert ATTACKS["loud"] is Loud
    assert "loud" in ATTACKS
    assert "loud" not in DIVERGENCES
    assert {"xgboost", "lira", "loud"} <= set(ATTACKS)
    assert ATTACKS["xgboost"].__name__ == "XGBoostAttack"


def test_a_class_that_is_no_attack_is_refused_with_what_to_do(added: None) -> None:
    with pytest.raises(
        TypeError, match=r"'stray' is .*:Stray, which is not a subclass of attack\.attacks\.base\.Attack; derive"
    ):
        ATTACKS["stray"]
    with pytest.raises(KeyError):
        ATTACKS["nobody"]


def test_what_an_attack_needs_is_said_before_it_is_fitted(added: None) -> None:
    """An attack from elsewhere states its needs as the built-in ones do; defaults say the rest."""
    assert (Loud.reads, Loud.per_method, Loud.reads_label, Loud.directed) == ("logits", False, True, True)
    assert Loud.candidates() == []
    found = [str(problem) for problem in check(pool(models=4, samples=5, unlearned={"pgu": 0.5}), ["loud", "lira"])]
    assert len(found) == 2
    assert any("original models in folds train and validation; loud needs at least 99" in text for text in found)
    assert any(text.startswith("role: 1 unlearned models of pgu") and "loud needs at least 2" in text for text in found)


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_says_what_it_is(name: str) -> None:
    attack_class = ATTACKS[name]
    assert attack_class.name == name
    assert attack_class.needs or name == "gap", "only labels need no models to fit on"
    made = attack_class()
    assert set(attack_class.setting_names()) == set(vars(made))
    assert np.all([least >= 1 for least in attack_class.needs.values()])
