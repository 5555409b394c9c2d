"""Depoisoning, whole classes and growing forget sets."""

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from unlearn import PGU, CoreBasis, DepoisonPGU, accuracy, second_moments
from unlearn.methods import IncompatibleMoments, UnlearnError
from unlearn.methods.pgu.incremental import incremental
from unlearn.methods.pgu.losses import depoisoning_terms, forgetting_terms

from .. import reference_pgu as reference
from .net import LAYERS, Batches, batches, fitted, patterned, relative, ten_steps, weights

PLAIN = ["conv1", "conv3", "linear1", "linear2"]  # without groups, as the reference of the scale is written


@pytest.mark.parametrize("offset", [0.05, 0.1, 1e-3])
def test_losses_are_the_formulas(offset: float) -> None:
    logits = 6 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    logits[0], logits[1] = torch.tensor([50.0] + 6 * [0.0]), torch.tensor([-50.0] + 6 * [0.0])
    labels = torch.arange(20) % 7
    labels[:2] = 0
    wide = logits.double()
    for terms, poisoned in ((forgetting_terms, False), (depoisoning_terms, True)):
        first, second = terms(logits, labels, offset)
        # A probability of exactly nought has no logarithm in the plain formula; p log p is nought there.
        alone = reference.loss(wide, labels, offset, 1.0, 0.0, depoison=poisoned)
        both = reference.loss(wide, labels, offset, 1.0, 1.0, depoison=poisoned)
        assert float(first) == pytest.approx(float(alone), rel=1e-5)
        assert float(second) == pytest.approx(float(both - alone), rel=1e-4, abs=1e-6)
    certain = torch.tensor([[1e4, 0.0, 0.0]], requires_grad=True)
    total = sum(forgetting_terms(certain, torch.tensor([0]), offset))
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(certain.grad).all()


@pytest.mark.medium
@pytest.mark.parametrize("gamma", [0.6, 0.95])
def test_depoisoning_learns_the_scale_inside_the_core_space(model, data, moments, forget, exact, gamma: float) -> None:
    """Against autograd through an explicit W − W M Mᵀ + W M S Mᵀ."""
    swapped = (data[1][:40] + 1) % 5
    gammas = {"conv2": 1.0, **dict.fromkeys(PLAIN, gamma)}
    method = ten_steps(objective="depoison", offset=0.1, lr=0.1, final_lr=0.05, gamma=gammas)
    result = method.unlearn(model, forget=batches(data[0][:40], swapped), moments=moments)
    cores = {}
    for name in PLAIN:
        values, vectors = torch.linalg.eigh(exact[name])
        cores[name] = vectors[0].flip(1)[:, : reference.rank(values[0].flip(0), gamma, "singular")]
    rates = [0.1 * 0.5 ** (e / 10) for e in range(10)]
    slow = reference.depoison(model, data[0][:40], swapped, cores, rates)
    for name in PLAIN:
        before, after, expected = (weights(m)[name] for m in (model, result.model, slow))
        assert relative(after, expected) < 1e-4, name
        assert relative(after - before, expected - before) < 1e-3, f"{name}: the change itself"
    assert torch.equal(result.model.conv2.weight, model.conv2.weight), "γ = 1 freezes the scale too"


def test_without_a_scale_depoisoning_stays_in_the_residual_space(model, data, moments, forget, exact) -> None:
    swapped = (data[1][:40] + 1) % 5
    options = {"objective": "depoison", "offset": 0.1, "lr": 0.1, "final_lr": 0.05, "gamma": 0.9}
    given = {"forget": batches(data[0][:40], swapped), "moments": moments}
    result = ten_steps(**options, scale_size=0).unlearn(model, **given)
    learned = ten_steps(**options).unlearn(model, **given)
    for name in PLAIN:
        before, after, other = (weights(m)[name] for m in (model, result.model, learned.model))
        values, vectors = torch.linalg.eigh(exact[name])
        core = vectors[0].flip(1)[:, : reference.rank(values[0].flip(0), 0.9, "singular")]
        moved, moved_with = ((w - before).double().flatten(1) for w in (after, other))
        assert moved.norm() > 0
        assert (moved @ core).norm() < 1e-4 * moved.norm()
        assert (moved_with @ core).norm() > 1e-2 * moved_with.norm(), "the scale moves the core space"


def test_depoisoning_takes_poison_out() -> None:
    """The labels of half of two classes are swapped. The poisoned model learns them, and unlearning gives them back."""
    images, labels = patterned(400, 1, strength=0.45)
    held_out = batches(*patterned(200, 2, strength=0.45))
    poisoned = (labels < 2) & (torch.arange(400) < 100)
    wrong = labels.clone()
    wrong[poisoned] = 1 - labels[poisoned]
    net = fitted(images, wrong)
    as_poisoned, as_it_is = (batches(images[poisoned], values[poisoned]) for values in (wrong, labels))
    assert accuracy(net, as_poisoned) > 0.9
    clean = second_moments(net, batches(images[~poisoned], labels[~poisoned])).decompose()
    method = DepoisonPGU(gamma=0.5, epochs=20)
    assert method == PGU.of(
        objective="depoison", gamma=0.5, lr=0.1, final_lr=0.05, epochs=20, offset=0.1, early_stop="retain_drop"
    )
    result = method.unlearn(net, forget=as_poisoned, moments=clean, monitor={"test": held_out})
    assert accuracy(net, as_it_is) < 0.1
    assert accuracy(result.model, as_it_is) > 0.7
    assert accuracy(result.model, held_out) > accuracy(net, held_out)


# Whole classes ------------------------------------------------------------------------------------------------------


def test_class_removal(trained, data, held_out) -> None:
    images, labels = data
    gone = labels == 2
    forget = batches(images[gone], labels[gone], 20)
    retain = batches(images[~gone], labels[~gone])
    everything = second_moments(trained, batches(*data))
    method = PGU(gamma=0.8, lr=0.05, epochs=60, early_stop="retain_drop", batch_size=20)
    result = method.unlearn(
        trained, forget=forget, moments=everything, forget_classes=(2,), num_classes=5, monitor={"retain": retain}
    )
    assert result.model.linear2.weight.shape == (4, 24)
    assert result.model.linear2.bias.shape == (4,)
    assert trained.linear2.weight.shape == (5, 24), "the model given is left untouched"
    last = result.history[-1 if result.stopped_at is None else result.stopped_at]
    assert last["forget_accuracy"] < 0.5
    assert last["retain_accuracy"] >= result.history[0]["retain_accuracy"] - 0.05
    kept = torch.tensor([0, 1, 9, 2, 3])
    assert accuracy(result.model, batches(images[~gone], kept[labels[~gone]])) >= last["retain_accuracy"]


def test_class_removal_shuffles_and_adds_one_to_the_rank(model, data, moments) -> None:
    images, labels = data
    gone = labels == 0
    forget = batches(images[gone], labels[gone])

    def run(classes: tuple[int, ...], **changes) -> nn.Module:
        method = ten_steps(epochs=2, batch_size=16, **changes)
        return method.unlearn(model, forget=forget, moments=moments, forget_classes=classes).model

    as_released = run((0,))
    by_hand = run((), shuffle=True, extra_rank=1)
    assert torch.equal(as_released.conv3.weight, by_hand.conv3.weight)
    assert torch.equal(as_released.linear2.weight, by_hand.linear2.weight[1:])
    assert not torch.equal(as_released.conv3.weight, run((0,), extra_rank=0).conv3.weight)
    assert not torch.equal(as_released.conv3.weight, run((0,), shuffle=False).conv3.weight)
    assert torch.equal(
        run((0,), criterion="energy").conv3.weight, run((0,), criterion="energy", extra_rank=0).conv3.weight
    )


def test_the_gap_is_not_for_classes(model, forget, moments, held_out) -> None:
    with pytest.raises(UnlearnError, match="early_stop: 'gap' says nothing where whole classes are forgotten"):
        PGU().unlearn(model, forget=forget, moments=moments, validation=held_out, forget_classes=(1,))


# Growing forget sets ------------------------------------------------------------------------------------------------


def steps_of(data: tuple[Tensor, Tensor], count: int, size: int = 20) -> list[Batches]:
    return [batches(data[0][i * size : (i + 1) * size], data[1][i * size : (i + 1) * size]) for i in range(count)]


def test_steps_go_from_model_to_model_with_running_moments(model, data, moments) -> None:
    method, steps = ten_steps(epochs=3), steps_of(data, 3)
    results = list(incremental(model, method, steps, moments))
    assert len(results) == 3
    current, running = model, moments
    for step, result in zip(steps, results, strict=True):
        # G ← G − G(D_f), the latter with the model that the step starts from.
        running = running.subtract(second_moments(current, step), allow_model_change=True)
        current = method.unlearn(current, forget=step, moments=running.decompose()).model
        for name, weight in weights(result.model).items():
            assert torch.equal(weight, weights(current)[name])
    assert running.count == 340


def test_one_step_is_the_method_alone(model, data, moments) -> None:
    (only,) = incremental(model, ten_steps(), steps_of(data, 1), moments)
    alone = ten_steps().unlearn(model, forget=steps_of(data, 1)[0], moments=moments)
    for name, weight in weights(only.model).items():
        assert relative(weight, weights(alone.model)[name]) < 1e-6


def test_moments_can_be_computed_anew(model, data, moments) -> None:
    steps = steps_of(data, 2)
    left = [batches(data[0][20:], data[1][20:]), batches(data[0][40:], data[1][40:])]
    results = list(incremental(model, ten_steps(epochs=3), steps, moments, remaining=left))
    second = second_moments(results[0].model, left[1]).decompose()
    expected = ten_steps(epochs=3).unlearn(results[0].model, forget=steps[1], moments=second)
    for name, weight in weights(results[1].model).items():
        assert torch.equal(weight, weights(expected.model)[name])
    with pytest.raises(ValueError, match="remaining: it ends before the steps do"):
        list(incremental(model, ten_steps(epochs=1), steps, moments, remaining=left[:1]))


@pytest.mark.medium
def test_steps_are_asked_for_one_by_one_and_nothing_piles_up(model, data, moments) -> None:
    asked: list[int] = []

    def steps():
        for number in range(6):
            asked.append(number)
            yield steps_of(data, 6)[number]

    alive: list[weakref.ref] = []
    for number, result in enumerate(incremental(model, ten_steps(epochs=1), steps(), moments), start=1):
        assert len(asked) == number
        alive.append(weakref.ref(result.model))
        del result
        gc.collect()
        assert sum(ref() is not None for ref in alive) <= 1, "one model at a time"
    assert len(alive) == 6


def test_moments_of_another_model_are_refused(model, data, moments) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.conv1.bias += 1
    with pytest.raises(IncompatibleMoments, match="other weights"):
        next(incremental(other, ten_steps(), steps_of(data, 1), moments))
    assert isinstance(moments.decompose(), CoreBasis)
    assert set(LAYERS) == set(moments.parts)
