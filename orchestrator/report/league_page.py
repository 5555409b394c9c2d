"""The page of a league and its other files, from `league.json` alone."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from ..base.documents import LeagueDocument, LeagueRow, Tuned
from ..base.files import write_synced
from . import league_tables, templates, words
from .figures.drawing import Drawing, render
from .figures.league import league_figures

FILE = "league.json"
PAGE = "league.html"
SCHEMA_VERSION = 1


def read_league(folder: Path) -> LeagueDocument | None:
    """Returns the league that lies in a folder; None where there is none that can be read."""
    try:
        document: LeagueDocument = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document.get("schema") == SCHEMA_VERSION else None


def write_league(folder: Path) -> list[Path]:
    """Writes page, tables and figures of the league in `folder`; returns the files written, none
    where there is no league."""
    document = read_league(folder)
    if document is None:
        return []
    drawings = [render(figure) for figure in league_figures(document)]
    content: dict[Path, str | bytes] = {
        folder / "tables" / f"league.{ending}": write(document) for ending, write in league_tables.FORMATS.items()
    }
    content |= {folder / name: made for drawing in drawings for name, made in drawing.files.items()}
    content[folder / PAGE] = page(document, drawings)
    for path, text in content.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
    return list(content)


def page(document: LeagueDocument, drawings: Sequence[Drawing]) -> str:
    """Returns the page: one file that loads nothing from elsewhere. All texts are escaped."""
    csv = base64.b64encode(league_tables.to_csv(document).encode("utf-8", "replace")).decode()
    plane, tuning = drawings
    names = {row["method"]: words.clean(row["title"]) for row in document["rows"]}
    present = list(dict.fromkeys(row["group"] for row in document["rows"]))
    values = dict(
        title=words.clean(document["recipe"]),
        facts=_facts(document),
        headline=headline(document),
        plane={
            "title": plane.figure.title,
            "caption": plane.figure.caption,
            "panel": Markup(plane.panels[0]),
        },
        cautions=[words.clean(text) for text in document["cautions"]],
        groups=[(name, _group(name)) for name in present if name != league_tables.REFERENCE],
        head=[
            ("Place", False),
            ("Method", False),
            ("Sees", False),
            *((league_tables.heading(column), True) for column in document["columns"]),
            ("Spread", True),
            ("Worst model", False),
            ("Verdict", False),
        ],
        bodies=[
            {
                "name": name,
                "title": _group(name),
                "rows": [_row(document, row) for row in document["rows"] if row["group"] == name],
            }
            for name in present
        ],
        notes=[*map(words.clean, document["notes"]), league_tables.BAND_NOTE],
        csv=Markup(f"data:text/csv;charset=utf-8;base64,{csv}"),
        tuning={
            "title": tuning.figure.title,
            "caption": tuning.figure.caption,
            "panels": [Markup(panel) for panel in tuning.panels],
        },
        spent=[_spent(each) for each in document["tuned"]],
        pairs=[
            f"{_named(pair['better'], names)} is nearer to Retrain than {_named(pair['worse'], names)} "
            f"(p = {pair['adjusted']:.2g} after Holm, look {pair['look']})"
            for pair in document["pairs"]
        ],
        compared=document["compared"],
    )
    return templates.render(PAGE, values)


def headline(document: LeagueDocument) -> str:
    """Returns the outcome in a sentence or two."""
    names = {row["method"]: words.clean(row["title"]) for row in document["rows"]}
    ranked = [row for row in document["rows"] if row["rank"] is not None]
    better = [row for row in ranked if row["beats_nothing"]]
    placed = Counter(row["group"] for row in ranked)
    won = [
        f"{names[method]} among methods that {_group(group)}{' (the only one with a place)' if placed[group] == 1 else ''}"
        for group, method in document["winners"].items()
    ]
    winner = (
        f"Nearest to Retrain: {'; '.join(won)}."
        if won
        else "No method is surely nearer to Retrain than all its rivals."
    )
    return f"{winner} {len(better)} of {words.count(len(ranked), 'ranked method')} surely {'does' if len(better) == 1 else 'do'} better than doing nothing."


def _facts(document: LeagueDocument) -> list[str]:
    retrain = next(row for row in document["rows"] if row["method"] == "retrain")
    methods = sum(row["group"] != league_tables.REFERENCE for row in document["rows"])
    bound = document["bound"]
    return [
        words.count(methods, "method"),
        f"{words.count(retrain['models'] or 0, 'model')} under test",
        f"{document['compared']} pairs, corrected after Holm",
        f"ranked by {document['objective']}",
        "no bound" if bound is None else f"test error may rise by {bound:g} points",
    ]


def _group(name: str) -> str:
    return league_tables.GROUPS.get(name, "always there")


def _named(name: str, names: dict[str, str]) -> str:
    return "doing nothing" if name.startswith("no_unlearn") else names.get(name, words.clean(name))


def _row(document: LeagueDocument, row: LeagueRow) -> dict[str, object]:
    cells = []
    for column in document["columns"]:
        cell = row["cells"][column]
        cells.append(
            {
                "value": league_tables.number(cell, column),
                "bounds": league_tables.interval(cell, column),
                "outside": bool(cell["outside"]),
                "raw": "" if cell["value"] is None else repr(float(cell["value"])),
            }
        )
    spread = row["spread"]
    kind = league_tables.kind_of(document["columns"][0])
    early = "stopped early: its place was certain" if row["stopped_early"] else ""
    seeds = "" if spread["seeds"] is None else f", between seeds {words.number(spread['seeds'], kind)}"
    return {
        "place": league_tables.place(row),
        "placed": "no" if row["rank"] is None else "yes",
        "order": "" if row["rank"] is None else row["rank"],
        "title": words.clean(row["title"]),
        "params": words.parameters_text(row["params"] or {}, limit=2000),
        "note": words.clean(row["why"] or early),
        "sees": league_tables.sees(row),
        "cells": cells,
        "spread": "" if spread["models"] is None else f"{words.number(spread['models'], kind)}{seeds}",
        "spread_raw": "" if spread["models"] is None else repr(float(spread["models"])),
        "worst": ""
        if spread["worst_model"] is None or spread["worst_value"] is None
        else f"{words.clean(spread['worst_model'])}: {words.number(spread['worst_value'], kind)}",
        "verdict": row["verdict"].replace("_", "-"),
    }


def _spent(each: Tuned) -> dict[str, object]:
    winner = next((trial for trial in each["trials"] if trial["winner"]), None)
    return {
        "title": words.clean(each["title"]),
        **each["spent"],
        "seconds": f"{each['spent']['seconds']:.0f}",
        "source": "" if winner is None else winner["source"],
        "params": "" if winner is None else words.parameters_text(winner["params"], limit=2000),
        "why": words.clean(each["why"]),
    }
