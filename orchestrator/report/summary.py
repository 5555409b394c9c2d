"""What the numbers mean, in sentences: the opening of the page. Every claim is computed from the
rows and their intervals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from attack.metrics.evidence import LEAST_MODELS
from attack.metrics.measure import Measure

from . import words
from .rows import Report, ResultRow


@dataclass(frozen=True)
class Card:
    """A method's best row: the verdict, and sentences on forgetting, cost and speed."""

    word: words.Verdict
    symbol: str
    title: str
    sentences: tuple[str, ...]


def headline(report: Report) -> str:
    """Returns the one sentence that says how it went."""
    rows = [row for row in report.rows if not row.baseline]
    if not rows:
        return "No unlearning method was run; the reference rows show what the attack can see."
    if report.few is not None:
        return " ".join([_too_few(report.few), *_strongest(report, rows)])
    counts: Counter[str] = Counter(report.judgements[row.index].word for row in rows)
    return " ".join([_counted(rows[0].label, counts), *_strongest(report, rows)])


def _too_few(models: int) -> str:
    """Says once for the whole page why there are no verdicts."""
    return (
        f"Too few models for any verdict: {words.count(models, 'independent model')} on a side. "
        f"Give each side {LEAST_MODELS} or more."
    )


def _counted(label: str, counts: Counter[str]) -> str:
    """Returns how many settings each word was said of."""
    number = counts.total()
    if len(counts) == 1:
        word = next(iter(counts))
        everyone, one = (label, True) if number == 1 else (f"All {number} unlearning settings", False)
        said = {
            "forgot": "forgot the forget set: every attack that sees anything is within the tolerance of retraining",
            "remembers": f"still {'remembers' if one else 'remember'} the forget set",
            "over-unlearned": f"{'is' if one else 'are'} over-unlearned: forget samples stand out by too little confidence",
            "damaged": f"{'is' if one else 'are'} damaged: unseen images lost confidence as forget samples did",
            "undecided": f"{'remains' if one else 'remain'} undecided: these models and attacks do not suffice to tell",
            "failed": "failed",
        }
        return f"{everyone} {said[word]}."
    parts = {
        "forgot": "forgot",
        "remembers": "still {} the forget set",
        "over-unlearned": "over-unlearned",
        "damaged": "damaged",
        "undecided": "could not be decided",
        "failed": "failed",
    }
    said_parts = [
        f"{counts[word]} {text.format('remembers' if counts[word] == 1 else 'remember')}"
        for word, text in parts.items()
        if counts[word]
    ]
    return f"Of {number} unlearning settings, {words.listed(said_parts)}."


def _strongest(report: Report, rows: Sequence[ResultRow]) -> list[str]:
    """Names the attack that tells any setting's models from retrained ones best, whatever its
    word."""
    found = [
        (abs(leak.auc - leak.retrain_auc), leak, row.label)
        for row in rows
        if (verdict := report.judgements[row.index].verdict) is not None
        for leak in verdict.leaks
        if leak.sees
    ]
    if not found:
        return []
    _, leak, label = max(found, key=lambda one: one[0])
    name = words.attack_name(leak.attack)
    return [f"The strongest attack is {name}: AUC {leak.auc:.3f} on {label}, where Retrain has {leak.retrain_auc:.3f}."]


def cards(report: Report) -> list[Card]:
    """Returns one card for each method, in table order."""
    groups: dict[str, list[ResultRow]] = {}
    for row in report.rows:
        if not row.baseline:
            groups.setdefault(row.method, []).append(row)
    return [_card(report, rows) for rows in groups.values()]


def _card(report: Report, rows: Sequence[ResultRow]) -> Card:
    row = report.best_of(rows) or rows[0]
    judgement = report.judgements[row.index]
    sentences = [judgement.sentence if judgement.word != "failed" else f"Failed: {judgement.sentence}"]
    if report.few is not None and judgement.word == "undecided":
        sentences = []  # the headline says why, once
    if row.done:
        sentences += [text for text in (_errors(report, row), _speed(row)) if text]
    if len(rows) > 1 and row.done:
        forgot = sum(report.judgements[each.index].word == "forgot" for each in rows)
        how = "forgot with the least test error" if judgement.word == "forgot" else "came nearest to AUC 0.5"
        sentences.append(
            f"Of {len(rows)} settings {forgot or 'none'} forgot; this is the one that {how}, picked on these very numbers and so a little flattered."
        )
    return Card(judgement.word, words.VERDICTS[judgement.word][0], row.label, tuple(sentences))


def _errors(report: Report, row: ResultRow) -> str:
    """Says what forgetting cost, against retraining."""
    test = row.value("error_test")
    if test is None:
        return ""
    text = f"Test error {words.number(test, 'percent')} %"
    retrain = report.method("retrain")
    if retrain is not None and retrain.value("error_test") is not None:
        apart = row.row["error_test"] - retrain.row["error_test"]
        text += f" against {words.number(retrain.value('error_test'), 'percent')} % of retraining ({_points(apart)})"
        if apart.interval:
            text += _weighed(apart.interval)
    forget = row.value("error_forget")
    if forget is not None:
        text += f"; error on the forget set {words.number(forget, 'percent')} %"
        if retrain is not None and retrain.value("error_forget") is not None:
            text += f" where retraining has {words.number(retrain.value('error_forget'), 'percent')} %"
    return text + "."


def _weighed(bounds: Sequence[float]) -> str:
    return (
        ", a real cost"
        if bounds[0] > 0
        else ", a real gain"
        if bounds[1] < 0
        else ", no cost that these models can show"
    )


def _points(apart: Measure) -> str:
    text = f"{words.signed(apart.value or 0.0, 'percent')} points"
    ends = [words.signed(end, "percent") for end in apart.interval or ()]
    return f"{text} [{', '.join(ends)}]" if ends else text


def _speed(row: ResultRow) -> str:
    seconds, speedup = row.value("seconds_per_model"), row.value("speedup_vs_retrain")
    if seconds is None:
        return ""
    text = f"{words.duration(seconds)} a model"
    if speedup is None:
        return text + "."
    if 0.95 <= speedup <= 1.05:
        return f"{text}, as long as retraining."
    return f"{text}, {words.number(speedup, 'times')} the speed of retraining" + (
        ": slower than starting over." if speedup < 1 else "."
    )


def _of_retrain(report: Report, retrain: ResultRow | None) -> list[tuple[bool, str]]:
    """Says first whether the yardstick is straight: everything else is measured by it."""
    if retrain is None:
        missing = any(not row.baseline for row in report.rows)
        text = "There is no finished Retrain row, so errors and leaks have nothing to be compared with."
        return [(True, text)] if missing else []
    judgement = report.judgements[retrain.index]
    if judgement.verdict is None or retrain.value(report.primary) is None:
        return []
    shown = f"Models retrained without the forget set stand at AUC {retrain.text(report.primary)}"
    if judgement.word == "forgot":
        return [(False, f"{shown}: the yardstick is straight, and its width is what chance alone does.")]
    return [(True, f"{shown}. {judgement.verdict.reason}. No row is called forgotten on a crooked yardstick.")]


def _of_no_unlearning(report: Report, before: ResultRow | None) -> list[tuple[bool, str]]:
    """Says what there was to forget, and which attacks see nothing of it."""
    if before is None or before.value(report.primary) is None:
        return []
    shown = f"Before unlearning the attack reaches AUC {before.text(report.primary)}"
    if report.powerless:
        text = (
            f"{shown}. No attack recognises even models that were never unlearned, so nothing can be decided. "
            "Train longer, forget more samples, or use more shadow models."
        )
        return [(True, text)]
    verdict = report.judgements[before.index].verdict
    blind = [] if verdict is None else [words.attack_name(leak.attack) for leak in verdict.leaks if not leak.sees]
    found = [(False, f"{shown}: this is what there was to forget.")]
    if blind:
        sees = "sees" if len(blind) == 1 else "see"
        found.append((True, f"{words.listed(blind)} {sees} nothing even before unlearning, and so decides nothing."))
    return found


def yardsticks(report: Report) -> list[tuple[bool, str]]:
    """Returns what the reference rows say about how far the verdicts carry, as (needs attention,
    sentence)."""
    retrain, before = report.method("retrain"), report.method("no_unlearn")
    found = [*_of_retrain(report, retrain), *_of_no_unlearning(report, before)]
    if report.auc_names == ("auc",):
        found.append(
            (
                False,
                "Only the population attack was run: one classifier for all samples. Attacks on single samples "
                "(LiRA, U-LiRA, RMIA) can find what it overlooks.",
            )
        )
    elif len(report.auc_names) > 1:
        names = words.listed([words.attack_name(report.attack_of(n)) for n in report.auc_names])
        found.append((False, f"{names} were run. Forgotten means all of them; one that succeeds breaks the claim."))
    models = sorted({row.models for row in report.rows if row.done and row.models})
    if models:
        found.append(
            (
                False,
                f"Each number is over {'to '.join(f'{m} ' for m in ([models[0], models[-1]] if len(models) > 1 else models))}model{'s' if models[-1] > 1 else ''} under test that the attacker was not fitted on.",
            )
        )
    return found


def failures(report: Report) -> list[tuple[str, str]]:
    """Returns (row, reason) for rows that failed."""
    return [(row.label, row.error) for row in report.rows if not row.done]


def remarks(report: Report) -> list[tuple[str, str]]:
    """Returns (where, remark): notes of rows and of the run. Notes that differ in their numbers
    only are told once."""
    found: list[tuple[str, str]] = []
    for row in report.rows:
        notes = list(row.row.notes)
        for name, attack in row.row.attacks.items():
            notes += [f"{words.attack_name(name)}: {note}" for note in attack.notes]
        found += [(row.label, text) for text in _grouped(notes)]
    merged: dict[str, list[str]] = {}
    for where, text in found:
        merged.setdefault(text, []).append(where)
    run, split = report.environment.get("notes") or [], report.environment.get("split")
    told = [*_grouped(run), *map(words.clean, split.get("notes", []) if split else [])]
    general = [("run", text) for text in dict.fromkeys(told)]
    return general + [
        (words.listed(rows) if len(rows) <= 4 else f"{', '.join(rows[:3])} and {len(rows) - 3} more rows", text)
        for text, rows in merged.items()
    ]


def _grouped(notes: Sequence[object]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for note in notes:
        text = words.clean(note)
        groups.setdefault(re.sub(r"\d+(\.\d+)?(e-?\d+)?", "#", text), []).append(text)
    return [
        texts[0] if len(set(texts)) == 1 else f"{texts[0]} (and {words.count(len(texts) - 1, 'model')} more like it)"
        for texts in groups.values()
    ]
