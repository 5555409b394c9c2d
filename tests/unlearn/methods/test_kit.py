"""What methods share: the seeds of trainings, and passes over two sets at once."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.unlearn.methods.nets import run
from unlearn.methods.fanchuan import Fanchuan
from unlearn.methods.finetune import Finetune
from unlearn.methods.kit import GradientMethod
from unlearn.methods.kit import task as kit_task
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
