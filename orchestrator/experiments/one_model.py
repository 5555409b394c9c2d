"""What finished units say of single models: where each stands among the shadow models, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attack.metrics.evidence import LEAST_MODELS, TAIL_FPR, TOLERANCE
from attack.metrics.one_model import Standing, reach, standing
from attack.outputs.measured import MODEL_ID, Measured

from ..plan.data import ExperimentData
from ..plan.facts import OutputsFacts, facts_of
from ..plan.rows import Plan
from ..plan.specs import Outputs
from ..plan.units import Unit
from ..report.verification import Accuracy, Check, Sample, Shadows, Subject, percent
from ..report.words import Verdict
from ..store import Store
from ..work.scoring import measured_outputs
from .samples import picture

LEAST_MATCH = 0.02  # accuracies that differ by less match, however alike the shadow models are
MATCH_TAIL = 0.005
PICTURES = 24
LIMITS = (
    "That the samples are gone for good: another attack may find what this one does not.",
    "Anything about other samples, or about other models that the same method makes.",
    "Anything about shadow models that were trained in another way than your model.",
    "That the data themselves are deleted: only the model was looked at.",
)


@dataclass(frozen=True)
class Judged:
    """What is said of the models under test, and what it rests on."""

    subjects: list[Subject]
    shadows: list[Shadows]
    checks: list[Check]
    allowed: list[str]


def judge(
    plan: Plan, data: ExperimentData, store: Store, failures: Mapping[str, str], files: Mapping[str, str]
) -> Judged:
    """Returns what the finished units say of the models of the plan that are of no fold.

    **Arguments:** `failures`: unit key → one line. `files`: a model's name → its weights.
    """
    done = [unit for unit in plan.stages["outputs"] if unit.kind == "outputs" and store.has(unit.key)]
    kinds = {
        "original": [u for u in done if u.label.role == "original"],
        "retrained": [u for u in done if u.label.method == "retrain"],
        "given": [u for u in done if u.label.role == "given"],
    }
    roles = {"given": "unlearned"}
    items = [
        Outputs(u.key, roles.get(kind, kind), "test", u.label.model_id) for kind, units in kinds.items() for u in units
    ]
    measured = measured_outputs(store, items)
    accuracies = {u.label.model_id: _accuracy(store, u) for units in kinds.values() for u in units}
    sides = [_rows(measured, [u.label.model_id for u in kinds[kind]]) for kind in ("original", "retrained")]
    theirs = [a.test for a in (accuracies[u.label.model_id] for u in kinds["retrained"]) if a.test is not None]
    under_test = [unit for unit in plan.stages["outputs"] if unit.label.role == "given"]
    given = under_test[0].label.model_id
    checks = _checks(accuracies.get(given), [accuracies[u.label.model_id] for u in kinds["original"]])
    subjects = []
    for unit in under_test:
        name = unit.label.model_id
        shown = f"after {name.removesuffix(f' {given}')}" if name.endswith(f" {given}") else name
        if not store.has(unit.key):
            subjects.append(_failed(shown, unit, failures))
            continue
        found = None
        if min(map(len, sides)) >= LEAST_MODELS:
            found = standing(_rows(measured, [name])[0], sides[0], sides[1], TAIL_FPR)
        before = name == given
        word, reason = _before(found, checks) if before else _verdict(found, accuracies[name], theirs, checks)
        subject = Subject(shown, not before, accuracies[name], word, reason, file=files.get(name, ""))
        if found is not None:
            subject = replace(
                subject,
                left=found.left,
                low=found.low,
                high=found.high,
                rank_above=found.rank_above,
                samples=_samples(found, measured, data),
                usual=int(found.usual.max()),
            )
        subjects.append(
            replace(subject, notes=[f"{shown}: {note}" for note in store.meta(unit.needs[0].key).get("notes") or []])
        )
    shadows = [
        Shadows(title, len(kinds[kind]), _mean([accuracies[u.label.model_id] for u in kinds[kind]]))
        for kind, title in (("original", "models trained on all of it"), ("retrained", "models retrained without"))
    ]
    return Judged(subjects, shadows, checks, _allowed(subjects, shadows))


def _before(found: Standing | None, checks: Sequence[Check]) -> tuple[Verdict, str]:
    """Returns what is said of the model as it was given, which nobody has unlearned."""
    if found is None or not found.sees:
        return "undecided", "Whether your model as given knows the samples cannot be seen with these shadow models."
    shown = f"{percent(found.left)} of the usual trace, 95 % interval {percent(found.low)} to {percent(found.high)}"
    if found.low > 0.0:
        return "remembers", f"As given, your model shows that it saw the samples: {shown}."
    return "undecided", f"As given, your model could be one that never saw the samples: {shown}."


def _verdict(
    found: Standing | None, own: Accuracy, retrained: Sequence[float], checks: Sequence[Check]
) -> tuple[Verdict, str]:
    """Returns the verdict on one model, with its reason."""
    if found is None:
        return "undecided", f"Fewer than {LEAST_MODELS} shadow models of a kind are finished."
    if not found.sees:
        return "undecided", (
            "The attack cannot tell models that saw these samples from models that did not. "
            "So it cannot say what your model remembers."
        )
    wrong = [check.what for check in checks if not check.fits]
    if wrong:
        return "undecided", (
            f"The shadow models do not match your model in {' and '.join(wrong)}. "
            "Give the settings of your training, see the table below."
        )
    left = f"{percent(found.left)} of the leak is left, 95 % interval {percent(found.low)} to {percent(found.high)}"
    fallen = own.test is not None and len(retrained) > 1 and own.test < _lower(retrained)
    if found.low > 0.0:
        return "remembers", (
            f"It looks more like a model that saw the samples than retrained models do: {left}. "
            f"A retrained model looks so with probability {found.rank_above:.2g} or less."
        )
    if found.samples_stand_out:
        return "remembers", (
            f"On average it looks retrained, yet {len(found.found)} samples stand out, "
            f"and at most {int(found.usual.max())} do under a retrained model."
        )
    if fallen:
        return "damaged", f"Test accuracy is {percent(own.test)}, below what any retrained model would have."
    if found.high < 0.0:
        return "over-unlearned", f"The samples stand out by too little confidence: {left}."
    if found.high < TOLERANCE:
        return "forgot", f"At most {percent(max(0.0, found.high))} of the leak is left: {left}."
    return "undecided", (
        f"Up to {percent(found.high)} of the leak may be left: {left}. "
        "One model's own spread is that wide; more samples to forget would narrow it."
    )


def _lower(values: Sequence[float]) -> float:
    return float(np.mean(values)) - max(LEAST_MATCH, reach(values, MATCH_TAIL))


def _checks(own: Accuracy | None, originals: Sequence[Accuracy]) -> list[Check]:
    """Returns how the given model compares with one more shadow model, part by part."""
    checks = []
    if own is None:
        return []
    pairs = {
        "retain accuracy": (own.retain, [each.retain for each in originals]),
        "test accuracy": (own.test, [each.test for each in originals]),
    }
    for part, (yours, theirs) in pairs.items():
        known = [value for value in theirs if value is not None]
        if yours is None or len(known) < 2:
            continue
        wide = max(LEAST_MATCH, reach(known, MATCH_TAIL))
        middle = float(np.mean(known))
        checks.append(Check(part, yours, max(0.0, middle - wide), min(1.0, middle + wide)))
    return checks


def _allowed(subjects: Sequence[Subject], shadows: Sequence[Shadows]) -> list[str]:
    counts = f"{shadows[0].count} models that saw the samples and {shadows[1].count} that did not"
    found = [f"The model itself was compared with {counts}, sample by sample."]
    for subject in subjects:
        if subject.word in ("undecided", "failed"):
            continue
        found.append(f"{subject.name}: {subject.reason}")
    if len(found) == 1:
        found.append("Nothing beyond that: no verdict was reached.")
    found.append("Verdicts are wrong in about 5 % of cases, where shadow models match yours.")
    return found


def _samples(found: Standing, measured: Measured, data: ExperimentData) -> list[Sample]:
    samples: list[Sample] = []
    for place in found.found:
        row = int(measured.samples[place])
        name = str(row if data.ids is None else data.ids[row])
        image = picture(data.dataset.train.images[row]) if len(samples) < PICTURES else ""
        samples.append(Sample(name, data.dataset.class_names[data.split.labels[row]], image))
    return samples


def _rows(measured: Measured, names: Sequence[str]) -> np.ndarray:
    """Returns φ of models by name, float64 `(models, S)`."""
    places = {model[MODEL_ID]: place for place, model in enumerate(measured.models)}
    found: np.ndarray = measured.phi[[places[name] for name in names]]
    return found


def _accuracy(store: Store, unit: Unit) -> Accuracy:
    errors = facts_of(store, unit.key, OutputsFacts).errors

    def share(name: str) -> float | None:
        error = errors.get(name)
        return None if error is None else 1.0 - error / 100.0

    return Accuracy(share("error_forget"), share("error_retain"), share("error_test"))


def _mean(found: Sequence[Accuracy]) -> Accuracy:
    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    return Accuracy(mean([a.forget for a in found]), mean([a.retain for a in found]), mean([a.test for a in found]))


def _failed(name: str, unit: Unit, failures: Mapping[str, str]) -> Subject:
    causes = [*unit.ancestors().values(), unit]
    reason = next((failures[cause.key] for cause in causes if cause.key in failures), "not done yet")
    return Subject(name, True, Accuracy(None, None, None), "failed", reason)
