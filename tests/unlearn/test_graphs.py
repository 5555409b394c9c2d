"""Steps that go from model to model, and models trained in turn: the same bits as a model trained alone and afresh.

On a CPU a recorder stands for the captured graph: like one it runs nothing when it records, knows tensors by their
addresses alone, and writes its result where it did before. The tests with a GPU do the same with real graphs.
"""

import contextlib
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from unlearn import ArrayLoader, Graphs, Training, build_model, load_dataset, train, train_together
from unlearn.fit import Job, fit
from unlearn.graphs import NotCapturable, signature

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: captures real graphs")


def recorder(work, device, warmed_up):
    """Stands for `record_cuda_graph`."""
    state = torch.get_rng_state()
    for _ in range(3):
        result = work()
    torch.set_rng_state(state)  # on a GPU a slot has a generator of its own
    warmed_up()
    cells = dict(zip(work.__code__.co_freevars, (cell.cell_contents for cell in work.__closure__), strict=True))
    twin, optimizer = cells["twin"], cells["optimizer"]
    fixed = tuple(torch.zeros_like(each) for each in result)

    def addresses():
        states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
        return [tensor.data_ptr() for tensor in (*twin.parameters(), *twin.buffers(), *states)]

    known = addresses()

    def replay():
        assert addresses() == known, "a graph would go on with the old memory"
        for kept, found in zip(fixed, work(), strict=True):
            kept.copy_(found)

    return replay, fixed


@pytest.fixture
def graphs():
    return Graphs(record=recorder, device_type="cpu")


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", limit={"train": 300, "test": 100})


def loader_of(digits, seed=1, rows=None, device="cpu"):
    data = digits.train
    options = {"mean": digits.mean, "std": digits.std, "batch_size": 64, "shuffle": True, "augment": "crop_flip"}
    return ArrayLoader(data.images, data.labels, rows, seed=seed, device=device, **options)


def new_model(seed, name="small_vgg"):
    return build_model(name, num_classes=10, in_channels=1, image_size=8, width=0.125, seed=seed)


def state(model):
    return torch.cat([tensor.detach().cpu().flatten().double() for tensor in model.state_dict().values()])


def trained(digits, seed, training, graphs=None, name="small_vgg", device="cpu"):
    model = new_model(seed, name)
    rows = train(model, loader_of(digits, seed, device=device), training, seed=seed, device=device, graphs=graphs)
    return state(model), [(row["loss"], row["accuracy"]) for row in rows]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["small_vgg", "resnet18"])
def test_one_slot_trains_model_after_model_to_the_same_bits(digits, graphs, optimizer, name):
    """Five batches a pass, the last one short; the second model starts where the first left the slot."""
    training = Training(optimizer=optimizer, lr=0.01, final_lr=0.001, epochs=2)
    for seed in (3, 4, 5):
        alone, found = trained(digits, seed, training, name=name), trained(digits, seed, training, graphs, name)
        assert torch.equal(found[0], alone[0])
        assert found[1] == alone[1]
    assert graphs.captured == 1


def test_a_slot_serves_its_own_kind_only(digits, graphs):
    training = Training(epochs=1)
    trained(digits, 0, training, graphs)
    trained(digits, 0, Training(epochs=1, lr=0.5, final_lr=None), graphs)
    assert graphs.captured == 1  # the rate is not part of a graph
    for number, changed in enumerate((Training(epochs=1, momentum=0.8), Training(epochs=1, optimizer="adam")), start=2):
        alone, found = trained(digits, 0, changed), trained(digits, 0, changed, graphs)
        assert torch.equal(found[0], alone[0])
        assert graphs.captured == number

    def change(model, how):
        how(model)
        return model

    images, labels = next(iter(loader_of(digits)))
    plain = signature(new_model(0), training, images, labels)
    assert signature(new_model(1), training, images, labels) == plain
    for how in (
        lambda m: setattr(m.dropout, "p", 0.4),
        lambda m: setattr(m, "dropout", nn.Dropout1d(0.5)),
        lambda m: setattr(m.norm1, "momentum", 0.2),
        lambda m: m.norm1.eval(),
        lambda m: m.conv1.weight.requires_grad_(False),
        lambda m: setattr(m.conv1, "forward", lambda x: x),
        lambda m: m.double(),
    ):
        assert signature(change(new_model(0), how), training, images, labels) != plain
    assert signature(new_model(0), training, images[:5], labels[:5]) != plain


SWITCHES = {
    "convolutions": (
        lambda: torch.backends.cudnn.allow_tf32,
        lambda on: setattr(torch.backends.cudnn, "allow_tf32", on),
    ),
    "products": (
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda on: setattr(torch.backends.cuda.matmul, "allow_tf32", on),
    ),
    "precision": (
        lambda: torch.get_float32_matmul_precision() == "high",
        lambda on: torch.set_float32_matmul_precision("high" if on else "highest"),
    ),
    "algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
}


@pytest.mark.parametrize(("read", "change"), SWITCHES.values(), ids=SWITCHES.keys())
def test_a_graph_belongs_to_the_switches_it_was_captured_with(digits, read, change):
    images, labels = next(iter(loader_of(digits)))
    model, training, before = new_model(0), Training(precision="bfloat16"), read()
    change(before)  # torch tells a switch that was set from one that was never touched
    plain = signature(model, training, images, labels)
    change(not before)
    try:
        assert signature(model, training, images, labels) != plain
    finally:
        change(before)
    assert signature(model, training, images, labels) == plain


def test_too_many_slots_are_let_go(digits):
    graphs = Graphs(keep=1, record=recorder, device_type="cpu")
    for momentum in (0.9, 0.8, 0.9, 0.9):
        trained(digits, 0, Training(epochs=1, momentum=momentum), graphs)
    assert graphs.captured == 3


def test_parts_of_models_and_what_callbacks_see(digits, graphs):
    """As EU-k trains: some parameters alone, some normalisation frozen; the model given is up to date after a pass."""
    found = []
    for kept in (None, graphs):
        model = new_model(2)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("linear"))

        def set_mode(model=model):
            model.train()
            model.norm1.eval()

        seen = []
        job = Job(
            model, loader_of(digits), Training(epochs=2), 7, set_mode, lambda row, m=model, s=seen: s.append(state(m))
        )
        fit(job, kept)
        found.append((state(model), seen))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
    assert not torch.equal(*found[0][1])


def test_models_with_hooks_take_ordinary_steps(digits, graphs):
    model, seen = new_model(0), []
    model.conv1.register_forward_hook(lambda *given: seen.append(1))
    train(model, loader_of(digits), Training(epochs=1), seed=0, graphs=graphs)
    assert len(seen) == 5
    assert graphs.captured == 0


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


# --- several models in turn -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fast", "plain", "graphs"])
def test_models_in_turn_are_each_as_alone(digits, graphs, how):
    """Dropout and the plain path's loader draw from torch's global generator, one of the models has fewer batches."""
    training = Training(epochs=2, batch_size=64, path="plain" if how == "plain" else "fast")
    sets = {11: None, 12: range(0, 130), 13: range(100, 300)}
    alone, models = {}, {}
    for seed, rows in sets.items():
        model, models[seed] = new_model(seed), new_model(seed)
        alone[seed] = train(model, loader_of(digits, seed, rows), training, seed=seed), state(model)
    before = torch.random.get_rng_state()
    histories = train_together(
        list(models.values()),
        [loader_of(digits, seed, rows) for seed, rows in sets.items()],
        training,
        seeds=list(sets),
        graphs=graphs if how == "graphs" else None,
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    for (seed, model), rows in zip(models.items(), histories, strict=True):
        assert torch.equal(state(model), alone[seed][1])
        assert [row["loss"] for row in rows] == [row["loss"] for row in alone[seed][0]]
    if how == "graphs":
        assert graphs.captured == 3  # at the same time, so one each
        train_together([new_model(1), new_model(2)], [loader_of(digits)] * 2, training, seeds=[0, 1], graphs=graphs)
        assert graphs.captured <= 4


# --- with a GPU -------------------------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gpu_one_captured_graph_trains_model_after_model_to_the_same_bits(digits, optimizer, precision):
    training = Training(optimizer=optimizer, lr=0.01, final_lr=0.001, epochs=3, precision=precision)
    graphs = Graphs()
    for seed in (3, 4, 5):
        fresh = trained(digits, seed, training, device="cuda")
        again = trained(digits, seed, training, graphs, device="cuda")
        assert torch.equal(again[0], fresh[0])
        assert again[1] == fresh[1]
    assert graphs.captured == 1


@needs_gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_gpu_replayed_steps_are_those_of_the_plain_path(digits, optimizer):
    """The same batches, float32: losses of fast and plain agree as far as the order of sums lets them."""
    batches = [(images.cuda(), labels.cuda()) for images, labels in loader_of(digits)]
    losses = []
    for path in ("fast", "plain"):
        model = new_model(0).cuda()
        training = Training(optimizer=optimizer, lr=0.002, final_lr=0.001, epochs=3, path=path)
        losses.append([row["loss"] for row in train(model, batches, training, seed=0)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@needs_gpu
def test_gpu_models_on_streams_are_each_as_alone(digits):
    training = Training(epochs=3)
    seeds = [11, 12, 13]
    alone = [trained(digits, seed, training, device="cuda") for seed in seeds]
    models = [new_model(seed) for seed in seeds]
    loaders = [loader_of(digits, seed, device="cuda") for seed in seeds]
    train_together(models, loaders, training, seeds=seeds, device="cuda")
    for model, (weights, _) in zip(models, alone, strict=True):
        assert torch.equal(state(model), weights)
