"""The page: one self-contained HTML file. Words come from `summary`, the look from `page.html` and
`page.css`."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Sequence

from markupsafe import Markup, escape

from attack.metrics.row import Attacker

from ..base.values import Object, Record
from ..base.yaml_text import dump
from . import collateral, summary, tables, words
from .details import details
from .figures.drawing import Drawing
from .rows import Report
from .stories import stories
from .templates import render

LONG_TABLE = 14
STAGES = {
    "train": "training shadow models",
    "moments": "second moments",
    "unlearn": "unlearning",
    "outputs": "outputs on the forget set",
    "attack": "fitting attackers",
    "score": "scoring",
    "report": "report",
}


def page(report: Report, drawings: Sequence[Drawing]) -> str:
    """Returns `report.html`. All texts are escaped; nothing in it loads anything from elsewhere."""
    csv = base64.b64encode(tables.to_csv(report).encode("utf-8", "replace")).decode()
    told = stories(report)
    values = dict(
        title=report.name,
        description=words.clean(report.recipe.get("description") or ""),
        facts=_facts(report),
        questions=[words.clean(text) for text in report.environment.get("questions") or []],
        headline=summary.headline(report),
        cards=summary.cards(report),
        yardsticks=summary.yardsticks(report),
        head=tables.columns(report)[0],
        rows=_rows(report),
        long=len(report.rows) > LONG_TABLE,
        table_notes=[note.replace("Bold,", "Marked ●,") for note in tables.notes(report)],
        verdicts=_verdicts(report),
        details=details(report),
        hurt=collateral.sentences(report),
        hurt_tables=collateral.tables(report),
        stories=told,
        filters=[
            ("class", list(dict.fromkeys(story.label for story in told))),
            ("method", list(dict.fromkeys(row for story in told for row in story.rows))),
            ("attack", list(dict.fromkeys(attack for story in told for attack in story.attacks))),
        ],
        csv=Markup(f"data:text/csv;charset=utf-8;base64,{csv}"),
        figures=[
            {
                "id": drawing.figure.name,
                "title": drawing.figure.title,
                "caption": drawing.figure.caption,
                "wide": len(drawing.panels) > 1,
                "panels": [Markup(panel) for panel in drawing.panels],
            }
            for drawing in drawings
        ],
        measured=_measured(report),
        settings=_settings(report),
        recipe=_yaml(report.recipe),
        command=f"orchestrator run recipe.yaml --output {shlex.quote('runs/' + report.name)}",
        commit=words.clean((report.environment.get("git") or {}).get("commit") or ""),
        failures=summary.failures(report),
        remarks=summary.remarks(report),
        glossary=words.GLOSSARY,
        version=words.clean((report.environment.get("versions") or {}).get("unlearning-orchestrator") or ""),
    )
    return render("page.html", values, {"subscript": _subscript})


def _subscript(text: str) -> Markup:
    """Returns text, escaped, with D_f and D_r as mathematicians write them."""
    return Markup(re.sub(r"\bD_([a-z])\b", r"D<sub>\1</sub>", str(escape(text))))


def _rows(report: Report) -> list[dict[str, object]]:
    shown, _ = tables.columns(report)
    found = []
    for heading, row in tables.in_groups(report):
        judgement = report.judgements[row.index]
        cells = []
        for metric in shown:
            value, bounds, marked = tables.cell(report, row, metric)
            raw = row.value(metric.name)
            if not row.done and raw is None:
                value = ""
            cells.append(
                {"value": value, "bounds": bounds, "marked": marked, "raw": "" if raw is None else repr(float(raw))}
            )
        found.append(
            {
                "group": f"sees {heading}" if heading else "",
                "method": row.title,
                "short": row.short,
                "full": words.parameters_text(row.params, limit=2000),
                "baseline": row.baseline,
                "cells": cells,
                "word": judgement.word,
                "symbol": words.VERDICTS[judgement.word][0],
                "error": "" if row.done else row.error,
            }
        )
    return found


def _verdicts(report: Report) -> list[tuple[str, str, str]]:
    present = {judgement.word for judgement in report.judgements}
    return [(word, symbol, meaning) for word, (symbol, meaning) in words.VERDICTS.items() if word in present]


def _facts(report: Report) -> list[str]:
    """Returns the one-line facts under the title."""
    recipe, data = report.recipe, report.environment.get("dataset") or {}
    found = [
        str(data.get("name") or (recipe.get("dataset") or {}).get("source") or ""),
        _model(report),
        _scenario(report),
    ]
    if recipe.get("seed") is not None:
        found.append(f"seed {recipe['seed']}")
    names = [str(name) for name in data.get("class_names") or []]
    if names and not all(name.isdecimal() for name in names):
        gone = [
            names[c]
            for c in (recipe.get("scenario") or {}).get("classes") or []
            if isinstance(c, int) and c < len(names)
        ]
        found.append(f"forgets {', '.join(gone)}" if gone else f"classes {', '.join(names)}")
    return [words.shorten(words.clean(text), 80) for text in found if text]


def _model(report: Report) -> str:
    model = report.recipe.get("model") or {}
    rest = words.parameters_text({k: v for k, v in model.items() if k != "name"})
    return f"{model['name']} ({rest})" if model.get("name") and rest else str(model.get("name") or "")


def _scenario(report: Report) -> str:
    scenario = report.recipe.get("scenario") or {}
    kind = scenario.get("kind")
    size = (report.environment.get("split") or {}).get("forget")
    total = words.count(size, "sample") if isinstance(size, int) else "samples"
    if kind == "samples" and scenario.get("per_class") is not None:
        return f"forget {total} ({scenario['per_class']} per class{_chosen(scenario)})"
    if kind == "samples" and scenario.get("fraction") is not None:
        return f"forget {total} ({scenario['fraction']:.3g} of the training data{_chosen(scenario)})"
    if kind == "samples" and scenario.get("where"):
        where = ", ".join(f"{key} {words.value_text(value)}" for key, value in scenario["where"].items())
        return f"forget {total} (where {where})"
    if kind == "samples" and scenario.get("duplicates_of"):
        return f"forget {total} (named by id, with near-identical images)"
    if kind == "samples" and scenario.get("ids"):
        return f"forget {total} (named by id)"
    if kind == "classes":
        return f"forget classes {words.value_text(scenario.get('classes'))} ({total})"
    if kind == "poison":
        return f"forget poison: {total} with wrong labels"
    if kind == "incremental" and scenario.get("requests"):
        return f"forget {total} request by request, from {scenario['requests']}"
    if kind == "incremental":
        return f"forget step by step, {scenario.get('step')} per class in each of {scenario.get('steps')} steps"
    return f"forget {total}" if isinstance(size, int) else ""


def _chosen(scenario: Record) -> str:
    """Says by what score samples were chosen; nothing where they were not."""
    select = scenario.get("select")
    return f", {select.get('order', 'highest')} {select.get('by')}" if isinstance(select, dict) else ""


def _measured(report: Report) -> list[tuple[str, list[str]]]:
    """Returns (term, lines) of how the numbers came about; what the results do not say is left
    out."""
    recipe, facts = report.recipe, report.environment
    data, split = facts.get("dataset") or {}, facts.get("split") or {}
    found: list[tuple[str, list[str]]] = []

    def add(term: str, *lines: str) -> None:
        kept = [words.clean(line) for line in lines if line]
        if kept:
            found.append((term, kept))

    if data:
        sizes = f"{_n(data, 'train')} training and {_n(data, 'test')} test images, {_n(data, 'classes')} classes"
        add("Data set", f"{data.get('name')}: {sizes}", _digest("content", data))
    if split:
        sizes = ", ".join(f"{name} {_n(split, name)}" for name in ("forget", "retain", "val", "test") if name in split)
        note = "drawn from the seed before any training; val decides early stops only, test is what is reported"
        add("Split", f"{sizes}: {note}", _digest("split", split))
    add("Scenario", _scenario(report))
    add("Model", _model(report))
    add("Training", words.parameters_text(recipe.get("training") or {}, limit=400))
    shadows = recipe.get("shadows") or {}
    if shadows:
        parts = shadows.get("split") or []
        folds = (
            f", split by model {'/'.join(str(n) for n in parts)} into attacker training / validation / test"
            if parts
            else ""
        )
        add("Shadow models", f"{shadows.get('originals')} originals and {shadows.get('retrained')} retrained{folds}")
    for name, attack in _attacks(report).items():
        path = {"in_process": "in one process", "distributed": "distributed by Ray Train"}.get(attack.path, "")
        rows, f1 = attack.rows, attack.validation_f1
        line = (
            f"{words.attack_name(name)}"
            + (f", fitted {path}" if path else "")
            + (f" on {rows:,} outputs" if isinstance(rows, int) else "")
        )
        tuned = f"; F1 {f1:.3f} on validation models" if isinstance(f1, int | float) else ""
        add("Attack", line + tuned, words.parameters_text(attack.params, limit=400))
    add("Intervals", "95 %, over models; the fitted attacker, the split and the data are held fixed")
    if recipe.get("seed") is not None:
        add("Seed", f"{recipe['seed']}; training, unlearning and attack draw from streams of their own")
    stages = report.results.get("stages") or {}
    if stages:
        add(
            "Wall time",
            ", ".join(f"{STAGES.get(name, name)} {words.duration(seconds)}" for name, seconds in stages.items())
            + " (over all invocations)",
        )
    work = facts.get("work") or {}
    if work:
        add(
            "Work",
            f"{work.get('units_executed', 0):,} units executed and {work.get('units_reused', 0):,} reused by the invocation that wrote this",
        )
    hardware = facts.get("hardware") or {}
    names = {"where": "", "gpu": "GPU ", "gpus": "GPUs ", "cpus": "CPUs ", "python": "Python ", "machine": ""}
    add(
        "Hardware",
        ", ".join(
            f"{names.get(k, k + ' ')}{words.value_text(v, 120)}" for k, v in hardware.items() if v not in (None, "", [])
        ),
    )
    versions = facts.get("versions") or {}
    add("Versions", ", ".join(f"{k} {v}" for k, v in versions.items()))
    git = facts.get("git") or {}
    if git.get("commit"):
        add("Code", f"commit {git['commit']}" + (", with changes that were not committed" if git.get("dirty") else ""))
    return found


def _n(of: Record, name: str) -> str:
    value = of.get(name)
    return f"{value:,}" if isinstance(value, int) else "?"


def _digest(what: str, of: Record) -> str:
    return f"{what} SHA-256 {of['digest']}" if of.get("digest") else ""


def _attacks(report: Report) -> dict[str, Attacker]:
    """Returns what is known of each attack, from the first row that it was run on."""
    found: dict[str, Attacker] = {}
    for row in report.rows:
        for name, attack in row.row.attacks.items():
            found.setdefault(name, attack)
    if not found and report.environment.get("attack"):
        found[report.attack_of(report.primary)] = Attacker.from_json(report.environment["attack"])
    return found


def _settings(report: Report) -> list[tuple[str, str]]:
    """Returns (method, parameters that all of its rows share)."""
    found: dict[str, str] = {}
    for row in report.rows:
        if not row.baseline and row.params:
            shared = [name for name in row.params if name not in row.varying]
            swept = f"; varied: {', '.join(words.parameter_name(name) for name in row.varying)}" if row.varying else ""
            found.setdefault(row.title, words.parameters_text(row.params, shared, limit=600) + swept)
    return list(found.items())


def _yaml(recipe: Object) -> str:
    return dump(dict(recipe), width=110) if recipe else ""
