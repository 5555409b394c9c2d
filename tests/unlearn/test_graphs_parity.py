"""Replayed steps against ordinary ones, step by step; and the usual faults of a captured step, planted.

On a CPU a recorder stands for the captured graph (see `test_graphs.py`), with a GPU the graphs are real ones.
"""

import pytest
import torch

import unlearn.training.graphs
from unlearn import Graphs, Training
from unlearn.core.numerics import deterministic_convolutions, full_float32
from unlearn.training.graphs import GraphedStep, record_cuda_graph
from unlearn.training.step import Step, set_rate

from .recorded_graphs import loader_of, new_model, recorder, state

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: real graphs")),
]
TRAINING = Training(lr=0.02, final_lr=0.005, epochs=3)
SEED = 7
FIRST_PASS = 5  # steps: four full batches and a short one
TOLERANCE = 1e-5


def recorder_for(device):
    return record_cuda_graph if device == "cuda" else recorder


def weights_by_step(digits, device, record=None):
    """Weights and buffers after every step, `(steps, values)`: of ordinary steps, or of those that `record` captures."""
    model = new_model(0).to(device, memory_format=torch.channels_last).train()
    loader = loader_of(digits, device=device)
    if record is None:
        step = Step(model, TRAINING, torch.device(device), SEED)
    else:
        step = GraphedStep(model, TRAINING, SEED, Graphs(record=record, device_type=device))
    found = []
    torch.manual_seed(SEED)  # on a CPU dropout draws from the global generator
    with deterministic_convolutions(), full_float32():
        for epoch in range(TRAINING.epochs):
            step.begin_pass(TRAINING.rate(epoch))
            loader.set_epoch(epoch)
            for images, labels in loader:
                step(images, labels)
                found.append(state(model if record is None else step._slot.model))
            step.end_pass()
    step.close()
    return torch.stack(found)


def differences(digits, device, record):
    """The largest difference of any weight or buffer after each step."""
    replayed, ordinary = weights_by_step(digits, device, record), weights_by_step(digits, device)
    assert len(ordinary) == TRAINING.epochs * FIRST_PASS
    return (replayed - ordinary).abs().amax(dim=1)


@pytest.mark.parametrize("device", DEVICES)
def test_replayed_steps_are_the_ordinary_ones(digits, device):
    assert differences(digits, device, recorder_for(device)).max() <= TOLERANCE


@pytest.mark.parametrize("device", DEVICES)
def test_a_learning_rate_that_the_graph_keeps_is_noticed(digits, device, monkeypatch):
    known = []

    def first_alone(optimizer, rate):
        if not known:
            set_rate(optimizer, rate)
        known.append(rate)

    monkeypatch.setattr(unlearn.training.graphs, "set_rate", first_alone)
    found = differences(digits, device, recorder_for(device))
    assert len(set(known)) == TRAINING.epochs
    assert found[:FIRST_PASS].max() <= TOLERANCE
    assert found[FIRST_PASS:].min() > 10 * TOLERANCE


@pytest.mark.parametrize("device", DEVICES)
def test_a_dropout_mask_that_the_graph_repeats_is_noticed(digits, device):
    def repeating(work, where, warmed_up):
        generator = torch.default_generator
        if where.type == "cuda":  # while it is captured, the default generator's state is that of the slot's own
            generator = torch.cuda.default_generators[where.index].graphsafe_get_state()
        replay, result = recorder_for(device)(work, where, warmed_up)

        def replay_with_one_mask():
            generator.manual_seed(SEED)
            replay()

        return replay_with_one_mask, result

    found = differences(digits, device, repeating)
    assert found[0] <= TOLERANCE
    assert found[1:].min() > 10 * TOLERANCE
