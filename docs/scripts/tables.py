"""Writes the tables of measured results into pages: `python docs/scripts/tables.py [--check]`.

A page holds a table between `<!-- generated: NAME -->` and `<!-- end -->`. NAME is a key of `TABLES`.
With `--check` nothing is written, and the exit code is 1 where a page is not up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "docs" / "results"
PAGES = ("README.md", "docs/index.md", "docs/tutorials/first-experiment.md", "docs/how-to/reproduce.md")
_MARKED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    """Returns a Markdown table whose first `left` columns are aligned to the left."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "".join("| " + " | ".join(line) + " |\n" for line in (head, rule, *rows))


def demo() -> str:
    """Returns the demo's table: method, AUC, test error, speed-up and verdict."""
    lines = [line for line in (RESULTS / "demo" / "results.md").read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("**", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    places = {name: place for place, name in enumerate(cells[0])}
    rows = []
    for row in cells[2:]:
        if not row[places["Verdict"]]:
            continue  # the heading of a group
        settings = row[places["Parameters"]]
        name = row[places["Method"]] + (f", {settings}" if settings else "")
        rows.append([name, *(row[places[column]] for column in ("AUC", "Error test (%)", "Speed-up", "Verdict"))])
    return table(["method", "attack AUC", "test error %", "speed-up", "verdict"], rows)


def paper() -> str:
    """Returns Table 2, published beside measured, and how many claims hold."""
    document = json.loads((RESULTS / "reproduce-mini" / "reproduce.json").read_text())
    items = {item["item"]: item for item in document["items"]}
    places = {name: place for place, name in enumerate(items["table2"]["columns"])}
    wanted = ("published PGU", "measured PGU", "published EU-k", "measured EU-k")
    rows = [[row[0], *(_number(row[places[column]]) for column in wanted)] for row in items["table2"]["rows"]]
    claims = [claim for item in document["items"] for claim in item["claims"]]
    ours, published = (Counter(claim[rule] for claim in claims) for rule in ("verdict", "by_auc"))
    return table(["updated", *wanted], rows) + f"\n{_claims(ours, published)}\n"


def _number(cell: float | dict[str, object]) -> str:
    if isinstance(cell, dict):
        low, high = cell["ci"]  # type: ignore[misc]
        return f"{cell['value']:.3f} [{low:.3f}, {high:.3f}]"
    return f"{cell:.3f}"


def _claims(ours: Counter[str], published: Counter[str]) -> str:
    said = [(count["holds"], count["does not hold"]) for count in (ours, published)]
    total = ours.total()
    return (
        f"Of the paper's {total} claims, {said[0][0]} hold at this size, {said[0][1]} do not, and "
        f"{total - sum(said[0])} cannot be\nmeasured at it. "
        f"By the AUC alone, as the paper judges, {said[1][0]} hold\nand {said[1][1]} do not."
    )


def box() -> str:
    """Returns what can be named in a recipe, from the registries."""
    import attack
    import unlearn
    from attack.distances.base import DIVERGENCES
    from orchestrator.report import words

    titles = [method.card.title for method in unlearn.METHODS.values()]
    rows = {
        "methods": sorted(titles, key=lambda title: (title != "PGU", title.lower())),
        "attacks": [words.attack_name(name) for name in attack.ATTACKS],
        "distances": [f"`{name}`" for name in DIVERGENCES],
        "data": [f"`{name}`" for name in unlearn.SOURCES],
        "models": [*(f"`{name}`" for name in unlearn.MODELS), "torchvision's classifiers", "your own"],
    }
    return table(["", ""], [[name, " · ".join(found)] for name, found in rows.items()], left=2)


TABLES: dict[str, Callable[[], str]] = {"demo": demo, "paper": paper, "box": box}


def filled(text: str) -> str:
    """Returns a page with its generated tables as they should be."""
    return _MARKED.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)


def main() -> int:
    """Writes the pages, or checks them; returns the exit code."""
    stale = [name for name in PAGES if filled((ROOT / name).read_text()) != (ROOT / name).read_text()]
    if "--check" not in sys.argv[1:]:
        for name in stale:
            (ROOT / name).write_text(filled((ROOT / name).read_text()))
    print("\n".join(stale) if stale else "all up to date")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
