"""What an attacker sees must not depend on the path: forget-set confidences of fast and plain trainings, over seeds.

The same comparison must find each of the usual differences between a fast recipe and the paper's, planted here. Weights
in half precision change too little for it in so short a training; the comparison step by step finds those
(`test_training.py`).
"""

import types
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import unlearn.data.loader
import unlearn.training.step
from unlearn import ArrayLoader, Training, accuracy, build_model, load_dataset, predict, train
from unlearn.data.augment import PADDING, Draws, crop_flip, draw

MODELS_EACH = 10
FORGET = np.arange(60)


def confidence(logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """φ = log p_y − log Σ_{c≠y} p_c, the logit-scaled confidence that membership attacks read."""
    logits = logits.double()
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
    return (own - others).numpy()


def trained_models(
    path: str, seeds: range, change=lambda loader: loader, precision: str = "float32", device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """φ `(models, samples)` of the forget set and test errors `(models,)`."""
    data = load_dataset("digits", limit={"train": 300})
    # Dark on bright: what is padded with zeros then differs from the images' own border.
    train_images, test_images = 255 - data.train.images, 255 - data.test.images
    options = {"mean": [1 - data.mean[0]], "std": data.std, "batch_size": 64}
    phis, errors = [], []
    for seed in seeds:
        model = build_model("small_vgg", num_classes=10, in_channels=1, image_size=8, width=0.125, seed=seed)
        drawn = {"shuffle": True, "augment": "crop_flip", "seed": seed, "device": device}
        loader = ArrayLoader(train_images, data.train.labels, **drawn, **options)
        recipe = Training(epochs=10, path=path, batch_size=64, lr=0.02, final_lr=0.005, precision=precision)
        train(model, change(loader), recipe, seed=seed, device=device)
        forget = ArrayLoader(train_images, data.train.labels, FORGET, **options)
        phis.append(confidence(*predict(model, forget)))
        errors.append(1 - accuracy(model, ArrayLoader(test_images, data.test.labels, **options)))
    return np.stack(phis), np.array(errors)


def permutation_p(first: np.ndarray, second: np.ndarray, statistic, rounds: int = 999) -> float:
    """p-value of `statistic` under exchanging whole models between the groups: rows of one model are not independent."""
    random = np.random.default_rng(0)
    together, n = np.concatenate([first, second]), len(first)
    observed = statistic(first, second)
    orders = (random.permutation(len(together)) for _ in range(rounds))
    reached = sum(statistic(together[order[:n]], together[order[n:]]) >= observed for order in orders)
    return (1 + reached) / (1 + rounds)


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray) -> float:
    """Largest distance between the two pooled distributions."""
    at = np.sort(np.concatenate([first.ravel(), second.ravel()]))
    below = [np.searchsorted(np.sort(group.ravel()), at, side="right") / group.size for group in (first, second)]
    return float(np.abs(below[0] - below[1]).max())


def per_sample(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared t of each sample's mean φ: what a per-sample attack would see."""
    spread = first.var(axis=0, ddof=1) / len(first) + second.var(axis=0, ddof=1) / len(second)
    return float(((first.mean(axis=0) - second.mean(axis=0)) ** 2 / spread).mean())


# --- differences that a fast path might bring in ----------------------------------------------------------------------


def no_flip(monkeypatch):
    def straight(generator, count, augment):
        drawn = draw(generator, count, augment)
        return Draws(drawn.offset, torch.zeros_like(drawn.flip))

    monkeypatch.setattr(unlearn.data.loader, "draw", straight)


def reflected_padding(monkeypatch):
    def reflect(images, draws):
        size = images.shape[1]
        padded = F.pad(images.permute(0, 3, 1, 2).float(), (PADDING,) * 4, mode="reflect").byte().permute(0, 2, 3, 1)
        cut = [image[y : y + size, x : x + size] for image, (y, x) in zip(padded, draws.offset.tolist(), strict=True)]
        middle = Draws(torch.full_like(draws.offset, PADDING), draws.flip)
        return crop_flip(torch.stack(cut), middle)

    monkeypatch.setattr(unlearn.data.loader, "crop_flip", reflect)


def label_smoothing(monkeypatch):
    smoothed = partial(F.cross_entropy, label_smoothing=0.1)
    monkeypatch.setattr(unlearn.training.step, "F", types.SimpleNamespace(cross_entropy=smoothed))


class DropLast:
    """A loader without its short last batch."""

    def __init__(self, loader):
        self.loader, self.set_epoch = loader, loader.set_epoch

    def __iter__(self):
        return (batch for batch in self.loader if len(batch[1]) == self.loader.batch_size)


def dropped_last_batch(monkeypatch):
    return DropLast


@pytest.fixture(scope="module")
def plain():
    return trained_models("plain", range(100, 100 + MODELS_EACH))


STATISTICS = (kolmogorov_smirnov, per_sample)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: trains there")
WAYS = [
    *((precision, "cpu") for precision in ("float32", "bfloat16")),
    *(pytest.param(precision, "cuda", marks=needs_gpu) for precision in ("float32", "bfloat16")),
]


@pytest.mark.long
@pytest.mark.parametrize(("precision", "device"), WAYS)
def test_attackers_cannot_tell_the_paths_apart(plain, precision, device):
    """Of the plain path in float32 on a CPU, whatever the fast one computes in and on."""
    phis, errors = trained_models("fast", range(MODELS_EACH), precision=precision, device=device)
    for statistic in STATISTICS:
        assert permutation_p(phis, plain[0], statistic) > 0.01
    spread = np.sqrt(errors.var(ddof=1) / MODELS_EACH + plain[1].var(ddof=1) / MODELS_EACH)
    assert abs(errors.mean() - plain[1].mean()) < 3.5 * spread


@pytest.mark.long
@pytest.mark.parametrize("plant", [no_flip, reflected_padding, label_smoothing, dropped_last_batch])
def test_the_comparison_finds_what_would_change_the_recipe(plain, plant, monkeypatch):
    change = plant(monkeypatch) or (lambda loader: loader)
    phis, _ = trained_models("fast", range(MODELS_EACH), change)
    assert min(permutation_p(phis, plain[0], statistic) for statistic in STATISTICS) < 0.01
