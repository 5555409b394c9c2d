"""Scores of training samples, by which a recipe may choose what is forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from attack.outputs.confidence import phi
from unlearn import predict

from ..plan.facts import Facts
from ..plan.selection import SCORES
from ..plan.specs import RankSpec
from ..plan.trained import drawn_part
from ..plan.units import Unit
from ..store import Attempt
from .context import Context


def execute_rank(unit: Unit[RankSpec], context: Context, attempt: Attempt) -> Facts:
    """Measures the score of every training sample, one model in memory at a time."""
    spec, labels = unit.spec, context.data.dataset.train.labels

    def each() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for key in spec.models:
            logits, _ = predict(context.load_model(key), context.loader("train", batch_size=512))
            found = logits.numpy()
            yield phi(found, labels), found.argmax(axis=1) == labels

    if spec.by == "memorization":
        seed, models = spec.part
        parts = [drawn_part(len(labels), seed, models, number) for number in range(models)]
        scores = memorization(each(), parts, len(labels))
    else:
        scores = mean_score(spec.by, (margin for margin, _ in each()))
    with attempt.path(SCORES).open("wb") as file:
        np.savez(file, scores=scores)
    return Facts()


def mean_score(by: str, margins: Iterator[np.ndarray]) -> np.ndarray:
    """Returns the mean over models of each sample's loss, confidence or margin, float64 `(n, 2)`;
    the second column is 0.

    The margin is φ = z_y − logsumexp(z_{≠y}). The confidence is the softmax probability
    1 / (1 + exp(−φ)). The loss is the cross-entropy log(1 + exp(−φ)), in nats.

    **Arguments:** `margins`: φ of each model on every sample, float64 `(n,)`.
    """
    of = {
        "loss": lambda margin: np.logaddexp(0.0, -margin),
        "confidence": lambda margin: np.exp(-np.logaddexp(0.0, -margin)),
        "margin": lambda margin: margin,
    }[by]
    mean = np.mean([of(margin) for margin in margins], axis=0)
    return np.stack([mean, np.zeros_like(mean)], axis=1)


def memorization(
    models: Iterator[tuple[np.ndarray, np.ndarray]], parts: Sequence[np.ndarray], samples: int
) -> np.ndarray:
    """Returns how far each sample is memorized, float64 `(n, 2)`.

    The first column is mem(i) = Pr[h(x_i) = y_i] over models trained with sample i, less the same
    over models trained without it. Few models give many samples the same value. The second column
    orders those: the same difference of the mean probability of the label.

    **Arguments:** `models`: for each φ, float64 `(n,)`, and whether it is right, bool `(n,)`.
    `parts`: the rows that each was trained on.

    Source: Feldman & Zhang 2020, arXiv 2008.03703, equation 1, on subsets of 70 %.
    """
    sums = np.zeros((2, 2, samples))  # with and without the sample; right and probability
    counts = np.zeros((2, samples))
    for (margin, right), rows in zip(models, parts, strict=True):
        without = np.ones(samples, dtype=np.int64)
        without[rows] = 0
        places = (without, np.arange(samples))
        counts[places] += 1.0
        sums[without, 0, places[1]] += right
        sums[without, 1, places[1]] += np.exp(-np.logaddexp(0.0, -margin))
    means = sums / counts[:, None, :]
    found: np.ndarray = (means[0] - means[1]).T
    return found
