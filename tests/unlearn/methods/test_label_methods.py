"""GradAscent, NegGrad+, RandomLabel, SalUn and L1Sparse against slow statements of their formulas."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from tests.unlearn.methods.nets import FORGET, bits, data, forget, gap, loss_on, retain, run, same, trained
from unlearn.methods.finetune import Finetune
from unlearn.methods.grad_ascent import GradAscent
from unlearn.methods.kit import Task
from unlearn.methods.kit.mask import largest
from unlearn.methods.l1_sparse import L1Sparse
from unlearn.methods.neggrad_plus import NegGradPlus
from unlearn.methods.random_label import RandomLabel
from unlearn.methods.salun import SalUn

PLAIN = {"momentum": 0.0, "weight_decay": 0.0}


def spread(batch: int) -> dict[str, torch.Tensor]:
    """∇ of the mean loss on the forget set, by autograd on a copy in evaluation mode."""
    model = copy.deepcopy(trained()).eval()
    images, labels = data()
    nn.functional.cross_entropy(model(images[:batch]), labels[:batch]).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_one_step_of_ascent_is_eta_times_the_gradient() -> None:
    found = run(GradAscent(lr=0.03, epochs=1, batch_size=FORGET, **PLAIN)).model
    gradient = spread(FORGET)
    for name, before in trained().named_parameters():
        moved = dict(found.named_parameters())[name] - before
        assert torch.allclose(moved, 0.03 * gradient[name], atol=2e-6), name


def test_ascent_raises_the_loss_of_the_forget_set_and_keeps_frozen_statistics() -> None:
    found = run(GradAscent(lr=0.05, epochs=4)).model
    assert loss_on(found, forget()) > loss_on(trained(), forget()) + 0.1
    assert all(torch.equal(a, b) for a, b in zip(found.buffers(), trained().buffers(), strict=True))


def test_a_clipped_step_is_no_longer_than_lr_times_the_norm() -> None:
    found = run(GradAscent(lr=1.0, epochs=1, batch_size=FORGET, clip=0.1, **PLAIN)).model
    squares = [(a - b).detach().square().sum() for a, b in zip(found.parameters(), trained().parameters(), strict=True)]
    assert float(torch.stack(squares).sum().sqrt()) == pytest.approx(0.1, rel=1e-3)


def test_neggrad_plus_with_alpha_one_is_finetune_with_frozen_normalisation() -> None:
    settings = {"lr": 0.02, "epochs": 2, "batch_norm": "frozen"}
    assert same(run(NegGradPlus(alpha=1.0, **settings)).model, run(Finetune(**settings)).model)


def test_neggrad_plus_with_alpha_zero_is_ascent_over_cycled_batches() -> None:
    # Batches of the forget set's size: each pair holds the whole of it, so that 160/40 pairs are four passes of ascent.
    found = run(NegGradPlus(alpha=0.0, lr=0.01, epochs=1, batch_size=FORGET, **PLAIN), retain=retain(FORGET)).model
    climbed = run(GradAscent(lr=0.01, epochs=4, batch_size=FORGET, **PLAIN)).model
    assert gap(found, climbed) < 1e-5


def test_neggrad_plus_has_the_gradient_of_its_formula() -> None:
    alpha, anchor, step = 0.7, 3.0, 1e-2
    method = NegGradPlus(alpha=alpha, anchor=anchor, lr=step, epochs=1, batch_size=160, **PLAIN)
    found = run(method, retain=retain(160)).model
    slow = copy.deepcopy(trained()).eval()
    images, labels = data()
    order_free = nn.functional.cross_entropy
    # The anchor has no pull at θ0, so that the first step shows the two losses alone.
    loss = alpha * order_free(slow(images[40:200]), labels[40:200])
    loss = loss - (1 - alpha) * order_free(slow(images[:40]), labels[:40])
    loss.backward()
    for name, p in slow.named_parameters():
        expected = p.detach() - step * p.grad
        assert torch.allclose(dict(found.named_parameters())[name], expected, atol=2e-6), name


def test_the_anchor_of_neggrad_plus_holds_the_model_back() -> None:
    free = run(NegGradPlus(lr=0.02, epochs=3)).model
    held = run(NegGradPlus(lr=0.02, epochs=3, anchor=5.0)).model
    far = [sum(float((a - b).square().sum()) for a, b in zip(m.parameters(), trained().parameters(), strict=True)) for m in (free, held)]  # fmt: skip
    assert far[1] < 0.9 * far[0]


def labels_of(method: RandomLabel, epochs: int, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    original = type(method).drawn

    def spy(self: RandomLabel, task: Task, epoch: int) -> torch.Tensor:
        seen.append(original(self, task, epoch))
        return seen[-1]

    monkeypatch.setattr(RandomLabel, "drawn", spy)
    run(method)
    assert len(seen) == epochs
    return seen


def test_wrong_labels_are_never_the_true_ones_and_even_over_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = labels_of(RandomLabel(labels="wrong", lr=1e-4, epochs=30), 30, monkeypatch)
    true = data()[1][:FORGET]
    steps = Counter(((torch.stack(seen) - true) % 5).flatten().tolist())
    assert 0 not in steps
    chi = sum((count - 300) ** 2 / 300 for count in steps.values())  # 1,200 draws of four steps
    assert chi < 16.3  # χ² with 3 degrees of freedom is larger in 0.1 % of cases


def test_labels_drawn_once_stay_and_those_of_each_epoch_change(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        once = labels_of(RandomLabel(redraw="once", lr=1e-4, epochs=3), 3, patch)
    each = labels_of(RandomLabel(redraw="epoch", lr=1e-4, epochs=3), 3, monkeypatch)
    assert all(torch.equal(labels, once[0]) for labels in once)
    assert not torch.equal(each[0], each[1])
    assert any(bool((labels == data()[1][:FORGET]).any()) for labels in each)  # `any` draws the true class too


@pytest.mark.parametrize("order", ["forget_first", "mixed"])
def test_random_labels_forget(order: str) -> None:
    found = run(RandomLabel(lr=0.02, epochs=5, order=order, labels="wrong")).model
    assert loss_on(found, forget()) > loss_on(trained(), forget()) + 0.3


def test_the_mask_of_salun_keeps_all_other_weights_to_the_bit() -> None:
    method = SalUn(ratio=0.3, lr=0.05, epochs=2, momentum=0.9, weight_decay=0.1)
    found = dict(run(method).model.named_parameters())
    slow = copy.deepcopy(trained()).eval()
    images, labels = data()
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in slow.named_parameters()}
    for image, label in zip(images[:FORGET], labels[:FORGET], strict=True):  # sample by sample
        slow.zero_grad()
        nn.functional.cross_entropy(slow(image[None]), label[None]).backward()
        for name, p in slow.named_parameters():
            sums[name] += p.grad
    every = torch.cat([value.abs().flatten() for value in sums.values()])
    count = int(0.3 * len(every))
    border = every.sort(descending=True).values[count - 1 : count + 1].mean()
    moved = stayed = 0
    for name, before in trained().named_parameters():
        salient = sums[name].abs() > border
        assert torch.equal(found[name][~salient], before[~salient]), name
        moved += int((found[name][salient] != before[salient]).sum())
        stayed += int((~salient).sum())
    assert stayed == len(every) - count
    assert moved > 0.9 * count


def test_salun_on_all_weights_is_random_label() -> None:
    settings = {"lr": 0.02, "epochs": 2}
    assert same(run(SalUn(ratio=1.0, **settings)).model, run(RandomLabel(**settings)).model)


def test_the_mask_of_salun_does_not_depend_on_batches() -> None:
    settings = {"lr": 0.02, "epochs": 1, "batch_size": FORGET}
    assert same(run(SalUn(**settings), forget=forget(7)).model, run(SalUn(**settings), forget=forget(40)).model)


def test_a_mask_takes_exactly_its_share_also_of_ties() -> None:
    chosen = largest({"a": torch.ones(3, 3), "b": torch.tensor([2.0, 0.0])}, 0.5)
    assert sum(int(part.sum()) for part in chosen.values()) == 5
    assert chosen["b"].tolist() == [1, 0]


def test_l1_without_penalty_is_finetune_and_its_norm_falls_with_gamma() -> None:
    settings = {"lr": 0.02, "epochs": 3}
    assert gap(run(L1Sparse(gamma=0.0, **settings)).model, run(Finetune(**settings)).model) < 1e-6
    norms = [
        sum(float(p.abs().sum()) for p in run(L1Sparse(gamma=gamma, **settings)).model.parameters())
        for gamma in (0.0, 1e-3, 1e-2)
    ]
    assert norms[0] > norms[1] > norms[2]


def test_the_penalty_of_l1_fades_as_released() -> None:
    assert [L1Sparse(epochs=4, gamma=0.8).penalty(e) for e in range(4)] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert [L1Sparse(epochs=4, gamma=0.8, no_l1_epochs=2).penalty(e) for e in range(4)] == pytest.approx(
        [0.8, 0.4, 0, 0]
    )


def test_one_step_of_l1_is_the_gradient_of_its_formula() -> None:
    found = run(L1Sparse(gamma=1e-2, lr=0.01, epochs=1, batch_size=160, batch_norm="frozen", **PLAIN), retain=retain(160)).model  # fmt: skip
    slow = copy.deepcopy(trained()).eval()
    images, labels = data()
    loss = nn.functional.cross_entropy(slow(images[40:200]), labels[40:200])
    (loss + 1e-2 * sum(p.abs().sum() for p in slow.parameters())).backward()
    for name, p in slow.named_parameters():
        assert torch.allclose(dict(found.named_parameters())[name], p.detach() - 0.01 * p.grad, atol=2e-6), name


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: GradAscent(clip=0.0), "clip"),
        (lambda: NegGradPlus(alpha=1.5), "alpha"),
        (lambda: NegGradPlus(anchor=-1.0), "anchor"),
        (lambda: RandomLabel(labels="right"), "labels"),
        (lambda: RandomLabel(redraw="batch"), "redraw"),
        (lambda: RandomLabel(order="last"), "order"),
        (lambda: SalUn(ratio=0.0), "ratio"),
        (lambda: L1Sparse(gamma=-1.0), "gamma"),
        (lambda: L1Sparse(no_l1_epochs=11), "no_l1_epochs"),
    ],
)
def test_settings_that_cannot_work_are_named(build: object, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: .* is not allowed"):
        build()  # type: ignore[operator]


def test_nothing_here_changes_the_model_given() -> None:
    before = bits(trained())
    for method in (GradAscent(epochs=1), NegGradPlus(epochs=1), SalUn(epochs=1), L1Sparse(epochs=1)):
        run(method)
    assert all(torch.equal(value, before[name]) for name, value in trained().state_dict().items())
