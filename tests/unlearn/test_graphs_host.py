"""What a captured graph would not see: a step in which the host takes part, and what callbacks do between passes."""

import contextlib
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import unlearn.training.step
from unlearn import Graphs, Training, train
from unlearn.training.graphs import NotCapturable, record_cuda_graph
from unlearn.training.step import make_optimizer

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
    def graph(_, stream):
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


def test_a_graph_is_captured_on_its_own_device_and_stream_with_its_own_workspaces(monkeypatch):
    """What torch would do by itself: capture on the current device, with the workspaces of whatever came before."""
    events, streams = [], []

    @contextlib.contextmanager
    def noted(name):
        events.append(name)
        yield
        events.append(f"end {name}")

    def new_stream(device):
        streams.append(FakeStream())
        return streams[-1]

    def graph(_, stream):
        assert stream is streams[0], "torch's own capturing stream may be another device's"
        return noted("capture")

    for name, stand_in in {
        "device": lambda device: noted(str(device)),
        "current_stream": lambda device: FakeStream(),
        "Stream": new_stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    clear = lambda: events.append("clear")  # noqa: E731
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", clear, raising=False)

    def work():
        events.append("work")
        return torch.zeros(()), torch.zeros(())

    record_cuda_graph(work, torch.device("cuda", 1), lambda: events.append("warmed up"))
    ready = ["cuda:1", "work", "work", "work", "warmed up"]
    assert events == [*ready, "clear", "capture", "work", "end capture", "clear", "end cuda:1"]

    events.clear()
    streams.clear()

    def fails():
        if "capture" in events:
            raise RuntimeError("not permitted")
        return work()

    with pytest.raises(NotCapturable):
        record_cuda_graph(fails, torch.device("cuda", 1), lambda: None)
    assert events.count("clear") == 2, "also where capturing fails"


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


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("build", "reason"), HOST.values(), ids=HOST.keys())
def test_steps_that_the_host_changes_are_not_replayed(digits, graphs, caplog, build, reason, optimizer):
    """A graph would repeat for ever what the host decided once."""
    found = []
    for kept in (None, graphs):
        torch.manual_seed(0)
        model = build()
        rows = train(model, loader_of(digits), Training(epochs=2, optimizer=optimizer), seed=3, graphs=kept)
        found.append((state(model), [row["loss"] for row in rows]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert graphs.captured == 0
    told = [record.message for record in caplog.records if record.name.startswith("unlearn")]
    assert [message.rpartition(": ")[2] for message in told] == [reason]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_parameter_whose_first_gradient_comes_late_is_trained_as_on_the_plain_path(momentum):
    """To the bit: rate, momentum and decay are powers of two and the gradients integers, so nothing is rounded."""
    found = []
    for path in ("fast", "plain"):
        early, late = (nn.Parameter(torch.tensor([1.0, -2.0, 0.0])) for _ in "ab")
        training = Training(path=path, lr=0.5, final_lr=None, momentum=momentum, weight_decay=0.25)
        optimizer = make_optimizer([early, late], training, torch.device("cpu"))
        steps = []
        for number in range(5):
            early.grad = torch.tensor([1.0, 2.0, -3.0]) * (number + 1)
            late.grad = torch.tensor([2.0, 0.0, -1.0]) * number if number in (2, 4) else None
            optimizer.step()
            steps.append(torch.cat([early.detach(), late.detach()]))
        found.append(torch.stack(steps))
    assert torch.equal(*found)
    assert not torch.equal(found[0][1, 3:], found[0][2, 3:]), "the late one is trained"


@pytest.mark.parametrize("name", ["small_vgg", "resnet18"])
def test_momentum_that_begins_as_zero_is_momentum_that_begins_with_the_first_gradient(digits, monkeypatch, name):
    """The fast path's own kernel, whole models: the same bits as where the kernel makes the momenta itself."""
    found = [trained(digits, 0, Training(epochs=2), name=name)]

    def without(parameters, training, device):
        optimizer = make_optimizer(parameters, training, device)
        optimizer.state.clear()
        return optimizer

    monkeypatch.setattr(unlearn.training.step, "make_optimizer", without)
    found.append(trained(digits, 0, Training(epochs=2), name=name))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


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
