"""Single samples that are remembered in full, planted in outputs: each is found and named, and none where none is."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from attack import outputs_table, run_attacks
from attack.metrics.traces import traces

from .build import logits_of

SAMPLES, CLASSES = 200, 4
REMEMBERED = np.arange(7, SAMPLES, 20)  # exactly 5 %


def outputs(seed: int) -> pa.Table:
    """A pool with two methods: `exact` is like Retrain, `some` keeps 5 % of the samples as the originals have them."""
    generator = np.random.default_rng(seed)
    labels = np.arange(SAMPLES) % CLASSES
    centres = generator.normal(size=SAMPLES)
    whole, none = np.full(SAMPLES, 4.0), np.zeros(SAMPLES)
    some = np.where(np.isin(np.arange(SAMPLES), REMEMBERED), 4.0, 0.0)
    tables = []
    for role, method, shift in (
        ("original", "", whole),
        ("retrained", "", none),
        ("unlearned", "retrain", none),
        ("unlearned", "exact", none),
        ("unlearned", "some", some),
    ):
        for model in range(24):
            fold = "train" if model < 10 else "validation" if model < 12 else "test"
            if role == "unlearned" and fold != "test":
                continue
            phi = generator.normal(centres + shift, 1.0)
            logits = logits_of(phi, labels, CLASSES, generator)
            name = f"{method or role}-{model:02d}"
            tables.append(outputs_table(name, role, method, "{}", fold, np.arange(SAMPLES) * 3 + 1, labels, logits))
    return pa.concat_tables(tables)


def test_five_per_cent_that_are_remembered_are_found_and_named() -> None:
    rows = {row["method"]: row for row in run_attacks(outputs(0), ["loss_threshold", "lira"], bootstrap=50)}
    assert rows["exact"]["metrics"]["verdict_word"] == "forgot"
    found = rows["some"]
    assert found["metrics"]["verdict_word"] == "remembers"
    assert found["metrics"]["loss_threshold/leak_left"] < 0.1, "on average it lies well within the tolerance of 0.25"
    ids = {3 * int(sample) + 1 for sample in REMEMBERED}
    assert {sample["sample_id"] for sample in found["worst_samples"]["lira"][: len(ids)]} == ids


def test_as_often_as_chance_where_nothing_is_planted() -> None:
    generator = np.random.default_rng(1)
    found = 0
    for seed in range(100):
        mine, theirs = (generator.normal(size=(n, 50)) + generator.normal(size=(n, 1)) for n in (6, 10))
        found += traces(mine, theirs, seed=seed, draws=99).p_value <= 0.05
    assert 1 <= found <= 13, "5 of 100; more than 13 would come in 1 of 1,000"
