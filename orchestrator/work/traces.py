"""What a row's models give away besides their attacks: single samples, and how unseen images are
treated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from attack.audit.verdicts import RowFacts, is_constant, mean_confidence, single_samples
from attack.distances.chance import Gap
from attack.metrics.evidence import Confidence
from attack.metrics.traces import Traces
from attack.outputs.measured import MODEL_ID, ROLE

from ..plan.facts import TracesFacts, facts_of
from ..plan.rows import Row
from ..plan.specs import TracesSpec
from ..store import Store
from .scoring import AREAS, REFERENCE, areas_of, measured_outputs


def measure_traces(spec: TracesSpec, store: Store) -> TracesFacts:
    """Looks at single samples and unseen images of one row's models."""
    measured = measured_outputs(store, (*spec.models, *spec.retrained))
    models, retrained = measured.where(role="unlearned"), measured.where(role="retrained")
    unseen = measured_outputs(store, spec.unseen, "test") if spec.unseen else None
    places = {(m[ROLE], m[MODEL_ID]): place for place, m in enumerate(unseen.models if unseen is not None else ())}
    mine = [measured.models[m] for m in models]
    there = np.asarray([places.get((m[ROLE], m[MODEL_ID]), -1) for m in mine], dtype=np.int64)
    found = single_samples(measured, models, retrained, spec.tail_fpr, spec.seed)
    means = mean_confidence(measured, unseen, models, there)
    constant = is_constant(measured, models)
    samples = {} if found is None else dict(vars(found))
    if means is None:
        return TracesFacts(constant, **samples)
    return TracesFacts(constant, **samples, forget=means.forget.tolist(), unseen=means.unseen.tolist())


def row_facts(row: Row, store: Store, originals: Iterable[str]) -> RowFacts:
    """Returns what verdicts need to know of a row, from the units of it that are finished.

    **Arguments:** `originals`: what the trained originals are called, by their number.
    """
    targets = sorted(row.targets, key=lambda unit: unit.label.model_id)
    names = list(originals)
    sources = [unit.label.source for unit in targets]
    made = row.method != "retrain" and None not in sources
    done = [unit for unit in row.scores if store.has(unit.key)]
    own = [unit for unit in done if unit.spec.reference]
    found = RowFacts(
        row.method,
        tuple(unit.label.model_id for unit in targets),
        tuple(names[source] for source in sources if source is not None) if made else None,
        {unit.label.attack: areas_of(unit, store, AREAS) for unit in done},
        {unit.label.attack: areas_of(unit, store, REFERENCE) for unit in own},
        {unit.label.attack: str(store.meta(unit.key)["candidate"]) for unit in done},
    )
    if row.distance is not None and store.has(row.distance.key):
        gaps = store.meta(row.distance.key)["gaps"]
        found = replace(found, gaps={name: Gap.from_json(between) for name, between in gaps.items()})
    if row.traces is None or not store.has(row.traces.key):
        return found
    return _with_traces(found, facts_of(store, row.traces.key, TracesFacts))


def _with_traces(row: RowFacts, facts: TracesFacts) -> RowFacts:
    single = None
    if facts.share is not None and facts.below is not None and facts.chance is not None and facts.p_value is not None:
        single = Traces(facts.share, facts.below, facts.chance, facts.p_value, tuple(facts.found))
    means = None
    if facts.forget is not None and facts.unseen is not None:
        means = Confidence(np.asarray(facts.forget), np.asarray(facts.unseen))
    return replace(row, traces=single, confidence=means, constant=facts.constant)
