"""From what was measured of each row to its verdict. Runs and audits both come here, and nowhere
else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..attacks.registry import ATTACKS, directed
from ..distances.chance import Gap
from ..metrics.areas import Areas
from ..metrics.evidence import (
    AttackEvidence,
    Confidence,
    Evidence,
    GapLeft,
    Rule,
    UnseenEvidence,
    at_chance,
    bent_yardstick,
)
from ..metrics.leak import Sides
from ..metrics.measure import Measure
from ..metrics.row import NO_UNLEARN, RETRAIN, Row, metric_name
from ..metrics.t_intervals import TAIL
from ..metrics.traces import Traces, traces
from ..metrics.verdict import DEFAULT_RULE, Verdict, judge, percent
from ..outputs.measured import FOLD, METHOD, MODEL_ID, ROLE, Measured

CONSTANT = 1e-6  # entropies, in nats, that differ by less over all images are of constant outputs


@dataclass(frozen=True)
class RowFacts:
    """What verdicts need to know of a row.

    **Arguments:**

    - `models`: ids of the models under test, sorted, as the lines of its areas are.
    - `parents`: the id of the original that each was made from; None where it is not known.
    - `areas`: by attack. `references`: of Retrain's models under an attack that was fitted for this
        row.
    - `attackers`: what names the fitted attacker; AUCs by different ones are never subtracted.
    - `traces`, `confidence`, `constant`: see `Evidence`; None where not measured.
    - `gaps`: of divergences.
    """

    method: str
    models: tuple[str, ...] = ()
    parents: tuple[str, ...] | None = None
    areas: Mapping[str, Areas] = field(default_factory=dict)
    references: Mapping[str, Areas] = field(default_factory=dict)
    attackers: Mapping[str, str] = field(default_factory=dict)
    traces: Traces | None = None
    confidence: Confidence | None = None
    constant: bool = False
    gaps: Mapping[str, Gap] = field(default_factory=dict)


def judge_rows(rows: Sequence[RowFacts], rule: Rule = DEFAULT_RULE, silent: Collection[str] = ()) -> list[Verdict]:
    """Returns the verdict on each row.

    **Arguments:** `silent`: attacks whose numbers are shown, but decide nothing.
    """
    before = next((row for row in rows if row.method == NO_UNLEARN), RowFacts(NO_UNLEARN))
    retrain = next((row for row in rows if row.method == RETRAIN), RowFacts(RETRAIN))
    case = _Rows(before, retrain, rule, frozenset(silent))
    return [case.judged(row) for row in rows]


def upside_down(rows: Sequence[RowFacts]) -> bool:
    """Says whether models never unlearned score lower than Retrain's by a directed attack: labels
    or roles may be wrong."""
    before, retrain = (next((r for r in rows if r.method == m), RowFacts(m)) for m in (NO_UNLEARN, RETRAIN))
    found = _Rows(before, retrain)
    attacks = [attack for attack in found.attacks(found.before) if attack.directed and attack.sides.models > 1]
    return any(attack.ratio.p_denominator > 1.0 - TAIL for attack in attacks)


@dataclass(frozen=True)
class _Rows:
    """The two reference rows, which every verdict is relative to."""

    before: RowFacts
    retrain: RowFacts
    rule: Rule = DEFAULT_RULE
    silent: frozenset[str] = frozenset()

    def judged(self, row: RowFacts) -> Verdict:
        attacks = self.attacks(row)
        bent = bent_yardstick([found for found in attacks if found.directed])
        if row.method == RETRAIN:
            return self._of_retrain(row, attacks, bent)
        unseen = None
        mine, theirs, before = row.confidence, self.retrain.confidence, self.before.confidence
        if mine is not None and theirs is not None and before is not None:
            unseen = UnseenEvidence(mine, theirs, before, self._parents(row))
        reference = row.method == NO_UNLEARN
        evidence = Evidence(attacks, row.traces, unseen, row.constant, reference, bent, self._gaps(row))
        return self._with_warning(row, judge(evidence, self.rule))

    def _of_retrain(self, row: RowFacts, attacks: Sequence[AttackEvidence], bent: tuple[str, ...]) -> Verdict:
        """Judges the yardstick itself, against an AUC of 0.5: there is no other."""
        chance = [replace(found, sides=at_chance(found.sides)) for found in attacks]
        found = judge(Evidence(chance, row.traces, None, row.constant, True), self.rule)
        if found.word in ("forgot", "undecided") and not bent:
            return found
        told = " and ".join(bent) if bent else found.strongest or "the search for single samples"
        reason = f"{told} tells Retrain's models from other retrained ones, so the yardstick is in doubt"
        return replace(found, word="undecided", reason=reason, needed=None)

    def _gaps(self, row: RowFacts) -> tuple[GapLeft, ...]:
        """Returns what divergences say is left, of those that saw anything before unlearning."""
        before = self.before.gaps
        return tuple(GapLeft(n, *gap.left(before[n])) for n, gap in row.gaps.items() if n in before and before[n].sees)

    def attacks(self, row: RowFacts) -> list[AttackEvidence]:
        """Returns what each attack measured of a row, where it can be held against both
        references."""
        found = []
        parents = self._parents(row)
        for name, areas in row.areas.items():
            before, theirs = self.before.areas.get(name), self.before.references.get(name)
            reference = row.references.get(name) or self.retrain.areas.get(name)
            named = {row.attackers.get(name), self.before.attackers.get(name)}
            if row.references.get(name) is None and self.retrain.areas.get(name) is not None:
                named.add(self.retrain.attackers.get(name))
            if name in self.silent or before is None or len(named) > 1:
                continue
            # no models but those that all are compared with: like each other by definition
            if reference is None:
                chance = np.full((areas.matrix.shape[1],) * 2, 0.5)
                sides = Sides(areas.matrix, chance, before.matrix, None, parents)
            else:
                other = None if theirs is None else theirs.matrix
                sides = Sides(areas.matrix, reference.matrix, before.matrix, other, parents)
            found.append(AttackEvidence(name, sides, _directed(name)))
        return found

    def _parents(self, row: RowFacts) -> np.ndarray | None:
        """Returns for each model the place of its parent among the models never unlearned; others
        get places below 0."""
        if row.method == NO_UNLEARN:
            return np.arange(len(row.models))
        if row.parents is None:
            return None
        places = {name: place for place, name in enumerate(self.before.models)}
        strangers = {name: -1 - place for place, name in enumerate(sorted(set(row.parents) - set(places)))}
        return np.asarray([places.get(name, strangers.get(name, -1)) for name in row.parents], dtype=np.int64)

    def _with_warning(self, row: RowFacts, verdict: Verdict) -> Verdict:
        """Adds notes: the models that failed by name, and parents that are not known."""
        notes = []
        if verdict.failing and row.models:
            names = ", ".join(row.models[place] for place in verdict.failing)
            notes.append(f"models whose own leak exceeds {percent(self.rule.tolerance)}: {names}")
        if row.parents is None and row.method != NO_UNLEARN:
            notes.append(
                "the column parent is missing: models are taken as independent, which is wrong where one original was "
                "unlearned several times"
            )
        return replace(verdict, notes=tuple(notes))


def _directed(attack: str) -> bool:
    return directed(attack) if attack in ATTACKS else True


def single_samples(
    measured: Measured, models: np.ndarray, retrained: np.ndarray, fpr: float, seed: int
) -> Traces | None:
    """Returns what single samples give away; None where a side has fewer than two models.

    It is measured on φ. Where the label's class has no logit, the entropy takes its place, in both
    directions.

    **Arguments:** `models`, `retrained`: indices into `measured.models`.
    """
    if min(len(models), len(retrained)) < 2:
        return None
    if np.isnan(measured.phi[models]).any() or np.isnan(measured.phi[retrained]).any():
        return traces(-measured.entropy[models], -measured.entropy[retrained], fpr=fpr, seed=seed, both=True)
    return traces(measured.phi[models], measured.phi[retrained], fpr=fpr, seed=seed)


def mean_confidence(
    measured: Measured, unseen: Measured | None, models: np.ndarray, places: np.ndarray
) -> Confidence | None:
    """Returns the mean φ of each model on forget samples and unseen images; None where it is not
    known.

    **Arguments:** `models`: indices into `measured.models`. `places`: the same models in
    `unseen.models`, −1 where missing.
    """
    if unseen is None or not len(models) or (places < 0).any():
        return None
    found = Confidence(measured.phi[models].mean(axis=1), unseen.phi[places].mean(axis=1))
    return None if np.isnan(found.gap).any() else found


def nothing_done(measured: Measured) -> Measured:
    """Returns the outputs with the originals outside the test fold as models of a method that does
    nothing.

    An attack that is fitted on a method's own models so has a reading of what was there to forget.
    Models of other methods are in no role.
    """

    def named(model: tuple[str, ...]) -> tuple[str, ...]:
        if model[ROLE] == "original" and model[FOLD] != "test":
            return ("unlearned", NO_UNLEARN, "{}", model[MODEL_ID], model[FOLD])
        other = model[ROLE] == "unlearned" and model[METHOD] != RETRAIN
        return ("", *model[1:]) if other else model

    return replace(measured, models=[named(model) for model in measured.models])


def is_constant(measured: Measured, models: np.ndarray) -> bool:
    """Says whether the outputs of every one of these models are the same for all samples."""
    entropy = measured.entropy[models]
    return bool(entropy.size) and entropy.shape[1] > 1 and bool((np.ptp(entropy, axis=1) < CONSTANT).all())


def with_verdict(row: Row, verdict: Verdict) -> Row:
    """Returns a result row with its verdict, and the leak that each attack says is left."""
    metrics = dict(row.metrics)
    metrics["streisand"] = Measure(verdict.word == "over_unlearned")
    for leak in verdict.leaks:
        metrics[metric_name(leak.attack, "leak_left")] = Measure(leak.value, leak.low, leak.high, models=row.models)
    for gap in verdict.gaps:
        metrics[f"{gap.divergence}/gap_left"] = Measure(gap.value, gap.low, gap.high, models=row.distance_models)
    notes = (*row.notes, *verdict.notes)
    return replace(row, metrics=metrics, verdict=verdict.told(), judged=verdict, notes=notes)
