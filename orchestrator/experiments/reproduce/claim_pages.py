"""A page for each claim: what was measured, the verdict, what would decide it, and why it fails.

Everything on it is computed from results. A reason is an experiment that varies one supposed cause,
shown beside the claim, or the command that would run it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...report.tables import escape_markdown
from .claims import FAILS, HOLDS, Cause, Claim, Verdict
from .item import Finding
from .page import SYMBOLS, facts, to_markdown

FOLDER = "claims"


def page_name(finding: Finding, number: int) -> str:
    """Returns the file of a claim's page, under the folder of the reproduction."""
    return f"{FOLDER}/{finding.item.name}-{number}.md"


def claim_pages(finding: Finding, size: str, others: Mapping[str, Finding]) -> dict[str, str]:
    """Returns the text of each claim's page by its file.

    **Arguments:** `others`: findings of other items in the same folder, by name, where they exist.
    """
    found = {}
    for number, claim in enumerate(finding.item.claims, start=1):
        found[page_name(finding, number)] = _page(finding, claim, finding.verdicts[number - 1][1], size, others)
    return found


def _page(finding: Finding, claim: Claim, verdict: Verdict, size: str, others: Mapping[str, Finding]) -> str:
    item = finding.item
    parts = [
        f"# {escape_markdown(claim.text)}\n",
        f"{SYMBOLS[verdict.word]} **{verdict.word}**, at size {size}. From [{item.title}](../README.md).\n",
        *([f"By the AUC alone, as the paper judges: **{verdict.by_auc}**.\n"] if verdict.by_auc else []),
        "## Measured\n",
        *(f"- {escape_markdown(reason)}" for reason in verdict.because.split("; ")),
        "",
        "## What it would take to decide\n",
        f"{verdict.decides}\n",
    ]
    if verdict.word != HOLDS:
        parts += ["## Why\n", *_reasons(claim, verdict, size, others, item.name)]
    if finding.comparison is not None:
        parts += ["## The whole table\n", to_markdown(finding.comparison)]
    parts += ["", *(f"{line}  " for line in facts([finding], size)), ""]
    return "\n".join(parts)


def _reasons(claim: Claim, verdict: Verdict, size: str, others: Mapping[str, Finding], own: str) -> Sequence[str]:
    if verdict.word == FAILS and verdict.by_auc == HOLDS:
        return [
            "The AUC is as published. This project also looks at each sample and at the strongest attack, and finds what is told above.\n"
        ]
    word = "fails" if verdict.word == FAILS else "is not decided"
    if not claim.causes:
        return [f"No experiment of this project varies a supposed cause. Why it {word} is not known.\n"]
    found: list[str] = []
    for cause in claim.causes:
        found.append(f"Supposed: {cause.text}\n")
        found.append(_evidence(cause, size, others, own))
    return found


def _evidence(cause: Cause, size: str, others: Mapping[str, Finding], own: str) -> str:
    if cause.item == own:
        return "The table below varies it.\n"
    other = others.get(cause.item)
    if other is None or other.comparison is None:
        return f"Not measured here. `orchestrator reproduce {cause.item} --size {size}` varies just that.\n"
    return f"{other.item.title} varies just that:\n\n{to_markdown(other.comparison)}\n"
