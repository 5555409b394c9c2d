"""The verdicts of one recipe under several seeds, side by side, as a Markdown table.

    for seed in 0 1 2; do
      orchestrator run demo --address inline --set seed=$seed --output runs/demo-$seed
    done
    python docs/scripts/seeds.py runs/demo-0 runs/demo-1 runs/demo-2

Words agree, or are *undecided*: the last column says where they do not. It also exits with 1 there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.report.rows import Report, ResultRow
from orchestrator.report.words import attack_name, method_name


def cell(report: Report, row: ResultRow) -> str:
    """Returns the word and what the strongest attack says is left."""
    judgement = report.judgements[row.index]
    if judgement.verdict is None:
        return judgement.word
    leak = next((leak for leak in judgement.verdict.leaks if leak.attack == judgement.verdict.strongest), None)
    return judgement.word if leak is None else f"{judgement.word} ({leak.text(attack_name(leak.attack))})"


def table(reports: list[Report]) -> tuple[str, bool]:
    """Returns the table, and whether the words of all rows agree."""
    seeds = [f"seed {report.recipe.get('seed')}" for report in reports]
    lines = ["| row | " + " | ".join(seeds) + " | agree |", "| --- |" + " --- |" * len(seeds) + " --- |"]
    agree = True
    for rows in zip(*(report.rows for report in reports), strict=True):
        settings = {f"{method_name(row.method)} {row.short}".strip() for row in rows}
        if len(settings) > 1:
            raise SystemExit(f"the folders have different rows: {', '.join(sorted(settings))}")
        words = {report.judgements[row.index].word for report, row in zip(reports, rows, strict=True)}
        same = len(words - {"undecided"}) < 2
        agree &= same
        cells = [cell(report, row) for report, row in zip(reports, rows, strict=True)]
        lines.append(f"| {settings.pop()} | {' | '.join(cells)} | {'yes' if same else '**no**'} |")
    return "\n".join(lines) + "\n", agree


def main() -> int:
    """Prints the table of the folders given; returns the exit code."""
    text, agree = table([Report.load(Path(folder)) for folder in sys.argv[1:]])
    sys.stdout.write(text)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
