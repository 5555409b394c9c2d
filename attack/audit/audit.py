"""Every attack on every method of an outputs table, from one pass over its logits, as the rows of
`results.json`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from ..attacks.base import Fitted
from ..attacks.registry import ATTACKS
from ..distances.base import DIVERGENCES
from ..distances.chance import Gap
from ..distances.compare import DEFAULT_DIVERGENCES, Distances, distances, equal_count, first_of
from ..metrics.areas import Areas
from ..metrics.evidence import Rule
from ..metrics.measure import Measure
from ..metrics.row import NO_UNLEARN, PRIMARY, RETRAIN, Attacker, Row
from ..metrics.verdict import DEFAULT_RULE
from ..outputs.measured import FOLD, METHOD, MODEL_ID, PARAMS, ROLE, Measured
from ..outputs.sets import FORGET, by_set, halves, parents_of
from ..outputs.sources import Source, as_source
from .aside import Aside
from .check import Examination, Problem, check
from .doubts import over_unlearned
from .groups import Group, groups_of
from .judged import judged, tuned_threshold
from .population import partners, population_problems
from .rows import Scored, build_row
from .runner import InProcess, Runner, scores_of
from .verdicts import (
    RowFacts,
    is_constant,
    judge_rows,
    mean_confidence,
    nothing_done,
    single_samples,
    upside_down,
    with_verdict,
)

RETRAIN_PLACE = 1  # among the groups

__all__ = ["Audit", "Problem", "audit", "check", "run_attacks"]


@dataclass
class Audit:
    """The result rows of an audit, what `curves.json` holds of it, and the notes of its attacks.

    `questions`: what makes one doubt that the outputs are what they are given for; the first thing
    to tell.
    """

    rows: list[Row] = field(default_factory=list)
    curves: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"roc": [], "confidence": [], "training": [], "unlearning": []}
    )
    notes: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)


def run_attacks(
    outputs: Source | pa.Table | Iterable[pa.Table], names: Sequence[str] = (PRIMARY,), seed: int = 0, **options: Any
) -> list[dict[str, Any]]:
    """Returns the rows of `audit` as `results.json` has them."""
    return [row.to_json() for row in audit(outputs, names, seed, **options).rows]


def audit(
    outputs: Source | pa.Table | Iterable[pa.Table],
    names: Sequence[str] = (PRIMARY,),
    seed: int = 0,
    *,
    settings: dict[str, dict[str, Any]] | None = None,
    divergences: Sequence[str] = DEFAULT_DIVERGENCES,
    num_classes: int | None = None,
    bootstrap: int = 2000,
    population: Source | pa.Table | Iterable[pa.Table] | Examination | None = None,
    unseen: tuple[Source | None, Source | None] = (None, None),
    examined: Examination | None = None,
    runner: Runner | None = None,
    rule: Rule = DEFAULT_RULE,
) -> Audit:
    """Attacks the originals (`no_unlearn`), fresh retrained models (`retrain`) and each method of
    an outputs table.

    Retrain's models are rows of role `unlearned`, method `retrain`, fold `test`: models that no
    attacker was fitted on.

    **Arguments:**

    - `outputs`: tables, or a `Source` such as `ParquetFiles`, which is never held whole.
    - `names`: attacks to run, of `ATTACKS`. `settings`: options of attacks by name; those not given
        are the defaults, and XGBoost is tuned over its candidates.
    - `divergences`: per-sample distances to the retrained models, of `DIVERGENCES`; left out where
        labels have no logit.
    - `num_classes`: of labels, where the logits have fewer columns. `seed`, `bootstrap`: of attacks
        and intervals.
    - `population`: the same models' outputs on samples that none was trained on, the z of RMIA; or
        what `Examination.of` found in them. `unseen`: two parts of such outputs. The first is the z
        where `population` is not given and it has all models; forget samples are compared with the
        second. Without `examined`, the column `set` of `outputs` gives both.
    - `rule`: what counts as forgotten.
    - `examined`: what `Examination.of(outputs)` found, where it was asked already; its survey is
        used up. `runner`: fits and scores attacks that read logits; the default does so in this
        process.

    **Raises:** `ValueError` naming every problem of the input, before anything is fitted.
    """
    source = as_source(outputs)
    if examined is None:
        sets = by_set(source)
        if FORGET in sets:
            source, unseen = sets[FORGET], halves(sets)
        examined = Examination.of_sets({**sets, FORGET: source}, num_classes)
    problems = examined.problems(names)
    others: Examination | None = None
    given = population if population is not None else unseen[0]
    if given is not None and any(name in ATTACKS and ATTACKS[name].takes_population for name in names):
        others = given if isinstance(given, Examination) else Examination.of(as_source(given), num_classes)
        unfit = population_problems(examined, others, names)
        if unfit and population is None:
            others, unfit = None, [replace(problem, fatal=False) for problem in unfit]
        problems += unfit
    if any(problem.fatal for problem in problems):
        raise ValueError("\n".join(str(problem) for problem in problems if problem.fatal))
    measured = examined.measured()
    run = _Run(
        measured,
        source,
        names,
        seed,
        settings or {},
        bootstrap,
        runner or InProcess(),
        None if others is None else others.measured(),
        None if unseen[1] is None else Examination.of(unseen[1], num_classes).measured(),
        Audit(notes=[str(problem) for problem in problems], questions=list(examined.doubts)),
        errors=examined.errors,
    )
    return run.everything(divergences, rule)


@dataclass
class _Run:
    """One audit on its way: what it works on, and what it has found so far."""

    measured: Measured
    source: Source
    names: Sequence[str]
    seed: int
    settings: dict[str, dict[str, Any]]
    bootstrap: int
    runner: Runner
    population: Measured | None
    unseen: Measured | None
    found: Audit
    # of each model on the forget set, in percent
    errors: dict[tuple[str, ...], float] = field(default_factory=dict)

    def everything(self, divergences: Sequence[str], rule: Rule) -> Audit:
        self.groups = groups_of(self.measured)
        gaps: list[Mapping[str, Gap]] = []
        self.negative = self.measured.where(role="retrained", fold="test")
        self.scored: list[list[Scored]] = [[] for _ in self.groups]
        with Aside() as self.aside:
            distant = self.aside.begin(lambda: [self._distances(group, divergences) for group in self.groups])
            for name in self.names:
                self._attack(name)
        retrain = {found.attack: found.areas for found in self.scored[RETRAIN_PLACE]}
        for group, scored, apart in zip(self.groups, self.scored, distant.result(), strict=True):
            row = Row(
                group.method,
                group.settings,
                models=len(group.test),
                retrained_models=len(self.negative),
                sources=self._sources(group),
                metrics=self._errors(group),
                verdict="" if len(group.test) else group.nothing,
            )
            gaps.append({} if apart is None else apart.gaps)
            self.found.rows.append(build_row(row, scored, apart, retrain, lambda _: self.seed, self.bootstrap))
        # Without z, RMIA ranks forget samples only, and so reverses direction on damaged models.
        silent = [name for name in self.names if ATTACKS[name].takes_population and self.population is None]
        self.found.notes += [f"{name}: decides nothing without outputs on unseen images" for name in silent]
        parents = parents_of(self.source)
        facts = [
            replace(self._facts(group, parents, scored, rule), gaps=between)
            for group, scored, between in zip(self.groups, self.scored, gaps, strict=True)
        ]
        verdicts = judge_rows(facts, rule, silent)
        self.found.rows = [
            with_verdict(row, verdict) if row.models else row
            for row, verdict in zip(self.found.rows, verdicts, strict=True)
        ]
        self.found.questions += over_unlearned(NO_UNLEARN, "over_unlearned" if upside_down(facts) else "")
        self.found.notes = sorted(set(self.found.notes))
        return self.found

    def _facts(
        self, group: Group, parents: Mapping[tuple[str, ...], str], scored: Sequence[Scored], rule: Rule
    ) -> RowFacts:
        """Returns what the verdict on a group needs to know."""
        measured = self.measured
        keys = [measured.models[m] for m in group.test]
        known = all(key in parents for key in keys)
        places = group.test if self.unseen is None else partners(measured, self.unseen)[group.test]
        return RowFacts(
            group.method,
            tuple(key[MODEL_ID] for key in keys),
            tuple(parents[key] for key in keys) if known else None,
            {found.attack: found.areas for found in scored},
            {found.attack: found.retrain for found in scored if found.retrain is not None},
            {},
            single_samples(measured, group.test, measured.where(role="retrained"), rule.tail_fpr, self.seed),
            mean_confidence(measured, self.unseen, group.test, places),
            is_constant(measured, group.test),
        )

    def _attack(self, name: str) -> None:
        """Fits one attack once, or for each method where it is of that kind, and scores every
        group."""
        base = self.measured.where(role=("original", "retrained"))
        if not ATTACKS[name].per_method:
            targets = np.unique(np.concatenate([self.negative, *(group.test for group in self.groups)]))
            started = time.perf_counter()
            fitted = self._fitted(name, base)
            scores = self._scores(name, fitted, targets)
            threshold = self._threshold(name, fitted, self.measured.where(role="original", fold="validation"))
            seconds = time.perf_counter() - started
            tested = [index for index, group in enumerate(self.groups) if len(group.test)]
            self.aside.begin(partial(self._evaluate, name, tested, fitted, scores, threshold, seconds))
            return
        for index, group in enumerate(self.groups):
            measured, fitting = self.measured, group.fitting
            if group.method == NO_UNLEARN and ATTACKS[name].reads == "confidences":
                # What the attack makes of a method that does nothing: its reading before
                # unlearning.
                measured = nothing_done(self.measured)
                fitting = measured.where(role="unlearned", method=NO_UNLEARN)
            if len(group.test) and len(fitting):
                started = time.perf_counter()
                fitted = self._fitted(name, np.unique(np.concatenate([base, fitting])), measured)
                # Retrain's models have nothing to fit on. The method's attacker is asked about them
                # too: as retrained models outside the fit they have 0.5 there, but for the luck of
                # the models.
                reference = self.groups[RETRAIN_PLACE].test
                scores = self._scores(name, fitted, np.concatenate([self.negative, group.test, reference]), measured)
                members = np.asarray([m for m in fitting if measured.models[m][FOLD] == "validation"], int)
                threshold = self._threshold(name, fitted, members, measured)
                seconds = time.perf_counter() - started
                judge = partial(self._evaluate, name, [index], fitted, scores, threshold, seconds, reference)
                self.aside.begin(judge)

    def _fitted(self, name: str, models: np.ndarray, measured: Measured | None = None) -> Fitted:
        attack = ATTACKS[name]
        given = dict(self.settings.get(name, {}))
        if "seed" in attack.setting_names():
            given.setdefault("seed", self.seed)
        # Of settings that are given none is tuned, so candidates may become the same.
        attempts = list(dict.fromkeys(attack(**{**each, **given}) for each in attack.candidates() or [{}]))
        if attack.reads == "confidences":
            chosen = (measured or self.measured).only(models)
            more = {"population": self.population} if self._with_population(name) else {}
            fitted = [attempt.fit(chosen, **more) for attempt in attempts]
        else:
            fitted = self.runner.fit(attempts, self.source, self.measured, models)
        return fitted[0] if len(fitted) == 1 else max(fitted, key=lambda attacker: attacker.validation_f1 or 0.0)

    def _with_population(self, name: str) -> bool:
        return self.population is not None and ATTACKS[name].takes_population

    def _scores(
        self, name: str, fitted: Fitted, models: np.ndarray, measured: Measured | None = None
    ) -> dict[int, np.ndarray]:
        """Returns the scores of each of the models, `(S,)` in the order of the samples."""
        if ATTACKS[name].reads != "confidences":
            return self.runner.score(fitted, self.source, self.measured, models)
        others = self.population if self._with_population(name) else None
        places = None if others is None else partners(self.measured, others)

        def score(m: int) -> np.ndarray:
            # Its own rows of the population by their numbers: ids alone do not tell unlearned
            # models of two methods apart.
            more = {} if others is None or places is None else {"population": others.only(places[[m]])}
            mine = (measured or self.measured).only(np.asarray([m]))
            return np.asarray(fitted.score(mine, **more), dtype=np.float64)

        # Model by model, so that what scoring takes does not grow with their number.
        return {int(m): score(m) for m in models}

    def _threshold(
        self, name: str, fitted: Fitted, members: np.ndarray, measured: Measured | None = None
    ) -> float | None:
        """Returns the attacker's threshold; where it has none, one tuned on `members` of the
        validation fold."""
        others = self.measured.where(role="retrained", fold="validation")

        def scores() -> list[np.ndarray]:
            found = self._scores(name, fitted, np.concatenate([members, others]), measured)
            return [np.concatenate([found[int(m)] for m in side]) for side in (members, others)]

        threshold, notes = tuned_threshold(name, fitted, len(members), len(others), scores)
        self.found.notes += [f"{name}: {note}" for note in notes]
        return threshold

    def _evaluate(
        self,
        name: str,
        places: Sequence[int],
        fitted: Fitted,
        scores: dict[int, np.ndarray],
        threshold: float | None,
        seconds: float,
        reference: np.ndarray | None = None,
    ) -> None:
        """Adds what an attack says of the groups at `places`. **Arguments:** `reference`: Retrain's
        models, scored by the same attacker."""
        attacker = Attacker(
            "in_process" if ATTACKS[name].reads == "confidences" else self.runner.path(ATTACKS[name]),
            asdict(fitted.attack),
            fitted.validation_f1,
            threshold,
            tuple(fitted.notes),
            seconds=seconds,
        )
        self.found.notes.extend(f"{name}: {note}" for note in fitted.notes)
        for place in places:
            self._judge(place, name, attacker, scores, reference)

    def _judge(
        self, place: int, name: str, attacker: Attacker, scores: dict[int, np.ndarray], reference: np.ndarray | None
    ) -> None:
        group = self.groups[place]
        positives, negatives = (scores_of(scores, self.measured, models) for models in (group.test, self.negative))
        evaluation, curves = judged(
            name, positives, negatives, threshold=attacker.threshold, seed=self.seed, bootstrap=self.bootstrap
        )
        retrain = None
        if reference is not None and len(reference):
            theirs = scores_of(scores, self.measured, reference).by_model()[1]
            retrain = Areas.of(theirs, negatives.by_model()[1], evaluation.areas.negative_models)
        more = {"seed": self.seed, "draws": self.bootstrap}
        self.scored[place].append(
            Scored.of(name, evaluation, positives, negatives, attacker, self._sources(group), retrain=retrain, **more)
        )
        for kind, curve in curves.items():
            self.found.curves[kind].append({"row": place, "attack": name, **curve})

    def _sources(self, group: Group) -> tuple[str, ...]:
        """Returns what the models under test go by among those that differences are taken over."""
        models = (self.measured.models[m] for m in sorted(group.test))
        return tuple(" ".join((model[ROLE], model[METHOD], model[PARAMS], model[MODEL_ID])) for model in models)

    def _distances(self, group: Group, divergences: Sequence[str]) -> Distances | None:
        """Compares a group's models with retrained ones, and says where nothing was done; None
        where none is under test."""
        if not len(group.test):
            return None
        retrained = self.measured.where(role="retrained")
        sizes = [len(g.everyone) for g in self.groups if len(g.test)]
        count = min(equal_count(sizes, len(retrained)), len(group.everyone))
        return distances(
            self.measured,
            tested=group.test,
            negative=self.negative,
            models=self._first_of(group.everyone, count),
            retrained=self._first_of(retrained, count),
            originals=() if group.method in (NO_UNLEARN, RETRAIN) else self.groups[0].everyone,
            divergences=[DIVERGENCES[name]() for name in divergences],
        )

    def _errors(self, group: Group) -> dict[str, Measure]:
        """Returns the error on the forget set, of the models under test; nothing where it is not
        known."""
        order = sorted(group.test)
        found = [self.errors[self.measured.models[m]] for m in order if self.measured.models[m] in self.errors]
        if not found or len(found) < len(order):
            return {}
        by_model = dict(zip(self._sources(group), found, strict=True))
        return {"error_forget": Measure.of(float(np.mean(found)), None, by_model, len(found))}

    def _first_of(self, models: np.ndarray, count: int) -> np.ndarray:
        names = [(self.measured.models[m][FOLD], self.measured.models[m][MODEL_ID]) for m in models]
        # In the table's order again: no distance depends on it, and rows that follow each other are
        # not copied.
        return np.sort(models[first_of(names, count)])
