"""The samples that stand out: their pictures, and how sure every row is of their labels."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from attack.metrics.row import NO_UNLEARN, RETRAIN, Row
from attack.outputs.table import logit_classes

from ..base.values import Object
from ..plan.data import ExperimentData
from ..plan.rows import Plan
from ..plan.units import Unit
from ..store import Store

MOST = 60  # samples: the page stays small
_FILES = 2000  # outputs that are read for them at most
_PIXELS = 64  # the longer side of a picture


def samples(plan: Plan, data: ExperimentData, store: Store, rows: Sequence[Row]) -> list[Object]:
    """Returns the samples that attacks list in any method's row, the clearest first, as JSON data.

    - `sample_id`, `id`, `class`: its row, its id in the source, and its class by name.
    - `image`: a data URI, or null where the recipe wants none.
    - `rows`: places of the rows that list it. `attacks`: those that do, by name.
    - `confidence`: for each row the mean probability of its label over models, or null.
    """
    places, attacks = _listed(rows)
    wanted = list(places)[:MOST]
    if not wanted:
        return []
    each = max(1, _FILES // len(plan.rows))
    means = [_confidence(row.targets[:each], store, wanted) for row in plan.rows]
    labels, names = data.split.labels, data.dataset.class_names
    return [
        {
            "sample_id": sample,
            "id": str(sample if data.ids is None else data.ids[sample]),
            "class": names[labels[sample]],
            "image": picture(data.dataset.train.images[sample]) if plan.recipe.report.images else None,
            "rows": places[sample],
            "attacks": attacks[sample],
            "confidence": [mean.get(sample) for mean in means],
        }
        for sample in wanted
    ]


def _listed(rows: Sequence[Row]) -> tuple[dict[int, list[int]], dict[int, list[str]]]:
    """Returns the places of the methods' rows that list a sample, the clearest samples first, and
    the attacks that do."""
    places: dict[int, list[int]] = {}
    attacks: dict[int, list[str]] = {}
    clearest: dict[int, float] = {}
    for place, row in enumerate(rows):
        if row.method in (NO_UNLEARN, RETRAIN):
            continue
        for attack, listed in row.worst_samples.items():
            for found in listed:
                area, sample = found.get("auc"), found["sample_id"]
                if area is None or sample is None:
                    continue
                mine = places.setdefault(int(sample), [])
                if place not in mine:
                    mine.append(place)
                if attack not in attacks.setdefault(int(sample), []):
                    attacks[int(sample)].append(attack)
                clearest[int(sample)] = max(clearest.get(int(sample), 0.0), abs(area - 0.5))
    order = sorted(places, key=lambda one: (-clearest[one], one))
    return {sample: places[sample] for sample in order}, attacks


def _confidence(units: Sequence[Unit], store: Store, wanted: Sequence[int]) -> dict[int, float]:
    """Returns the mean probability of the label over the models that are stored, by sample."""
    sums: dict[int, list[float]] = {}
    for unit in units:
        if not store.has(unit.key):
            continue
        table = pq.read_table(store.fetch(unit.key, "outputs.parquet"))
        table = table.filter(pc.is_in(table["sample_id"], value_set=pa.array(wanted, pa.int64())))
        logits = [np.asarray(row, dtype=np.float64) for row in table["logits"].to_pylist()]
        classes = logit_classes(table)
        column = {label: place for place, label in enumerate(classes)} if classes is not None else None
        for sample, label, row in zip(table["sample_id"].to_pylist(), table["label"].to_pylist(), logits, strict=True):
            place = label if column is None else column.get(label)
            if place is not None:
                sums.setdefault(sample, []).append(float(np.exp(row[place] - np.logaddexp.reduce(row))))
    return {sample: float(np.mean(values)) for sample, values in sums.items()}


def picture(pixels: np.ndarray) -> str:
    """Returns uint8 pixels `(h, w, c)` as a PNG data URI of at most 64 pixels a side."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((_PIXELS, _PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
