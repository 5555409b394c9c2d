"""What an attacker sees must not depend on the path: forget-set confidences of fast and plain trainings, over seeds."""

import numpy as np
import pytest
import torch

from unlearn import ArrayLoader, Training, accuracy, build_model, load_dataset, predict, train

MODELS_EACH = 10
FORGET = np.arange(60)


def confidence(logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """φ = log p_y − log Σ_{c≠y} p_c, the logit-scaled confidence that membership attacks read."""
    logits = logits.double()
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
    return (own - others).numpy()


def trained_models(path: str, augment: str | None, seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """φ `(models, samples)` of the forget set and test errors `(models,)`."""
    data = load_dataset("digits", limit={"train": 300})
    options = {"mean": data.mean, "std": data.std, "batch_size": 64}
    phis, errors = [], []
    for seed in seeds:
        model = build_model("small_vgg", num_classes=10, in_channels=1, image_size=8, width=0.125, seed=seed)
        loader = ArrayLoader(data.train.images, data.train.labels, shuffle=True, augment=augment, seed=seed, **options)
        train(model, loader, Training(epochs=10, path=path, batch_size=64, lr=0.02, final_lr=0.005), seed=seed)
        forget = ArrayLoader(data.train.images, data.train.labels, FORGET, **options)
        phis.append(confidence(*predict(model, forget)))
        errors.append(1 - accuracy(model, ArrayLoader(data.test.images, data.test.labels, **options)))
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


@pytest.mark.slow
def test_attackers_cannot_tell_the_paths_apart_but_can_tell_another_augmentation():
    fast, fast_errors = trained_models("fast", "crop_flip", range(MODELS_EACH))
    plain, plain_errors = trained_models("plain", "crop_flip", range(100, 100 + MODELS_EACH))
    other, _ = trained_models("fast", "flip", range(200, 200 + MODELS_EACH))
    for statistic in (kolmogorov_smirnov, per_sample):
        assert permutation_p(fast, plain, statistic) > 0.01
        assert permutation_p(fast, other, statistic) < 0.01  # the test can see a difference where there is one
    spread = np.sqrt(fast_errors.var(ddof=1) / MODELS_EACH + plain_errors.var(ddof=1) / MODELS_EACH)
    assert abs(fast_errors.mean() - plain_errors.mean()) < 3.5 * spread
