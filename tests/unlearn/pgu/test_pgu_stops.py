"""When projected-gradient unlearning stops, which epoch it keeps, and what it says of mistakes."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlearn import PGU, second_moments
from unlearn.core.digests import digest_model
from unlearn.methods import IncompatibleMoments, MethodDidNothing, UnlearnError, UnlearnTooFast

from .net import batches, ten_steps, weights


def accuracies(forget: list[float], validation: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans what evaluations find, epoch by epoch."""
    found = iter([value for pair in zip(forget, validation, strict=True) for value in pair])
    monkeypatch.setattr("unlearn.methods.pgu.run.accuracy", lambda *args, **kwargs: next(found))


def by_gap(model, forget, moments, held_out, epochs: int = 5):
    return ten_steps(epochs=epochs, early_stop="gap").unlearn(
        model, forget=forget, moments=moments, validation=held_out
    )


@pytest.mark.parametrize(
    ("forgot", "chosen"),
    [([1.0, 0.9, 0.74], 2), ([1.0, 0.77, 0.5], 1), ([1.0, 0.875, 0.625], 2)],
    ids=["this epoch is nearer", "the last epoch is nearer", "equally near"],
)
def test_early_stop_by_gap_keeps_the_nearer_epoch(
    model, forget, moments, held_out, monkeypatch, forgot, chosen
) -> None:
    accuracies(forgot, [0.75] * 3, monkeypatch)
    result = by_gap(model, forget, moments, held_out)
    assert result.stopped_at == chosen
    assert len(result.history) == 3
    monkeypatch.undo()
    stepwise = first_passes(model, forget, moments, ten_steps(epochs=5), chosen)
    for name, weight in weights(result.model).items():
        assert torch.equal(weight, weights(stepwise)[name]), "the weights of just that epoch"


def first_passes(model, forget, moments, method: PGU, passes: int) -> nn.Module:
    """The model after the first passes of a longer run, one by one with that run's learning rates and space."""
    basis = moments.decompose(minus=second_moments(model, forget))
    for step in range(passes):
        one = dataclasses.replace(method, epochs=1, lr=method.rate(step), final_lr=None)
        same = dataclasses.replace(basis, model_digest=digest_model(model))
        model = one.unlearn(model, forget=forget, moments=same).model
    return model


def test_unlearning_too_fast(model, forget, moments, held_out, monkeypatch) -> None:
    accuracies([0.9, 0.5], [0.8, 0.8], monkeypatch)
    with pytest.raises(
        UnlearnTooFast, match=r"lr: unlearning too fast: .* lower lr \(now 0\.05\), for example to 0\.0125"
    ):
        by_gap(model, forget, moments, held_out)


def test_a_gap_that_is_closed_at_the_start(model, forget, moments, held_out, monkeypatch) -> None:
    accuracies([0.7], [0.8], monkeypatch)
    with pytest.raises(UnlearnError, match=r"forget accuracy 0\.700, validation accuracy 0\.800.* use early_stop=None"):
        by_gap(model, forget, moments, held_out)


def test_a_stop_that_is_not_reached_is_said(model, forget, moments, held_out, monkeypatch) -> None:
    accuracies([1.0, 0.95, 0.9], [0.8] * 3, monkeypatch)
    result = by_gap(model, forget, moments, held_out, epochs=2)
    assert result.stopped_at is None
    assert "not reached in 2 epochs: forget accuracy is still 0.100 above" in result.notes[0]


def test_early_stop_by_gap_for_real(trained, data, forget, held_out) -> None:
    moments = second_moments(trained, batches(*data))
    result = PGU(lr=0.05, gamma=0.5, epochs=60).unlearn(trained, forget=forget, moments=moments, validation=held_out)
    start, end = result.history[0], result.history[result.stopped_at]
    assert start["forget_accuracy"] - start["validation_accuracy"] > 0.1
    assert abs(end["forget_accuracy"] - end["validation_accuracy"]) < 0.1
    assert end["validation_accuracy"] > start["validation_accuracy"] - 0.1


def test_early_stop_by_drop(model, forget, moments, held_out, monkeypatch) -> None:
    accuracies([1.0, 0.5, 0.2, 0.1], [0.9, 0.87, 0.86, 0.84], monkeypatch)
    method = ten_steps(early_stop="retain_drop", epochs=5)
    assert (method.needs().watched, ten_steps(early_stop="gap").needs().watched) == ("retain", "")
    result = method.unlearn(model, forget=forget, moments=moments, monitor={"retain": held_out})
    accuracies([1.0, 0.5, 0.2], [0.90, 0.85, 0.84], monkeypatch)
    five = method.unlearn(model, forget=forget, moments=moments, monitor={"retain": held_out})
    assert five.stopped_at == 1, "100·(0.90 − 0.85) is above 5 by rounding alone"
    assert result.stopped_at == 2, "0.84 is more than five points below 0.90; the epoch before it is kept"
    accuracies([1.0, 0.5], [0.9, 0.2], monkeypatch)
    with pytest.raises(UnlearnTooFast, match="retain accuracy fell"):
        method.unlearn(model, forget=forget, moments=moments, monitor={"retain": held_out})
    with pytest.raises(UnlearnError, match="monitor: early_stop='retain_drop' watches test accuracy"):
        ten_steps(early_stop="retain_drop", watch="test").unlearn(model, forget=forget, moments=moments)


def test_what_is_not_needed_is_not_evaluated(model, forget, moments) -> None:
    class Counted(list):
        reads = 0

        def __iter__(self) -> Iterator[Any]:
            self.reads += 1
            return super().__iter__()

    watched = Counted(forget)
    ten_steps(monitor_every=5).unlearn(model, forget=forget, moments=moments, monitor={"test": watched})
    assert watched.reads == 3, "epochs 0, 5 and 10"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("gamma", 1.1, "gamma: 1.1 is not allowed; give 0 to 1"),
        ("gamma", True, "gamma: True is not allowed"),
        ("gamma", {"conv1": "much"}, "gamma: {conv1: 'much'} is not allowed; give 0 to 1"),
        ("criterion", "energies", "criterion: 'energies' is not allowed; allowed are singular, energy"),
        ("early_stop", "drop", "early_stop: 'drop' is not allowed; allowed are gap, retain_drop, null"),
        ("objective", "poison", "objective: 'poison' is not allowed; allowed are forget, depoison"),
        ("unit", "stages", "unit: 'stages' is not allowed; allowed are layers, blocks"),
        ("precision", "float16", "precision: 'float16' is not allowed; allowed are float32, bfloat16"),
        ("lr", 0.0, "lr: 0.0 is not allowed; give a number above 0"),
        ("lr", "fast", "lr: 'fast' is not allowed; give a number above 0"),
        ("final_lr", -0.1, "final_lr: -0.1 is not allowed; give a number above 0"),
        ("epochs", -1, "epochs: -1 is not allowed; give an integer of 0 or more"),
        ("epochs", 1.5, "epochs: 1.5 is not allowed; give an integer of 0 or more"),
        ("batch_size", 0, "batch_size: 0 is not allowed; give an integer of 1 or more"),
        ("top_k", 0, "top_k: 0 is not allowed; give an integer of 1 or more"),
        ("offset", 0, "offset: 0 is not allowed; give 1e-06 to 1"),
        ("entropy_weight", float("nan"), "entropy_weight: nan is not allowed"),
        ("seed", -1, "seed: -1 is not allowed"),
    ],
)
def test_settings_that_are_not_allowed(field: str, value: Any, told: str) -> None:
    with pytest.raises(ValueError, match="^" + told.translate(str.maketrans({c: "\\" + c for c in ".{}()"}))):
        PGU.of(**{field: value})


def test_inputs_that_are_missing_or_anothers(model, forget, moments, held_out) -> None:
    with pytest.raises(UnlearnError, match="moments: PGU needs second moments of the training data"):
        ten_steps().unlearn(model, forget=forget)
    with pytest.raises(IncompatibleMoments, match="moments: dict is neither"):
        ten_steps().unlearn(model, forget=forget, moments={})
    with pytest.raises(UnlearnError, match="validation: early_stop='gap' compares with validation accuracy"):
        PGU().unlearn(model, forget=forget, moments=moments)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.linear2.bias += 1
    for given in (moments, moments.decompose()):
        with pytest.raises(IncompatibleMoments, match="other weights than this model's"):
            ten_steps().unlearn(other, forget=forget, moments=given)
    with pytest.raises(IncompatibleMoments, match="hold none of the layers linear2"):
        ten_steps(top_k=1).unlearn(model, forget=forget, moments=moments.select(["conv1"]))


def test_layers_without_moments_are_frozen_and_named(model, forget, moments) -> None:
    result = ten_steps().unlearn(model, forget=forget, moments=moments.select(["conv1", "linear2"]))
    assert set(result.history[1]["projected_fraction"]) == {"conv1", "linear2"}
    assert any("do not hold conv2, conv3, linear1: frozen" in note for note in result.notes)


def test_moments_of_other_data_are_noted(model, forget, moments, data) -> None:
    small = second_moments(model, batches(data[0][200:210], data[1][200:210]))
    result = ten_steps(epochs=1).unlearn(model, forget=forget, moments=small)
    assert any("more was subtracted than the moments held" in note for note in result.notes)


def test_doing_nothing_is_reported(model, forget, moments) -> None:
    with pytest.raises(MethodDidNothing, match="lr: PGU left every weight as it was"):
        ten_steps(lr=1e-30, final_lr=None).unlearn(model, forget=forget, moments=moments)
    assert "no pass was made" in ten_steps(epochs=0).unlearn(model, forget=forget, moments=moments).notes[0]


def test_a_loss_that_blows_up_is_told(model, forget, moments) -> None:
    with pytest.raises(UnlearnError, match="lr: the loss is no longer finite in epoch"):
        ten_steps(lr=1e30, final_lr=None, gamma=0.0).unlearn(model, forget=forget, moments=moments)


def test_a_last_step_that_blows_up_is_told(model, forget, moments) -> None:
    method = ten_steps(lr=1e20, final_lr=None, epochs=1, batch_size=64)
    with pytest.raises(UnlearnError, match="the last step left logits that are not finite; lower lr"):
        method.unlearn(model, forget=forget, moments=moments)


def test_shared_and_computed_weights_are_refused() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    given = [(torch.randn(8, 4), torch.arange(8) % 4)]
    for net, told in (
        (Tied(), "a and b share one weight"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))),
            "the weight of 0 is computed from others",
        ),
    ):
        with pytest.raises(UnlearnError, match=told):
            ten_steps().unlearn(net, forget=given, moments=second_moments(net, given))


class ByKeyword(torch.nn.Module):
    """A linear layer whose input is given by name."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = torch.nn.Linear(300, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(input=x.flatten(1))


def test_inputs_by_keyword_and_a_callers_autocast_change_nothing(data) -> None:
    model, loader = ByKeyword(), batches(*data)
    moments = second_moments(model, loader)
    method = ten_steps(gamma=0.9, epochs=2)
    plain = method.unlearn(model, forget=loader[:1], moments=moments).model
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = method.unlearn(model, forget=loader[:1], moments=second_moments(model, loader)).model
    assert not torch.equal(plain.linear.weight, model.linear.weight)
    assert torch.equal(plain.linear.weight, inside.linear.weight)
