"""What methods share: the seeds of trainings, and passes over two sets at once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tests.unlearn.methods.nets import FORGET, RETAIN, array, forget, run, same
from unlearn import ArrayLoader
from unlearn.core.seeds import stream
from unlearn.data.augment import crop_flip, draw
from unlearn.methods.fanchuan import Fanchuan
from unlearn.methods.finetune import Finetune
from unlearn.methods.kit import GradientMethod, Samples, mixed
from unlearn.methods.kit import task as kit_task
from unlearn.methods.kit.gradient import SCHEDULES
from unlearn.methods.kit.work import ObjectiveWork
from unlearn.methods.negmerge import NegMerge


@pytest.mark.parametrize(
    ("method", "count"),
    [(Finetune(epochs=2, seed=3), 1), (Fanchuan(rounds=2, seed=3), 5), (NegMerge(models=3, epochs=5, seed=3), 3)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_each_training_draws_dropout_from_a_seed_of_its_own(
    method: GradientMethod, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first keeps the method's seed, the others are the same in every run."""
    of_jobs: list[int] = []
    of_works: list[int] = []
    fit, begin = kit_task.fit, ObjectiveWork.__init__

    def spy(job, graphs):  # type: ignore[no-untyped-def]
        of_jobs.append(job.seed)
        return fit(job, graphs)

    def made(self, model, training, device, seed, *given, **options):  # type: ignore[no-untyped-def]
        of_works.append(seed)
        begin(self, model, training, device, seed, *given, **options)

    monkeypatch.setattr(kit_task, "fit", spy)
    monkeypatch.setattr(ObjectiveWork, "__init__", made)
    run(method)
    assert of_jobs[0] == 3
    assert len(set(of_jobs)) == len(of_jobs) == count
    assert set(of_works) <= set(of_jobs)
    first = copy.copy(of_jobs)
    of_jobs.clear()
    run(method)
    assert of_jobs == first


def test_two_passes_of_two_trainings_have_other_masks() -> None:
    """Dropout as it is drawn: the global generator at the first step of every training."""
    states: list[bytes] = []
    original = ObjectiveWork.__call__

    def spy(self, item):  # type: ignore[no-untyped-def]
        states.append(torch.get_rng_state().numpy().tobytes())
        return original(self, item)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectiveWork, "__call__", spy)
        run(NegMerge(models=3, epochs=5, scale=0.1, batch_size=40))
    # The trained net draws nothing, so the state at each step is that with which its training began.
    assert len(set(states)) == 3


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_final_rate_acts_or_a_note_says_that_it_does_not(schedule: str) -> None:
    settings = {"epochs": 2, "rounds": 1, "schedule": schedule}
    first, second = (run(Fanchuan(final_lr=rate, **settings)) for rate in (None, 1e-5))
    note = f"final_lr: 1e-05 has no effect with schedule {schedule!r}"
    assert (first.notes, second.notes) == ([], [note] if same(first.model, second.model) else [])
    assert same(first.model, second.model) == (schedule in ("constant", "triangle"))


def samples(loader: object, part: str, augment: str | None = "crop_flip") -> Samples:
    seed = 5 if part == "forget" else 2
    return Samples(loader, part, device=torch.device("cpu"), batch_size=32, augment=augment, seed=seed)  # type: ignore[arg-type]


def of_their_own() -> tuple[ArrayLoader, ArrayLoader]:
    """The forget and the retain set, each in memory of its own, and normalised in its own way."""
    first, second = array(0, FORGET), array(FORGET, RETAIN)
    return (
        ArrayLoader(first.images[:FORGET], first.labels[:FORGET], mean=(0.5,) * 3, std=(0.125,) * 3, batch_size=32),
        ArrayLoader(second.images, second.labels, second.indices, mean=(0.4,) * 3, std=(0.25,) * 3, batch_size=32),
    )


def slowly(sets: tuple[ArrayLoader, ArrayLoader], epoch: int, augment: str) -> list[tuple[Tensor, int]]:
    """Each sample of a mixed pass, in its order: moved as drawn, then normalised as its set is."""
    random = stream(2, epoch)
    order, draws = random.permutation(FORGET + RETAIN), draw(random, FORGET + RETAIN, augment)
    found = []
    for place, number in enumerate(order.tolist()):
        loader, row = (sets[0], number) if number < FORGET else (sets[1], number - FORGET)
        image = int(loader.indices[row])
        pixels = crop_flip(loader.images[image][None], draws[slice(place, place + 1)])[0]
        mean, std = torch.tensor(loader.mean), torch.tensor(loader.std)
        found.append((((pixels.float() / 255 - mean) / std).permute(2, 0, 1), int(loader.labels[image])))
    return found


@pytest.mark.parametrize("augment", ["flip", "crop_flip"])
def test_a_mix_of_two_arrays_augments_and_normalises_each_as_its_loader_does(augment: str) -> None:
    sets = of_their_own()
    batches = list(mixed(samples(sets[0], "forget", augment), samples(sets[1], "retain", augment), 3))
    images, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
    expected = slowly(sets, 3, augment)
    assert torch.allclose(images, torch.stack([image for image, _ in expected]), atol=1e-5)
    assert labels.tolist() == [label for _, label in expected]
    rows = torch.cat([b.rows[b.forgotten] for b in batches])
    assert sorted(rows.tolist()) == list(range(FORGET))


def test_a_mix_augments_the_array_and_takes_batches_as_they_come() -> None:
    """As UNSIR does, whose noise is no array."""
    retain, noise = samples(of_their_own()[1], "retain"), samples(forget(), "forget", None)
    batches = list(mixed(noise, retain, 0))
    for part, kept, as_it_is in ((True, noise.kept[0], True), (False, retain.kept[0], False)):
        found = torch.cat([b.images[b.forgotten == part] for b in batches])
        rows = torch.cat([b.rows[b.forgotten == part] for b in batches])
        assert torch.equal(found, kept[rows]) == as_it_is


def test_a_mix_of_one_array_keeps_the_labels_of_each_loader() -> None:
    kept, gone = array(FORGET, RETAIN), array(0, FORGET)
    gone = kept.replace(indices=gone.indices, labels=(gone.labels + 1) % 5)
    batches = list(mixed(samples(gone, "forget"), samples(kept, "retain"), 0))
    for part, loader in ((True, gone), (False, kept)):
        rows = torch.cat([b.rows[b.forgotten == part] for b in batches])
        labels = torch.cat([b.labels[b.forgotten == part] for b in batches])
        assert torch.equal(labels, loader.labels[torch.from_numpy(loader.indices)[rows]])
