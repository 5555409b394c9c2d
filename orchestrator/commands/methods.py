"""`orchestrator methods`: every unlearning method, or the card of one."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from unlearn import METHODS
from unlearn.methods.cards import Description, describe, plain

from ..base.errors import UserError, did_you_mean
from ..report.words import sees, sees_in_words
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    if args.name is not None and args.name not in METHODS:
        raise UserError(f"no such method: {args.name!r}{did_you_mean(args.name, METHODS)} (see `orchestrator methods`)")
    found = [describe(name) for name in ([args.name] if args.name else sorted(METHODS))]
    if args.json:
        documents = [asdict(each) for each in found]
        print_json(documents[0] if args.name else documents)
    elif args.name:
        print("\n".join(card_lines(found[0])))
    else:
        print("\n".join(table_lines(found)))
    return 0


def table_lines(methods: list[Description]) -> list[str]:
    """Returns a line for each method: its name, the data that it sees, what it is for, its
    paper, its cost."""
    head = ("method", "sees", "scenarios", "paper", "cost")
    rows = [
        head,
        *((m.name, sees(m.access, m.validation), _scenarios(m), _cited(m.card.paper), m.card.passes) for m in methods),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [" ".join([*(f"{row[c]:<{widths[c]}} " for c in range(4)), row[4]]) for row in rows]
    return [
        *lines,
        "",
        "D_f is the forget set, D_r the retain set. `orchestrator methods NAME` prints formula, settings, presets and source.",
    ]


def card_lines(method: Description) -> list[str]:
    """Returns the card of one method."""
    card = method.card
    lines = [f"{card.title} ({method.name})", "", f"  {card.formula}", ""]
    facts = {
        "paper": card.paper or "none",
        "sees": sees_in_words(method.access, method.validation),
        "scenarios": _scenarios(method),
        "cost": card.passes,
    }
    lines += [f"{name}: {value}" for name, value in facts.items()]
    lines += ["", "settings (default; search range):"]
    for setting in method.settings:
        lines.append(f"  {setting.name}: {setting.shown}" + (f"; {setting.searched}" if setting.searched else ""))
    if method.presets:
        lines += ["", "presets (`preset: NAME` in a recipe):"]
        for name, preset in method.presets.items():
            values = ", ".join(f"{field}: {plain(value)}" for field, value in preset.values.items())
            lines.append(f"  {name}: {{{values}}} ({preset.source})")
    if card.deviations:
        lines += ["", "known deviations:", *(f"  - {each}" for each in card.deviations)]
    return lines


def _cited(paper: str) -> str:
    """Returns the first author, and the place and year or arXiv number."""
    names, _, place = paper.split("; ")[0].rpartition(", ")
    return f"{names.split(',')[0]}, {place}" if names else paper or "none"


def _scenarios(method: Description) -> str:
    return "all" if len(method.scenarios) == 4 else ", ".join(method.scenarios)
