"""Boundary Shrink and Expand, and AMUN: methods that need pixels."""

from __future__ import annotations

import math

import pytest
import torch

from tests.unlearn.methods.nets import FORGET, RETAIN, array, bits, data, loss_on, retain, run, same, trained
from unlearn import UnlearnError
from unlearn.methods import BoundaryExpand, BoundaryShrink
from unlearn.methods.amun import AMUN
from unlearn.methods.finetune import Finetune
from unlearn.methods.kit import Samples, Task
from unlearn.methods.kit.adversary import Pixels, pgd_l2
from unlearn.methods.kit.samples import together


def forget() -> object:
    return array(0, FORGET)


def captured(method: object, monkeypatch: pytest.MonkeyPatch, **given: object) -> tuple[Task, list[object]]:
    """The task of a run, and every item that a step worked on."""
    seen: list[object] = []
    tasks: list[Task] = []
    original = Task.fit

    def spy(self: Task, training: object, items: object, objective: object = None, **options: object) -> None:
        tasks.append(self)

        def noted(epoch: int) -> object:
            for item in items(epoch):  # type: ignore[operator]
                seen.append(item)
                yield item

        original(self, training, noted, objective, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Task, "fit", spy)
    run(method, **{"forget": forget(), **given})  # type: ignore[arg-type]
    return tasks[0], seen


@pytest.mark.parametrize("epsilon", [0.02, 0.2])
def test_shrink_trains_to_the_class_of_the_adversarial_image(epsilon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _, seen = captured(BoundaryShrink(lr=1e-3, epochs=1, epsilon=epsilon), monkeypatch)
    # Independent: one signed step in pixels, rounded to 8 bits, by hand.
    images, labels = data()
    pixels = (images[:FORGET] * 0.125 + 0.5).requires_grad_(True)
    torch.nn.functional.cross_entropy(trained()((pixels - 0.5) / 0.125), labels[:FORGET], reduction="sum").backward()
    moved = ((pixels + epsilon * pixels.grad.sign()).clamp(0, 1) * 255).round() / 255
    nearest = trained()((moved - 0.5) / 0.125).argmax(dim=1)
    used = {}
    for batch in seen:
        for image, label in zip(batch.images, batch.labels, strict=True):
            (row,) = torch.nonzero((images[:FORGET] - image).abs().flatten(1).amax(dim=1) < 1e-6)[:, 0].tolist()
            used[row] = int(label)
    assert used == {i: int(nearest[i]) for i in range(FORGET) if nearest[i] != labels[i]}
    assert len(used) > FORGET / 2 if epsilon > 0.1 else 0 < len(used) < FORGET, "small steps leave some out"


def test_shrink_leaves_out_what_keeps_its_class_and_says_so() -> None:
    with pytest.raises(UnlearnError, match="epsilon: no adversarial image"):
        run(BoundaryShrink(epsilon=0.0), forget=forget())  # ε = 0: the model's own answer, which is right throughout
    left_out = {}
    for epsilon in (0.01, 0.02, 0.04):
        notes = run(BoundaryShrink(epsilon=epsilon, lr=1e-3, epochs=1), forget=forget()).notes
        left_out[epsilon] = int(notes[0].split()[0]) if notes else 0
    assert FORGET > left_out[0.01] > left_out[0.02] >= left_out[0.04]


def test_shrink_needs_pixels() -> None:
    with pytest.raises(UnlearnError, match="forget: adversarial images need pixels"):
        run(BoundaryShrink())


@pytest.mark.parametrize("method", [BoundaryShrink(lr=0.01, epsilon=0.2), BoundaryExpand(lr=0.01)])
def test_both_forget_and_keep_the_shape(method: object) -> None:
    before = bits(trained())
    result = run(method, forget=forget())  # type: ignore[arg-type]
    forgotten = [(images, labels) for images, labels in array(0, FORGET)]
    assert loss_on(result.model, forgotten) > loss_on(trained(), forgotten) + 0.3
    assert result.model(data()[0][:2]).shape == (2, 5)
    assert all(torch.equal(value, before[name]) for name, value in trained().state_dict().items())
    assert not any(module.training for module in result.model.modules())


def test_expand_without_a_step_is_the_model_given() -> None:
    with pytest.raises(UnlearnError, match="left every weight"):
        run(BoundaryExpand(epochs=0), forget=forget())


def test_amun_finds_the_nearest_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    method = AMUN(epochs=1, epsilon=0.05)
    task, _ = captured(method, monkeypatch, retain=array(FORGET, RETAIN))
    images, labels, radii = method.nearest(task)
    assert len(labels) == FORGET
    answers = trained()(images).argmax(dim=1)
    true, plain = data()[1][:FORGET], data()[0][:FORGET]
    assert torch.equal(answers, labels)
    assert bool((labels != true).all())
    length = ((images - plain) * 0.125).flatten(1).norm(dim=1)
    assert bool((length <= radii * (1 + 1e-4) + 1e-6).all())
    scale = Pixels.of(task.forget)
    for radius in radii.unique().tolist():  # the next smaller radius of the search still answers right
        rows = (radii == radius).nonzero()[:, 0]
        if radius > 0.05 * 1.01:
            nearer = pgd_l2(task.teacher(), plain[rows], true[rows], scale, radius / 1.5, 20)
            assert torch.equal(trained()(nearer).argmax(dim=1), true[rows])


@pytest.mark.medium
@pytest.mark.parametrize(
    ("data_of", "sizes"),
    [
        ("amun", (FORGET, FORGET, RETAIN)),
        ("adversarial", (FORGET, 0, RETAIN)),
        ("without_retain", (FORGET, FORGET, 0)),
        ("adversarial_only", (FORGET, 0, 0)),
    ],
)
def test_amun_sees_each_sample_of_its_sets_once(
    data_of: str, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = AMUN(epochs=1, data=data_of)
    assert ("retain" in method.requires()) == bool(sizes[2])
    given = {"retain": array(FORGET, RETAIN)} if sizes[2] else {}
    _, seen = captured(method, monkeypatch, **given)
    assert sum(len(batch) for batch in seen) == sum(sizes)
    assert sum(int((~batch.forgotten).sum()) for batch in seen) == sizes[2]
    assert all(len(batch) <= method.batch_size + 3 for batch in seen)


def test_together_over_one_set_is_its_own_pass() -> None:
    samples = Samples(array(0, FORGET), "forget", device=torch.device("cpu"), batch_size=16, augment=None, seed=3)
    joined = list(together([samples], 2, 16))
    alone = list(samples.batches(2, batch_size=math.ceil(FORGET / math.ceil(FORGET / 16))))
    assert [batch.rows.tolist() for batch in joined] == [batch.rows.tolist() for batch in alone]


def test_amun_repairs_the_retain_set() -> None:
    result = run(AMUN(lr=0.02, epochs=3), forget=forget(), retain=array(FORGET, RETAIN))
    finetuned = run(Finetune(lr=0.02, epochs=3)).model
    forgotten = [(images, labels) for images, labels in array(0, FORGET)]
    assert not same(result.model, finetuned)
    assert loss_on(result.model, forgotten) > loss_on(finetuned, forgotten)
    assert loss_on(result.model, retain()) < 1.0
