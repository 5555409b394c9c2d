"""DELETE, Bad Teacher, LoTUS and UNSIR: targets, teachers and data against slow statements."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from unlearn import Scenario, UnlearnError, make_split, predict
from unlearn.core.errors import NothingToForget
from unlearn.methods import DELETE, UNSIR, BadTeacher, LoTUS, MethodDidNothing
from unlearn.methods.base import share_of
from unlearn.methods.kit import Batch, Network, Samples, Task, divergence
from unlearn.methods.lotus import targets

from .conftest import same, weights


@pytest.fixture
def fits(monkeypatch):
    """What each training of a run was given: the task, its items and its objective."""
    found = []
    original = Task.fit

    def fit(self, training, items, objective=None, **options):
        found.append((self, training, items, objective))
        original(self, training, items, objective, **options)

    monkeypatch.setattr(Task, "fit", fit)
    return found


@pytest.fixture
def teachers(monkeypatch):
    """The teachers that a run makes, with their weights when they were made."""
    found = []
    original = Task.teacher

    def teacher(self, module=None):
        made = original(self, module)
        found.append((made.module, copy.deepcopy(made.module)))
        return made

    monkeypatch.setattr(Task, "teacher", teacher)
    return found


def batch_of(loader, forgotten: bool) -> Batch:
    images, labels = next(iter(loader))
    rows = torch.arange(len(labels))
    return Batch(images, labels, rows, torch.full((len(labels),), forgotten), "forget" if forgotten else "retain")


def loss_of(fit, model, batch) -> torch.Tensor:
    return fit[3](Network(model), batch)


# DELETE ----------------------------------------------------------------------------------------


def test_delete_learns_the_teachers_answer_without_the_label(trained, given, fits, teachers) -> None:
    DELETE(epochs=2).unlearn(trained, **given)
    assert all(same(made, before) for made, before in teachers)
    batch = batch_of(given["forget"], True)
    student = copy.deepcopy(trained).double().eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    first = copy.deepcopy(trained).double()(batch.images.double()).detach()
    q = torch.stack([torch.cat([row[:y], row[y + 1 :]]).softmax(0) for row, y in zip(first, batch.labels, strict=True)])
    log_p = student(batch.images.double()).log_softmax(1)
    log_p = torch.stack([torch.cat([row[:y], row[y + 1 :]]) for row, y in zip(log_p, batch.labels, strict=True)])
    expected = (q * (q.log() - log_p)).sum(1).mean()
    assert loss_of(fits[0], student.float(), batch).item() == pytest.approx(float(expected), rel=1e-4)


def test_deletes_gradient_always_takes_from_the_label(trained, given, fits) -> None:
    """∂L/∂z_y = p_y, and neither the label's own first logit nor a constant counts."""
    DELETE(epochs=1).unlearn(trained, **given)
    batch = batch_of(given["forget"], True)

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.randn(len(batch), 10, generator=torch.Generator().manual_seed(1)))

        def forward(self, images):
            return self.logits

    fixed = Fixed()
    loss_of(fits[0], fixed, batch).backward()
    p = fixed.logits.detach().softmax(1) / len(batch)
    own = fixed.logits.grad.gather(1, batch.labels[:, None])
    assert torch.allclose(own, p.gather(1, batch.labels[:, None]), rtol=1e-4, atol=1e-8)


# Bad Teacher -----------------------------------------------------------------------------------


def test_bad_teachers_targets(trained, given, fits, teachers) -> None:
    BadTeacher(lr=1e-3, seed=4).unlearn(trained, **given)
    assert all(same(made, before) for made, before in teachers)
    (good, _), (bad, _) = teachers
    assert same(good, trained)
    assert not same(bad, trained)
    assert [p.shape for p in bad.parameters()] == [p.shape for p in trained.parameters()]
    for forgotten, teacher in ((True, bad), (False, good)):
        batch = batch_of(given["forget"], forgotten)
        student = copy.deepcopy(trained).eval()
        expected = divergence(teacher(batch.images), student(batch.images))
        assert float(loss_of(fits[0], student, batch)) == pytest.approx(float(expected), rel=1e-5, abs=1e-7)
    batch = batch_of(given["retain"], False)
    student = copy.deepcopy(trained).eval()
    loss = loss_of(fits[0], student, batch)
    gradients = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
    assert abs(float(loss)) < 1e-6
    assert all(g is None or float(g.abs().max()) < 1e-4 for g in gradients), "on retain data alone nothing moves"


def test_a_mix_holds_every_sample_once(trained, given, fits, split) -> None:
    BadTeacher().unlearn(trained, **given)
    batches = list(fits[0][2](0))
    forgotten = torch.cat([b.rows[b.forgotten] for b in batches])
    kept = torch.cat([b.rows[~b.forgotten] for b in batches])
    assert sorted(forgotten.tolist()) == list(range(len(split.forget)))
    assert sorted(kept.tolist()) == list(range(len(split.retain)))
    images, labels = fits[0][0].forget.kept
    for batch in batches:
        mine = batch.rows[batch.forgotten]
        assert torch.equal(batch.images[batch.forgotten], images[mine])
        assert torch.equal(batch.labels[batch.forgotten], labels[mine])


def test_the_share_is_drawn_once_from_the_seed() -> None:
    rows = np.arange(100, 300)
    share = share_of(rows, 0.3, 5)
    assert len(share) == len(set(share)) == 60
    assert set(share) <= set(rows)
    assert np.array_equal(share, share_of(rows, 0.3, 5))
    assert not np.array_equal(share, share_of(rows, 0.3, 6))
    assert np.array_equal(share_of(rows, 1.0, 5), rows)


@pytest.mark.parametrize("cls", [BadTeacher, LoTUS, UNSIR])
def test_no_more_than_a_share_is_asked_for(cls) -> None:
    needs = cls().needs()
    assert (needs.access, needs.retain) == ("retain_share", 0.2 if cls is UNSIR else 0.3)
    assert cls(retain_share=0.05).needs().retain == 0.05
    with pytest.raises(ValueError, match=r"^retain_share: 0\.0 is not allowed; give a share above 0, up to 1"):
        cls(retain_share=0.0)


# LoTUS -----------------------------------------------------------------------------------------


def test_lotus_temperature() -> None:
    assert LoTUS(alpha=3.0).temperature(0.0) == 1.0
    assert LoTUS(alpha=0.0).temperature(0.7) == 1.0
    assert LoTUS(alpha=2.0).temperature(0.5) == pytest.approx(np.e)


@pytest.mark.parametrize("alpha", LoTUS.space()["alpha"].values)
def test_lotus_has_a_temperature_for_each_alpha_that_a_search_draws(alpha: float) -> None:
    """Up to a difference of 1, where the largest are so warm that targets are uniform."""
    for difference in (-0.01, 0.5, 1.0):
        tau = LoTUS(alpha=alpha).temperature(difference)
        soft, _ = targets(torch.tensor([[30.0, -30.0, 0.0, 5.0]]), tau)
        assert 0 < tau < float(torch.finfo(torch.float32).max)
        assert bool(torch.isfinite(soft).all())
        if alpha * difference >= 40:
            assert torch.equal(soft, torch.full((1, 4), 0.25))


def test_gumbel_samples_are_of_the_teachers_distribution() -> None:
    """Hard samples come as often as the softmax says; soft ones sum to 1 and smooth with τ."""
    torch.manual_seed(0)
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(40_000, 4)
    soft, hard = targets(logits, 1.0)
    p = logits[0].softmax(0)
    assert torch.allclose(hard.mean(0), p, atol=4 * 0.5 / 200)
    assert torch.equal(hard.sum(1), torch.ones(len(hard)))
    assert torch.allclose(soft.sum(1), torch.ones(len(soft)), atol=1e-5)
    smooth, _ = targets(logits, 50.0)
    assert float(smooth.std()) < 0.1 * float(soft.std())


def test_lotus_stops_when_the_forget_set_is_known_no_better(trained, given, teachers) -> None:
    result = LoTUS(lr=1e-3, epochs=4, alpha=8.0).unlearn(trained, **given)
    assert all(same(made, before) for made, before in teachers)
    unseen = predict(trained, given["validation"])
    unseen = float((unseen[0].argmax(1) == unseen[1]).double().mean())
    below = [row["forget_accuracy"] - unseen <= -0.01 for row in result.history]
    assert not any(below[:-1])
    with pytest.raises(NothingToForget, match="validation: the model knows the forget set no better"):
        LoTUS().unlearn(
            trained, **{**given, "forget": given["retain"].replace(labels=(given["retain"].labels + 1) % 10)}
        )


# UNSIR -----------------------------------------------------------------------------------------


@pytest.fixture
def classes(digits, loader_of):
    parts = make_split(digits, Scenario(kind="classes", classes=(0, 7)), 0)
    loaders = {"forget": loader_of(parts.forget), "retain": loader_of(parts.retain)}
    return {**loaders, "forget_classes": (0, 7), "num_classes": 10}


def test_unsir_noise_is_what_the_model_finds_hardest(trained, classes, monkeypatch) -> None:
    method = UNSIR(noise_samples=16, noise_steps=20, copies=3, lr=1e-3, repair_lr=1e-3)
    seen = {}
    original = UNSIR.noise

    def noise(self, task):
        seen["before"] = copy.deepcopy(task.model)
        seen["noise"] = original(self, task)
        seen["after"] = copy.deepcopy(task.model)
        return seen["noise"]

    monkeypatch.setattr(UNSIR, "noise", noise)
    result = method.unlearn(trained, **classes)
    assert same(seen["before"], seen["after"]), "making noise leaves weights and statistics as they were"
    assert [int(labels[0]) for _, labels in seen["noise"]] == [0, 7], "each labelled with its own class"
    for images, labels in seen["noise"]:
        assert len(set(labels.tolist())) == 1
        start = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        ce = [float(nn.functional.cross_entropy(trained(x), labels)) for x in (start, images)]
        assert ce[1] > ce[0]
    assert result.model(images).shape[1] == 8


def test_unsir_impairs_on_copies_and_repairs_on_retain_data_alone(trained, classes, fits) -> None:
    UNSIR(noise_samples=4, noise_steps=2, copies=5, lr=1e-3, repair_lr=1e-4).unlearn(trained, **classes)
    (task, first, impair, _), (_, second, repair, _) = fits
    assert (first.lr, second.lr) == (1e-3, 1e-4)
    batches = list(impair(0))
    assert sum(int(b.forgotten.sum()) for b in batches) == 2 * 4 * 5
    assert {int(y) for b in batches for y in b.labels[b.forgotten]} == {0, 7}
    assert not any(bool(b.forgotten.any()) for b in repair(0))
    assert isinstance(task.retain, Samples)


def test_unsir_is_for_classes(trained, given, split) -> None:
    with pytest.raises(UnlearnError, match="forget_classes: unsir forgets whole classes only"):
        UNSIR().unlearn(trained, **given)
    with pytest.raises(UnlearnError, match=r"scenario.kind: 'samples' is not allowed; unsir is for classes"):
        UNSIR().check(split)


@pytest.mark.parametrize("method", [DELETE(epochs=1), BadTeacher(), LoTUS(epochs=1)], ids=lambda m: m.name)
def test_an_optimiser_of_the_teacher_is_found(method, trained, given, monkeypatch) -> None:
    """As in public code whose optimiser holds the teacher's weights: the student never moves."""
    from unlearn.methods.kit import work

    monkeypatch.setattr(work, "trained_parameters", lambda model: list(copy.deepcopy(model).parameters()))
    with pytest.raises(MethodDidNothing):
        method.unlearn(trained, **given)
    monkeypatch.undo()
    moved = method.unlearn(trained, **given).model
    assert any(not torch.equal(weight, weights(trained)[name]) for name, weight in weights(moved).items())
