"""`orchestrator methods`: every unlearning method, or the card of one."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from unlearn import METHODS
from unlearn.methods.base import Choice, Range
from unlearn.methods.cards import Description, describe

from ..base.errors import UserError, nearest
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    # Methods bring torch, which takes seconds to import: only once the command is chosen.
    if args.name is not None and args.name not in METHODS:
        near = nearest(args.name, METHODS)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(f"no such method: {args.name!r}{hint} (see `orchestrator methods`)")
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
    """Returns a line for each method: its name, the data that it sees, what it is for, its cost."""
    head = ("method", "data beside the forget set", "scenarios", "cost")
    rows = [head, *((m.name, _data(m), _scenarios(m), m.card.passes) for m in methods)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [" ".join([*(f"{row[c]:<{widths[c]}} " for c in range(3)), row[3]]) for row in rows]
    return [*lines, "", "`orchestrator methods NAME` prints formula, settings, presets and source of one."]


def card_lines(method: Description) -> list[str]:
    """Returns the card of one method."""
    card = method.card
    lines = [f"{card.title} ({method.name})", "", f"  {card.formula}", ""]
    facts = {
        "paper": card.paper or "none",
        "data beside the forget set": _data(method),
        "scenarios": _scenarios(method),
        "cost": card.passes,
    }
    lines += [f"{name}: {value}" for name, value in facts.items()]
    lines += ["", "settings (default; search range):"]
    for setting in method.settings:
        shown = "must be given" if setting.required else _plain(setting.default)
        lines.append(f"  {setting.name}: {shown}{_range(setting.range)}")
    if method.presets:
        lines += ["", "presets (`preset: NAME` in a recipe):"]
        for name, preset in method.presets.items():
            values = ", ".join(f"{field}: {_plain(value)}" for field, value in preset.values.items())
            lines.append(f"  {name}: {{{values}}} ({preset.source})")
    if card.deviations:
        lines += ["", "known deviations:", *(f"  - {each}" for each in card.deviations)]
    return lines


def _data(method: Description) -> str:
    words = {
        "moments": "stored second moments",
        "fisher": "stored Fisher diagonal",
        "retain_share": "a share of the retain set",
        "retain": "the retain set",
    }
    seen = [words[method.access]] if method.access != "forget" else []
    seen += ["validation data"] if method.validation else []
    return " and ".join(seen) or "none"


def _scenarios(method: Description) -> str:
    return "all" if len(method.scenarios) == 4 else ", ".join(method.scenarios)


def _plain(value: object) -> str:
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if value is None or isinstance(value, bool)
        else str(value)
    )


def _range(found: object) -> str:
    if isinstance(found, Range):
        return f"; {found.low:g} to {found.high:g}{', logarithmic' if found.log else ''}"
    return f"; {', '.join(_plain(value) for value in found.values)}" if isinstance(found, Choice) else ""
