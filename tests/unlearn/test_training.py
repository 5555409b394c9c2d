"""Training: the optimiser and schedule stated slowly, determinism, errors, prediction."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import unlearn.training.loop
from unlearn import ArrayLoader, Training, accuracy, build_model, load_dataset, predict, train
from unlearn.core.memory import keep_freed_memory
from unlearn.training import step
from unlearn.training.step import Step
from unlearn.training.train import TrainingDiverged


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", limit={"train": 300, "test": 100})


def loader_of(dataset, part="train", **options):
    images = getattr(dataset, part)
    settings = {"mean": dataset.mean, "std": dataset.std, "batch_size": 64, "shuffle": True, "seed": 1, **options}
    return ArrayLoader(images.images, images.labels, **settings)


def vgg(seed=0, **options):
    return build_model("small_vgg", num_classes=10, in_channels=1, image_size=8, width=0.125, seed=seed, **options)


def weights(model):
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


# --- against a slow statement -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("fused", [False, True])
def test_optimisers_are_torchs_to_the_bit(name, fused):
    found = []
    for module in (torch.optim, step):
        weight = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        momentum = {"momentum": 0.9} if name == "SGD" else {}
        optimizer = getattr(module, name)([weight], lr=0.1, weight_decay=0.01, fused=fused, **momentum)
        for number in range(1, 4):
            optimizer.zero_grad()
            ((weight * number).sin() ** 2).sum().backward()
            optimizer.step()
        assert weight.grad_fn is None
        found.append(weight.detach().clone())
    assert torch.equal(*found)
    assert not torch.equal(found[0], torch.linspace(-1, 1, 12).reshape(3, 4))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("path", ["fast", "plain"])
def test_a_linear_model_follows_the_textbook_updates(optimizer, path):
    """Momentum SGD with coupled weight decay, and Adam, written out in float64 with the gradient in closed form."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 4)), random.integers(0, 3, 30)
    batches = [(torch.tensor(x[i : i + 8], dtype=torch.float32), torch.tensor(y[i : i + 8])) for i in range(0, 30, 8)]
    recipe = Training(
        optimizer=optimizer, lr=0.1, final_lr=0.02, momentum=0.8, weight_decay=0.03, epochs=5, path=path, augment=None
    )
    model = nn.Linear(4, 3)
    theta = torch.cat([model.weight.detach(), model.bias.detach()[:, None]], dim=1).double().numpy()
    velocity, second, steps = np.zeros_like(theta), np.zeros_like(theta), 0
    losses = []
    for epoch in range(5):
        rate = 0.1 * (0.02 / 0.1) ** (epoch / 5)
        total = 0.0
        for start in range(0, 30, 8):
            features = np.c_[x[start : start + 8], np.ones(len(x[start : start + 8]))]
            target = np.eye(3)[y[start : start + 8]]
            logits = features @ theta.T
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            total -= np.log((p * target).sum(axis=1)).sum()
            gradient = (p - target).T @ features / len(features) + 0.03 * theta
            steps += 1
            if optimizer == "sgd":
                velocity = gradient if steps == 1 else 0.8 * velocity + gradient
                theta = theta - rate * velocity
            else:
                velocity = 0.9 * velocity + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient**2
                unbiased = velocity / (1 - 0.9**steps), second / (1 - 0.999**steps)
                theta = theta - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        losses.append(total / 30)
    history = train(model, batches, recipe, seed=0)
    got = torch.cat([model.weight.detach(), model.bias.detach()[:, None]], dim=1).numpy()
    np.testing.assert_allclose(got, theta, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose([row["loss"] for row in history], losses, rtol=1e-5)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert all(row["images"] == 30 for row in history)


def test_the_schedule_is_exponential_lr_stepped_after_each_pass():
    recipe = Training(lr=0.01, final_lr=0.0005, epochs=7)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, (0.0005 / 0.01) ** (1 / 7))
    for epoch in range(7):
        assert recipe.rate(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0005)
    assert Training(lr=0.1, final_lr=None).rate(50) == 0.1


class OneBatchAPass:
    """Pass e is batch e alone, so that each row of the history is one step."""

    def __init__(self, batches):
        self.batches = batches

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        yield self.batches[self.epoch % len(self.batches)]


def augmented_batches(digits, dtype):
    return [(images.contiguous().to(dtype), labels) for images, labels in loader_of(digits, augment="crop_flip")]


def test_fast_and_plain_paths_take_the_same_steps(digits):
    """In float64, fed the same augmented batches, dropout included: nothing but rounding is between the two."""
    losses, models = {}, {}
    for path in ("fast", "plain"):
        models[path] = vgg(seed=2).double()
        recipe = Training(epochs=12, path=path, lr=0.02, final_lr=0.01)
        batches = OneBatchAPass(augmented_batches(digits, torch.float64))
        losses[path] = [row["loss"] for row in train(models[path], batches, recipe, seed=3)]
    np.testing.assert_allclose(losses["fast"], losses["plain"], rtol=1e-9)
    torch.testing.assert_close(weights(models["fast"]), weights(models["plain"]), rtol=1e-7, atol=1e-9)
    assert losses["fast"][-1] < 0.9 * losses["fast"][0]


def assert_steps_agree(digits, name):
    """From the same weights, step by step: over many steps rounding alone would drive two float32 trainings apart."""
    model = build_model(name, num_classes=10, in_channels=1, image_size=8, width=0.125, seed=2)
    for number, batch in enumerate(augmented_batches(digits, torch.float32)):
        start = {key: value.clone() for key, value in model.state_dict().items()}
        after, losses = [], []
        for path in ("fast", "plain"):
            model.load_state_dict(start)
            losses.append(train(model, [batch], Training(epochs=1, path=path, lr=0.02), seed=number)[0]["loss"])
            after.append(torch.cat([parameter.detach().flatten().double() for parameter in model.parameters()]))
        assert losses[0] == pytest.approx(losses[1], rel=2e-6)
        # A rounding may turn a pooling's choice between equal pixels, so the updates are compared as a whole; buffers are
        # left out, whose counters of batches would drown the rest.
        before = torch.cat([start[name].flatten().double() for name, _ in model.named_parameters()])
        assert (after[0] - after[1]).norm() < 0.01 * (after[1] - before).norm()


@pytest.mark.parametrize("name", ["small_vgg", "all_cnn", "resnet18"])
def test_each_step_agrees_to_rounding_in_float32(digits, name):
    assert_steps_agree(digits, name)


def half_precision_weights(step, images, labels):
    result = Step.__call__(step, images, labels)
    with torch.no_grad():
        for parameter in step.model.parameters():
            parameter.copy_(parameter.bfloat16())
    return result


def smoothed_labels(step, images, labels):
    with torch.enable_grad():
        step.optimizer.zero_grad()
        loss = F.cross_entropy(step.model(images), labels, label_smoothing=0.01)
        loss.backward()
        step.optimizer.step()
    return loss.detach(), (step.model(images).argmax(1) == labels).sum()


def half_precision_inputs(step, images, labels):
    return Step.__call__(step, images.bfloat16().float(), labels)


@pytest.mark.parametrize("change", [half_precision_weights, smoothed_labels, half_precision_inputs])
def test_the_comparison_of_steps_finds_a_change(digits, change, monkeypatch):
    class Changed(Step):
        def __call__(self, images, labels):
            return change(self, images, labels) if self.training.path == "fast" else super().__call__(images, labels)

    monkeypatch.setattr(unlearn.training.loop, "Step", Changed)
    with pytest.raises(AssertionError):
        assert_steps_agree(digits, "small_vgg")


# --- determinism ------------------------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("path", ["fast", "plain"])
def test_bits_depend_on_the_seed_and_on_nothing_that_ran_before(digits, path):
    recipe = Training(epochs=2, batch_size=64, path=path)

    def run(seed):
        model = vgg(seed=1)
        loader = loader_of(digits, augment="crop_flip", seed=4)
        train(model, loader, recipe, seed=seed)
        return weights(model)

    torch.manual_seed(7)
    first = run(0)
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    torch.manual_seed(8)
    run(3)  # another training in between
    torch.rand(5)
    loader = loader_of(digits, augment="crop_flip", seed=4)
    list(loader)  # a loader that has been passed over already
    model = vgg(seed=1)
    train(model, loader, recipe, seed=0)
    assert torch.equal(weights(model), first)
    torch.manual_seed(7)
    run(0)
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    assert not torch.equal(run(1), first)


def test_training_leaves_ordinary_contiguous_weights(digits):
    model = vgg()
    train(model, loader_of(digits), Training(epochs=1), seed=0)
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_learns(digits):
    model = vgg()
    history = train(model, loader_of(digits), Training(epochs=15, augment=None), seed=0)
    assert accuracy(model, loader_of(digits, "test", shuffle=False)) > 0.85
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert history[-1]["accuracy"] > 0.9


def test_callbacks_see_every_row_and_may_stop(digits):
    seen = []

    def stop(row):
        seen.append(row)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    model = vgg()
    with pytest.raises(KeyboardInterrupt):
        train(model, loader_of(digits), Training(epochs=5), seed=0, on_epoch=stop)
    assert [row["epoch"] for row in seen] == [1, 2]
    assert set(seen[0]) == {"epoch", "loss", "accuracy", "lr", "seconds", "images"}
    assert model.conv2.weight.is_contiguous()  # put back although it was interrupted


def test_bfloat16_keeps_float32_weights(digits):
    model = vgg()
    history = train(model, loader_of(digits), Training(epochs=3, precision="bfloat16"), seed=0)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    exact = train(vgg(), loader_of(digits), Training(epochs=3), seed=0)
    assert history[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.1)
    assert history[-1]["loss"] != exact[-1]["loss"]


def test_a_callers_autocast_changes_nothing(digits):
    def run():
        model = vgg()
        history = train(model, loader_of(digits), Training(epochs=1), seed=0)
        return weights(model), history[0]["loss"], predict(model, loader_of(digits, "test", shuffle=False))[0]

    exact = run()
    with torch.autocast("cpu", torch.bfloat16):
        found = run()
    assert torch.equal(found[0], exact[0])
    assert found[1] == exact[1]
    assert torch.equal(found[2], exact[2])


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "lion"}, "training.optimizer: 'lion' is not allowed; allowed are sgd, adam, adamw"),
        ({"path": "quick"}, "training.path"),
        ({"precision": "float16"}, "training.precision"),
        ({"augment": "mixup"}, "training.augment: 'mixup'"),
        ({"lr": 0}, "training.lr: 0"),
        ({"final_lr": -1.0}, "training.final_lr: -1.0"),
        ({"lr": math.nan}, "training.lr: nan"),
        ({"momentum": 1.0}, "training.momentum: 1.0"),
        ({"weight_decay": -1e-4}, "training.weight_decay"),
        ({"batch_size": 0}, "training.batch_size: 0"),
        ({"epochs": 2.5}, "training.epochs: 2.5"),
    ],
)
def test_recipes_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message) as error:
        Training(**change)
    assert "\n" not in str(error.value)


def test_divergence_is_told(digits):
    with pytest.raises(TrainingDiverged, match=r"training.lr: the loss is .* lower it from 1e\+30"):
        train(vgg(), loader_of(digits), Training(lr=1e30, final_lr=None, epochs=3), seed=0)


def test_a_last_batch_of_one_is_told(digits):
    with pytest.raises(ValueError, match=r"training.batch_size: a batch of 1 image cannot"):
        train(vgg(), loader_of(digits, batch_size=299), Training(epochs=1), seed=0)


def test_nothing_to_train_is_told(digits):
    with pytest.raises(ValueError, match="holds no images to train on"):
        train(vgg(), [], Training(epochs=1), seed=0)
    with pytest.raises(ValueError, match="none of its parameters can be trained"):
        train(vgg().requires_grad_(False), loader_of(digits), Training(epochs=1), seed=0)


# --- prediction -------------------------------------------------------------------------------------------------------


def test_predictions_are_those_of_single_images_in_loader_order(digits):
    model = vgg()
    train(model, loader_of(digits), Training(epochs=1), seed=0)
    model.train()
    model.norm2.eval()
    loader = loader_of(digits, "test", shuffle=False, batch_size=33)
    logits, labels = predict(model, loader)
    assert model.training
    assert not model.norm2.training  # every module is in the mode that it was in
    assert (logits.dtype, labels.dtype, logits.shape) == (torch.float32, torch.int64, (100, 10))
    assert labels.tolist() == digits.test.labels.tolist()
    model.eval()
    images = loader.normalise(loader.images)
    with torch.no_grad():
        singly = torch.cat([model(images[row : row + 1]) for row in range(100)])
    torch.testing.assert_close(logits, singly, rtol=1e-4, atol=1e-5)
    assert accuracy(model, loader) == pytest.approx((singly.argmax(1) == labels).double().mean().item())
    F.cross_entropy(logits.requires_grad_(), labels).backward()  # ordinary tensors, not inference ones


def test_nothing_to_predict_is_told():
    with pytest.raises(ValueError, match="no images to predict"):
        predict(vgg(), [])
    with pytest.raises(ValueError, match="no images to predict"):
        accuracy(vgg(), [])


def test_keeping_freed_memory_nests_and_ends():
    with keep_freed_memory():
        with keep_freed_memory():
            tensors = [torch.zeros(3_000_000) for _ in range(4)]
        del tensors
        assert torch.ones(9_000_000).sum().item() == 9_000_000
    assert torch.ones(9_000_000).sum().item() == 9_000_000
