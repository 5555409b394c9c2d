"""Numbers in the README are those of the committed results, and what the results say of themselves is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.experiments.reproduce import ITEMS

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "docs" / "results" / "reproduce-mini"


def marked(text: str) -> list[str]:
    """Returns the lines of the README that claim to come from the committed reproduction."""
    (block,) = re.findall(r"<!-- from docs/results/reproduce-mini -->\n(.*?)<!-- end -->", text, flags=re.DOTALL)
    return [line for line in block.splitlines() if line.startswith("|") and not set(line) <= set("| -:")]


def test_the_readmes_results_are_the_committed_ones() -> None:
    page = set((MEASURED / "README.md").read_text().splitlines())
    lines = marked((ROOT / "README.md").read_text())
    assert len(lines) > 10
    for line in lines:
        assert line in page, line


def test_the_committed_reproduction_is_whole() -> None:
    document = json.loads((MEASURED / "reproduce.json").read_text())
    found = {item["item"]: item for item in document["items"]}
    assert set(found) == set(ITEMS)
    text = (MEASURED / "README.md").read_text()
    for name, item in found.items():
        commits = {git["commit"] for git in item["git"]}
        assert len(commits) == 1, f"{name} was measured on one commit"
        assert not any(git["dirty"] for git in item["git"]), f"{name} was measured on committed code"
        assert [claim["claim"] for claim in item["claims"]] == [claim.text for claim in ITEMS[name].claims]
        for picture in re.findall(r"\((figures/[^)]+)\)", text):
            assert (MEASURED / picture).is_file(), picture


@pytest.mark.parametrize("name", ["README.md", "docs/results/README.md", "docs/architecture.md"])
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target
