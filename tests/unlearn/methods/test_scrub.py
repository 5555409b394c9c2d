"""SCRUB: the student moves and the teacher does not, against a slow statement of the rule."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from unlearn import Scenario, make_split, predict
from unlearn.methods import SCRUB, Finetune, MethodDidNothing, UnlearnError
from unlearn.methods.kit import Task, divergence

from .conftest import same, weights

PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "batch_norm": "frozen", "epochs": 2, "batch_size": 32}


def slow(model: nn.Module, method: SCRUB, task_batches) -> nn.Module:
    """The rule in float64 with plain SGD, batch by batch as they come."""
    student, teacher = copy.deepcopy(model).double().eval(), copy.deepcopy(model).double().eval()
    for images, labels, part in task_batches:
        t = method.temperature
        p = (teacher(images.double()) / t).softmax(1).detach()
        logits = student(images.double())
        kl = t * t * (p * (p.log() - (logits / t).log_softmax(1))).sum(1).mean()
        own = -logits.log_softmax(1).gather(1, labels[:, None]).mean()
        loss = -kl if part == "forget" else method.gamma * own + method.alpha * kl
        gradients = torch.autograd.grad(loss, list(student.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(student.parameters(), gradients, strict=True):
                parameter -= method.lr * gradient
    return student


@pytest.fixture
def seen(monkeypatch):
    """The batches that a run works on."""
    found = []
    original = Task.fit

    def fit(self, training, items, objective=None, **options):
        def recorded(epoch):
            for item in items(epoch):
                found.append((item.images.clone(), item.labels.clone(), item.part))
                yield item

        original(self, training, recorded, objective, **options)

    monkeypatch.setattr(Task, "fit", fit)
    return found


def test_the_rule(trained, given, seen) -> None:
    method = SCRUB(lr=0.01, msteps=1, alpha=0.5, gamma=0.9, temperature=3.0, **PLAIN)
    result = method.unlearn(trained, **given)
    assert [part for *_, part in seen].count("forget") == 1, "one ascent epoch, of one batch"
    expected = weights(slow(trained, method, seen))
    for name, weight in weights(result.model).items():
        moved = (expected[name] - weights(trained)[name].double()).norm()
        assert float((weight.double() - expected[name]).norm() / moved.clamp(min=1e-12)) < 1e-3, name


def test_nothing_but_descent_breaks_the_tie(trained, given) -> None:
    """KL is at its minimum at θ = θ0: ascent alone moves nothing beyond rounding."""
    for alone in ({"alpha": 0.0, "gamma": 0.0, "msteps": 1}, {"alpha": 1.0, "gamma": 0.0, "msteps": 0}):
        try:
            result = SCRUB(lr=0.01, **alone, **{**PLAIN, "epochs": 1}).unlearn(trained, **given)
        except MethodDidNothing:
            continue
        for name, weight in weights(result.model).items():
            assert torch.allclose(weight, weights(trained)[name], atol=1e-5), name


def test_without_ascent_and_distillation_it_is_fine_tuning(trained, given) -> None:
    settings = {"lr": 0.01, "epochs": 2, "batch_size": 32}
    first = SCRUB(msteps=0, alpha=0.0, gamma=1.0, **settings).unlearn(trained, **given).model
    second = Finetune(**settings).unlearn(trained, **given).model
    for name, weight in weights(first).items():
        assert torch.allclose(weight, weights(second)[name], atol=1e-6), name


def test_strong_distillation_keeps_the_logits(trained, given) -> None:
    far = SCRUB(lr=0.003, alpha=0.0, msteps=1, **{**PLAIN, "epochs": 4}).unlearn(trained, **given).model
    near = SCRUB(lr=0.003, alpha=20.0, gamma=0.05, msteps=1, **{**PLAIN, "epochs": 4}).unlearn(trained, **given).model
    before, after, other = (predict(m, given["retain"])[0] for m in (trained, near, far))
    assert (after - before).abs().mean() < 0.2 * (other - before).abs().mean()


def test_rewinding(trained, given) -> None:
    """The epoch whose forget error is nearest that of unseen samples; epoch 0 is the model as given, to the bit."""
    result = SCRUB(lr=1e-6, epochs=2, rewind=True, momentum=0.0).unlearn(trained, **given)
    assert result.stopped_at == 0
    assert same(result.model, trained)
    assert "as it was given" in result.notes[-1]
    with pytest.raises(UnlearnError, match="validation: scrub needs it"):
        SCRUB(rewind=True).unlearn(trained, forget=given["forget"], retain=given["retain"])


def test_rewinding_is_refused_before_training_where_no_unseen_sample_is_of_the_forget_sets_classes(
    trained, given, digits, split, monkeypatch
) -> None:
    classes = make_split(digits, Scenario(kind="classes", classes=(0,)), 0)
    with pytest.raises(UnlearnError, match=r"^rewind: True is not allowed where whole classes are forgotten"):
        SCRUB(rewind=True).check(classes)
    SCRUB().check(classes)
    SCRUB(rewind=True).check(split)
    assert "rewind" not in SCRUB.space(), "a search for classes would draw it"
    monkeypatch.setattr(Task, "fit", lambda *given, **options: pytest.fail("it trained"))
    held_out = given["validation"]
    others = held_out.replace(indices=held_out.indices[held_out.labels[held_out.indices].numpy() != 0])
    own = given["retain"].replace(indices=split.forget[digits.train.labels[split.forget] == 0])
    with pytest.raises(UnlearnError, match=r"^validation: it holds no sample of the forget set's classes"):
        SCRUB(rewind=True).unlearn(trained, **{**given, "forget": own, "validation": others})


def test_a_student_that_never_moves_is_found(trained, given, monkeypatch) -> None:
    """As in a public library file, whose optimiser holds the weights of a model that is not the student."""
    from unlearn.methods.kit import work

    monkeypatch.setattr(work, "trained_parameters", lambda model: list(copy.deepcopy(model).parameters()))
    with pytest.raises(MethodDidNothing, match="scrub: it left every weight as it was"):
        SCRUB(epochs=2, batch_norm="frozen").unlearn(trained, **given)


def test_epochs_of_ascent_are_exactly_m(trained, given, seen) -> None:
    """A public library makes m + 1."""
    SCRUB(msteps=2, epochs=4).unlearn(trained, **given)
    assert [part for *_, part in seen].count("forget") == 2


def test_divergence_is_that_of_the_textbook() -> None:
    torch.manual_seed(0)
    target, logits = torch.randn(5, 7), torch.randn(5, 7)
    p, q = (target / 2).softmax(1).double(), (logits / 2).softmax(1).double()
    expected = (p * (p / q).log()).sum(1).mean()
    assert float(divergence(target, logits, 2.0)) == pytest.approx(float(expected), rel=1e-5)
    assert float(divergence(target, logits, 2.0, "mean")) == pytest.approx(float(expected) / 7, rel=1e-5)
    assert abs(float(divergence(target, target))) < 1e-7
