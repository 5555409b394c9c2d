"""What is wrong with a user's outputs, said before any attack starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..attacks.base import FITTED, FITTED_FOLDS
from ..attacks.registry import ATTACKS, label_free
from ..outputs.measured import IDENTITY, Measured
from ..outputs.sets import FORGET
from ..outputs.sources import Source, as_source
from ..outputs.survey import Survey
from ..outputs.table import FOLDS, OUTPUTS_SCHEMA, ROLES, TEXTS, logit_classes
from .doubts import doubts, errors_of

# The parameter of the library, and the option of the command line.
HOW_MANY = "give num_classes (--num-classes), the number of all classes"


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the input: where, what, and what would be right. `fatal` ones make an
    audit impossible."""

    where: str
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def check(
    outputs: Source | pa.Table | Iterable[pa.Table],
    attacks: Sequence[str] = ("xgboost",),
    num_classes: int | None = None,
) -> list[Problem]:
    """Returns what is wrong with outputs, nothing where an audit with `attacks` can start.

    **Arguments:**

    - `outputs`: one table, several that make up the outputs, or a `Source`. `attacks`: names in
        `ATTACKS`.
    - `num_classes`: how many classes labels may be of; None: what the logits' columns say.

    Problems that are not `fatal` (rows out of order) are mended by the audit itself. They are told,
    so that they can be mended at the source.
    """
    return Examination.of(as_source(outputs), num_classes, confidences=False).problems(attacks)


@dataclass
class Examination:
    """What one pass over outputs found, for whichever attacks are to follow.

    **Arguments:** `general`: problems that no choice of attacks mends. `survey`: None where the
    columns do not allow one, and after `measured`. `doubts`, `errors`: questions about the outputs,
    and each model's error in percent, by its identity; both are there after `measured`.
    """

    general: list[Problem]
    survey: Survey | None
    num_classes: int | None
    doubts: list[str] = field(default_factory=list)
    errors: dict[tuple[str, ...], float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, source: Source, num_classes: int | None = None, *, confidences: bool = True, threads: int = 1
    ) -> Examination:
        """Reads `source` once. `confidences`, `threads`: see `Survey.of`."""
        schemas = source.schemas()
        if not schemas:
            return cls([Problem("outputs", "no table was given")], None, num_classes)
        wrong = _columns(schemas)
        if wrong:
            return cls(wrong, None, num_classes)
        if source.rows() == 0:
            return cls([Problem("outputs", "no rows")], None, num_classes)
        survey = Survey.of(source, num_classes, confidences=confidences, threads=threads)
        if survey.ragged:
            return cls(
                [Problem("logits", "rows of different lengths; give every row one number for each class")],
                None,
                num_classes,
            )
        if survey.nulls:
            nulls = [Problem(name, f"{count} rows are null") for name, count in survey.nulls.items()]
            return cls(nulls, None, num_classes)
        split = _identity(survey)
        return cls([*_values(survey), *(split or _order(survey))], survey, num_classes)

    @classmethod
    def of_sets(cls, sets: Mapping[str, Source], num_classes: int | None = None, threads: int = 1) -> Examination:
        """Examines the forget samples of `by_set`, and whether the labels of all sets fit the
        logits."""
        found = cls.of(sets[FORGET], num_classes, threads=threads)
        if found.survey is not None and found.survey.classes is None and num_classes is None:
            others = {name: source for name, source in sets.items() if name != FORGET}
            found.general += _misfits(others, found.survey.width)
        return found

    def measured(self) -> Measured:
        """Returns φ and the entropy on their grid and lets go of the survey, which would take 36
        bytes a row beside it.

        **Raises:** `ValueError` where there is no survey, or none any more.
        """
        survey, self.survey = self.survey, None
        if survey is not None:
            self.doubts, self.errors = doubts(survey), errors_of(survey)
        if survey is None:
            raise ValueError(
                "examined: no survey is left; an examination serves one audit, so examine the outputs again"
            )
        return survey.measured()

    def problems(self, attacks: Sequence[str]) -> list[Problem]:
        """Returns what stands in the way of an audit with `attacks`."""
        unknown = [name for name in attacks if name not in ATTACKS]
        found = [Problem("attacks", f"{name!r} is not known{_nearest(name)}") for name in unknown]
        if not attacks:
            found.append(Problem("attacks", f"none was given; known are {', '.join(ATTACKS)}"))
        found += self.general
        if self.survey is not None:
            names = [name for name in attacks if name not in unknown]
            found += label_problems(self.survey, self.num_classes, names)
            # else models cannot be counted
            if not any(problem.where in ("role", "fold") for problem in self.general):
                found += _models(self.survey, names)
        return found


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, list(ATTACKS), n=1, cutoff=0.5)
    return f"{f', did you mean {near[0]!r}?' if near else ';'} known are {', '.join(ATTACKS)}"


def _columns(schemas: Sequence[pa.Schema]) -> list[Problem]:
    """Checks names and types; nothing else can be looked at before they are right."""
    found = []
    for number, schema in enumerate(schemas):
        at = f" (table {number + 1})" if len(schemas) > 1 else ""
        for name in OUTPUTS_SCHEMA(1).names:
            if name not in schema.names:
                found.append(Problem(name, f"the column is missing{at}; there are {', '.join(schema.names) or 'none'}"))
                continue
            kind = schema.field(name).type
            if name in TEXTS:
                right = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
                wanted = "text"
            elif name == "logits":
                right = pa.types.is_fixed_size_list(kind) and pa.types.is_float32(kind.value_type)
                wanted = "fixed-size list of float32"
            else:
                right, wanted = pa.types.is_int64(kind), "int64"
            if not right:
                found.append(Problem(name, f"type {kind} is not allowed{at}; give {wanted}"))
    widths = set() if found else {schema.field("logits").type.list_size for schema in schemas}
    if len(widths) > 1:
        found.append(
            Problem(
                "logits",
                f"widths {sorted(widths)} in one audit; in class removal drop the forgotten classes from every model",
            )
        )
    elif not found and len({str(logit_classes(schema.empty_table())) for schema in schemas}) > 1:
        found.append(Problem("logits", "tables differ in which class each column is; store the same classes with all"))
    elif not found and any(len(logit_classes(s.empty_table()) or [0] * min(widths)) != min(widths) for s in schemas):
        found.append(
            Problem("logits", f"{min(widths)} columns, but the table names another number of classes for them")
        )
    elif widths and min(widths) < 2:
        found.append(Problem("logits", f"{min(widths)} classes; at least 2 are needed"))
    return found


def _values(survey: Survey) -> list[Problem]:
    found = []
    for name, allowed in (("role", ROLES), ("fold", FOLDS)):
        others = {model[IDENTITY.index(name)] for model in survey.models} - set(allowed)
        if others:
            found.append(Problem(name, f"{min(others)!r} is not allowed; allowed are {', '.join(allowed)}"))
    if survey.not_finite is not None:
        bad = survey.not_finite
        found.append(
            Problem("logits", f"{bad.count} rows hold NaN or infinity, the first {bad}; mend that model's outputs")
        )
    return found


def label_problems(survey: Survey, num_classes: int | None, attacks: Sequence[str]) -> list[Problem]:
    """Checks labels against the classes that the logits have columns for."""
    reading = ", ".join(name for name in attacks if ATTACKS[name].reads_label)
    if survey.outside is not None:
        label, top = survey.outside.label, (num_classes if num_classes is not None else survey.width) - 1
        where = f"{label} ({survey.outside}) lies outside 0 … {top}"
        if label < 0:
            fix = "labels count from 0"
        elif num_classes is not None:
            fix = f"num_classes (--num-classes) is {num_classes}; give {int(survey.label_of.max()) + 1} or more"
        else:
            fix = f"where columns of classes were dropped, {HOW_MANY}"
        return [Problem("label", f"{where}; {fix}")]
    if survey.classes is not None and reading and survey.dropped is not None:
        return [
            Problem(
                "attacks",
                f"{reading} read the label's own logit, and class {survey.dropped.label} was dropped; "
                f"use {' or '.join(label_free())}",
            )
        ]
    if survey.classes is None and num_classes is not None and num_classes > survey.width and reading:
        return [
            Problem(
                "attacks",
                f"{reading} read the label's own logit, and only {survey.width} of {num_classes} "
                f"classes have a column; use {' or '.join(label_free())}, or store the columns' classes with the table",
            )
        ]
    return []


def _misfits(sets: Mapping[str, Source], width: int) -> list[Problem]:
    """Returns the labels of retain and unseen images that have no column: classes were dropped, and
    nobody said so.

    All models have the same samples, so one role's are looked at.
    """
    found = []
    for name, source in sets.items():
        largest = (pc.max(piece["label"]).as_py() for piece in source.pieces(roles=["retrained"]))
        top = max((label for label in largest if label is not None), default=0)
        if top >= width:
            found.append(
                Problem(
                    "label",
                    f"{top} in set {name} lies outside 0 … {width - 1}, so classes were dropped from the logits; "
                    f"{HOW_MANY}, or store the columns' classes with the table",
                )
            )
    return found


def _identity(survey: Survey) -> list[Problem]:
    """Checks that a model is in one fold only."""
    folds: dict[tuple[str, ...], set[str]] = {}
    for model in survey.models:
        folds.setdefault(model[:4], set()).add(model[4])
    for who, in_folds in sorted(folds.items()):
        if len(in_folds) > 1:
            text = f"{who[0]} model {who[3]!r} is in folds {', '.join(sorted(in_folds))}; split by model, never by row"
            return [Problem("fold", text)]
    return []


def _models(survey: Survey, attacks: Sequence[str]) -> list[Problem]:
    """Checks that there are models of each role, in each fold that the attacks read."""
    found: list[Problem] = []
    counts: dict[tuple[str, str], int] = {}
    models = [dict(zip(IDENTITY, model, strict=True)) for model in survey.models]
    for model in models:
        counts[model["role"], model["fold"]] = counts.get((model["role"], model["fold"]), 0) + 1

    # Every attack is measured against retrained models that it has not seen.
    have = counts.get(("retrained", "test"), 0)
    if not have:
        found.append(Problem("role", f"{have} retrained models in fold test; the audit needs at least 1"))
    if not counts.get(("unlearned", "test")) and not counts.get(("original", "test")):
        found.append(Problem("role", "no unlearned and no original models in fold test: there is nothing to audit"))
    return [*found, *_lacking(models, attacks)]


def _lacking(models: Sequence[dict[str, str]], attacks: Sequence[str]) -> list[Problem]:
    """Checks that there are as many models of each role and fold as the attacks say that they
    need."""
    # what there is, and the least → the attacks that need it
    lacking: dict[tuple[str, int], list[str]] = {}
    for name in attacks:
        for (role, fold), least in ATTACKS[name].needs.items():
            folds = FITTED_FOLDS if fold == FITTED else (fold,)
            where = f"folds {fold}" if fold == FITTED else f"fold {fold}"
            for who, count in _counted(models, role, folds).items():
                if count < least:
                    lacking.setdefault((f"{count} {who} in {where}", least), []).append(name)
    found = []
    for (have, least), names in lacking.items():
        needing = f"{', '.join(names)} {'needs' if len(names) == 1 else 'need'}"
        hint = ": unlearn the train and validation originals too" if " unlearned " in have else ""
        found.append(Problem("role", f"{have}; {needing} at least {least}{hint}"))
    return found


def _counted(models: Sequence[dict[str, str]], role: str, folds: Sequence[str]) -> dict[str, int]:
    """Returns how many models of the role are in these folds; unlearned ones for each method and
    setting."""
    if role != "unlearned":
        return {f"{role} models": sum(m["role"] == role and m["fold"] in folds for m in models)}
    mine = [m for m in models if m["role"] == role and m["method"] != "retrain"]
    pools = sorted({(m["method"], m["params"]) for m in mine})
    return {
        f"unlearned models of {method} {params}": sum(
            (m["method"], m["params"]) == (method, params) and m["fold"] in folds for m in mine
        )
        for method, params in pools
    }


def _order(survey: Survey) -> list[Problem]:
    """Checks each model's sample ids: each once, ascending, the same for every model, with one
    label each."""
    found = []
    models, ids, samples = survey.model_of, survey.sample_of, survey.samples
    if survey.regular:
        return _order_of_regular(survey)
    places = survey.cells % len(samples)
    label_of = np.zeros(len(samples), dtype=np.int64)
    label_of[places] = survey.label_of
    disagreeing = ids[label_of[places] != survey.label_of]
    if len(disagreeing):
        found.append(_disagreement(survey, int(disagreeing.min())))
    _, first = np.unique(survey.cells, return_index=True)
    duplicates = len(ids) - len(first)
    if duplicates:
        again = np.ones(len(ids), dtype=bool)
        again[first] = False
        where = _row_name(survey, int(np.flatnonzero(again)[0]))
        found.append(
            Problem("sample_id", f"{duplicates} rows are duplicates, the first {where}; give each (model, sample) once")
        )
    contiguous = int(np.count_nonzero(np.diff(models))) == len(survey.models) - 1
    stable = None if contiguous else np.argsort(models, kind="stable")
    own, theirs = (models, ids) if stable is None else (models[stable], ids[stable])
    falling = (np.diff(own) == 0) & (np.diff(theirs) < 0)
    if falling.any():
        row = int(np.flatnonzero(falling)[0]) + 1
        where = _row_name(survey, row if stable is None else int(stable[row]))
        found.append(
            Problem("sample_id", f"not ascending within a model, the first {where}; the audit sorts by id", fatal=False)
        )
    present = np.bincount(models)
    short = np.flatnonzero(present < len(samples))
    if len(short) and not duplicates:
        found.append(
            Problem(
                "sample_id",
                f"{len(short)} models lack samples that others have, the first is model {survey.models[short[0]][3]!r} "
                f"with {int(present[short[0]])} of {len(samples)}; measure every model on the same forget set",
            )
        )
    return found


def _order_of_regular(survey: Survey) -> list[Problem]:
    """As `_order`, where all models are known to have the same samples, once each and in the same
    order: most outputs."""
    found = []
    count = len(survey.models)
    labels, ids = survey.label_of.reshape(count, -1), survey.sample_of.reshape(count, -1)[0]
    disagreeing = {int(ids[mine != labels[0]].min()) for mine in labels if not np.array_equal(mine, labels[0])}
    if disagreeing:
        found.append(_disagreement(survey, min(disagreeing)))
    falling = np.flatnonzero(np.diff(ids) < 0)
    if len(falling):
        where = _row_name(survey, int(falling[0]) + 1)
        found.append(
            Problem("sample_id", f"not ascending within a model, the first {where}; the audit sorts by id", fatal=False)
        )
    return found


def _disagreement(survey: Survey, sample: int) -> Problem:
    """Returns the problem of a sample with two labels, with the first row of either."""

    def said(row: int) -> str:
        role, _, _, model, _ = survey.models[survey.model_of[row]]
        return f"{survey.label_of[row]} in {role} model {model!r}"

    rows = np.flatnonzero(survey.sample_of == sample)
    other = rows[survey.label_of[rows] != survey.label_of[rows[0]]][0]
    text = f"sample_id {sample} is {said(rows[0])}, and {said(other)}; give a sample one label everywhere"
    return Problem("label", text)


def _row_name(survey: Survey, row: int) -> str:
    return f"sample_id {int(survey.sample_of[row])} of model {survey.models[survey.model_of[row]][3]!r}"
