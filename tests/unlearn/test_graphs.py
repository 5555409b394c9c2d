"""Steps that go from model to model, and models trained in turn: the same bits as a model trained alone and afresh.

On a CPU a recorder stands for the captured graph: like one it runs nothing when it records, knows tensors by their
addresses alone, and writes its result where it did before. The tests with a GPU do the same with real graphs.
"""

import pytest
import torch
from torch import nn

from unlearn import Graphs, Training, train, train_together
from unlearn.training.loop import Job, fit
from unlearn.training.signature import signature

from .recorded_graphs import loader_of, new_model, recorder, state, trained

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: captures real graphs")


@pytest.mark.medium
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


# --- several models in turn -------------------------------------------------------------------------------------------


@pytest.mark.medium
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


LARGE = {"width": 1.0, "device": "cuda"}  # matrix products large enough for cuBLAS to write to its workspace


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gpu_graphs_in_replay_at_once_do_not_share_a_workspace(digits, precision):
    """Two full-width models in turn, on a stream each, against one after the other."""
    training, seeds = Training(epochs=20, precision=precision), [11, 12]
    alone = [trained(digits, seed, training, **LARGE) for seed in seeds]
    models = [new_model(seed, width=1.0) for seed in seeds]
    loaders = [loader_of(digits, seed, device="cuda") for seed in seeds]
    histories = train_together(models, loaders, training, seeds=seeds, device="cuda")
    for model, rows, (weights, history) in zip(models, histories, alone, strict=True):
        assert torch.equal(state(model), weights)
        assert [(row["loss"], row["accuracy"]) for row in rows] == history


@needs_gpu
def test_gpu_a_kept_slot_outlives_the_others(digits):
    """A graph that is let go takes none of the memory that a kept one was captured with, nor does a new one use it."""
    kinds = [Training(epochs=2, momentum=momentum) for momentum in (0.9, 0.8, 0.7)]
    fresh = [trained(digits, 3, training, **LARGE) for training in kinds]
    graphs = Graphs(keep=2)
    # The second is let go when the third is captured; the first was used in between, and is used after both.
    for kind, captured in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (2, 3)):
        torch.cuda.empty_cache()  # what was let go is the device's again, and another's at once
        taken = torch.full((64 << 20,), torch.nan, device="cuda")
        found = trained(digits, 3, kinds[kind], graphs, **LARGE)
        del taken
        assert torch.equal(found[0], fresh[kind][0])
        assert found[1] == fresh[kind][1]
        assert graphs.captured == captured


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: trains on the one that is not current")
def test_gpu_of_any_number(digits):
    training = Training(epochs=2)
    assert torch.cuda.current_device() == 0
    first, second = (trained(digits, 3, training, device=f"cuda:{number}") for number in (0, 1))
    assert torch.equal(first[0], second[0])
    assert torch.cuda.current_device() == 0
