"""Who else was hurt, from stored outputs on retained and unseen images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from attack.audit.collateral import Side, collateral
from attack.metrics.harm import Harm
from attack.outputs.confidence import phi

from ..base.values import Record
from ..plan.specs import CollateralSpec, Looked
from ..store import Store

MOST_GROUPS = 200  # of a column, that a unit tells of


def measure_collateral(spec: CollateralSpec, store: Store, groups: np.ndarray | None) -> Record:
    """Audits one row's models; one model's logits in memory at a time.

    **Arguments:** `groups`: the group of each training row, int64 `(n,)`; None: no column was asked
    for.
    """
    mine, retrained, before = (_side(side, store) for side in (spec.models, spec.retrained, spec.before))
    if mine is None or retrained is None:
        raise ValueError("models: retained images are compared between unlearned and retrained models")
    ids, labels = _samples(store, spec.models[0].retained, "retain")
    _, unseen_labels = _samples(store, spec.models[0].unseen, "test")
    by = {"class": labels} | ({} if groups is None else {"group": groups[ids]})
    unseen = {"class": unseen_labels}
    found = collateral(mine, retrained, before, sample_ids=ids, groups=by, unseen_groups=unseen, seed=spec.seed)
    exposure = {name: listed[:MOST_GROUPS] for name, listed in found.exposure.items()}
    errors = {name: listed[:MOST_GROUPS] for name, listed in found.errors.items()}
    return {"harm": replace(found, exposure=exposure, errors=errors).to_json()}


def stored_harm(store: Store, key: str) -> Harm:
    """Returns what a finished audit found."""
    return Harm.from_json(store.meta(key)["harm"])


def _side(models: Sequence[Looked], store: Store) -> Side | None:
    """Returns φ and correctness of each model, rows in the order of sample ids."""
    if not models:
        return None
    looked = [(*_measured(store, key.retained, "retain"), *_measured(store, key.unseen, "test")) for key in models]
    return Side(*(np.stack(column) for column in zip(*looked, strict=True)))


def _fragment(store: Store, key: str, only: str) -> pa.Table:
    table = pq.read_table(store.fetch(key, "outputs.parquet"))
    return table.filter(pc.equal(table["set"], only))


def _samples(store: Store, key: str, only: str) -> tuple[np.ndarray, np.ndarray]:
    table = _fragment(store, key, only)
    return table["sample_id"].to_numpy(), table["label"].to_numpy()


def _measured(store: Store, key: str, only: str) -> tuple[np.ndarray, np.ndarray]:
    table = _fragment(store, key, only)
    logits = table["logits"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    if not np.isfinite(logits).all():
        raise ValueError(f"logits: {only} images have outputs that are not finite")
    labels = table["label"].to_numpy()
    return phi(logits, labels), logits.argmax(axis=1) == labels
