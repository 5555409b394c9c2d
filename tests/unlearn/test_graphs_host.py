"""What a captured graph would not see: a step in which the host takes part, and what callbacks do between passes."""

import contextlib
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from unlearn import Graphs, Training, train
from unlearn.graphs import NotCapturable

from .recorded_graphs import loader_of, new_model, state, trained


def test_a_step_that_cannot_be_captured_is_told(digits):
    def refuses(work, device, warmed_up):
        raise NotCapturable("operation not permitted when stream is capturing\nlong text")

    graphs = Graphs(record=refuses, device_type="cpu")
    with pytest.raises(ValueError, match=r"training.path: .*stream is capturing\); give path: plain$"):
        trained(digits, 0, Training(epochs=1), graphs)
    assert graphs.captured == 0


class FakeStream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def fake_cuda(monkeypatch):
    """Enough of torch.cuda to go through `record_cuda_graph`; the list holds True while something is captured."""
    capturing = []

    @contextlib.contextmanager
    def graph(_):
        capturing.append(True)
        yield
        capturing.pop()

    for name, stand_in in {
        "current_stream": lambda device: FakeStream(),
        "Stream": lambda device: FakeStream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return capturing


def test_errors_of_a_step_are_told_from_those_of_capturing_it(digits, fake_cuda):
    """A wrong model fails in its first ordinary step, which has nothing to do with graphs."""

    def fails(when):
        class Failing(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(64, 10)

            def forward(self, images):
                if bool(fake_cuda) is when:
                    raise RuntimeError("no such operation")
                return self.linear(images.flatten(1))

        return Failing()

    def run(when):
        graphs = Graphs(device_type="cpu")
        train(fails(when), loader_of(digits), Training(epochs=1), seed=0, graphs=graphs)

    with pytest.raises(RuntimeError, match=r"^no such operation$"):
        run(when=False)
    with pytest.raises(ValueError, match=r"cannot be captured as a CUDA graph \(no such operation\)"):
        run(when=True)


class StochasticDepth(nn.Module):
    """Leaves a layer out by chance, which the host decides in every step."""

    def __init__(self, draw):
        super().__init__()
        self.linear, self.inner, self.draw = nn.Linear(64, 10), nn.Linear(64, 64), draw

    def forward(self, images):
        images = images.flatten(1)
        if self.draw() < 0.5:
            images = images + self.inner(images)
        return self.linear(images)


class Counting(nn.Module):
    """Does something else from the third step on."""

    def __init__(self):
        super().__init__()
        self.linear, self.steps = nn.Linear(64, 10), 0

    def forward(self, images):
        self.steps += 1
        return self.linear(images.flatten(1)) * (1 if self.steps < 3 else 2)


class OwnGenerator(StochasticDepth):
    def __init__(self):
        super().__init__(None)
        self.random = np.random.default_rng(0)
        del self.draw

    def draw(self):
        return self.random.random()


HOST = {
    "Python": (lambda: StochasticDepth(random.random), "Python's random numbers"),
    "NumPy": (lambda: StochasticDepth(lambda: np.random.random()), "NumPy's random numbers"),  # noqa: NPY002
    "own": (OwnGenerator, "random"),
    "attribute": (Counting, "steps"),
}


@pytest.mark.parametrize(("build", "reason"), HOST.values(), ids=HOST.keys())
def test_steps_that_the_host_changes_are_not_replayed(digits, graphs, caplog, build, reason):
    """A graph would repeat for ever what the host decided once."""
    found = []
    for kept in (None, graphs):
        torch.manual_seed(0)
        model = build()
        rows = train(model, loader_of(digits), Training(epochs=2, optimizer="adam"), seed=3, graphs=kept)
        found.append((state(model), [row["loss"] for row in rows]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert graphs.captured == 0
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == [reason]


def test_torchs_own_numbers_on_the_cpu_are_seen(digits):
    """On a GPU nothing of the model's may draw them."""

    def draws(work, device, warmed_up):
        work()
        warmed_up()
        raise AssertionError("dropout on a CPU draws from torch's generator")

    before = trained(digits, 0, Training(epochs=1))
    after = trained(digits, 0, Training(epochs=1), Graphs(record=draws, device_type="cpu"))
    assert torch.equal(before[0], after[0])


def test_what_a_callback_does_to_weights_holds_in_the_next_pass(digits, graphs):
    """Through `data` too, which leaves no trace in a tensor's version, and in buffers."""
    found = []
    for kept in (None, graphs):
        model = new_model(2)

        def halve(row, model=model):
            model.conv1.weight.data.mul_(0.5)
            model.norm1.running_mean.zero_()

        rows = train(model, loader_of(digits), Training(epochs=3), seed=7, graphs=kept, on_epoch=halve)
        found.append((state(model), [row["loss"] for row in rows]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert graphs.captured == 1


CHANGES = {
    r"dropout\.p": lambda model: setattr(model.dropout, "p", 0.1),
    r"conv1\.weight\.requires_grad": lambda model: model.conv1.weight.requires_grad_(False),
    "hooks": lambda model: model.conv1.register_forward_hook(lambda *given: None),
}


@pytest.mark.parametrize(("name", "change"), CHANGES.items(), ids=["setting", "trained", "hook"])
def test_what_a_graph_cannot_follow_is_refused(digits, graphs, name, change):
    model = new_model(2)
    with pytest.raises(ValueError, match=rf"^training\.path: {name} changed between two passes.*path: plain$"):
        train(model, loader_of(digits), Training(epochs=2), seed=7, graphs=graphs, on_epoch=lambda row: change(model))
    train(new_model(2), loader_of(digits), Training(epochs=1), seed=7, graphs=graphs)
    assert graphs.captured == 1, "the slot itself is as it was"
