"""Numbers in the documents are those of the committed results, and every link and name leads somewhere."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from orchestrator.experiments.reproduce import GROUPS, ITEMS

from .places import DOCS, PAGES, ROOT

import environment  # isort: skip
import glossary  # isort: skip
import reference  # isort: skip
import tables  # isort: skip

MEASURED = DOCS / "results" / "reproduce-mini"
RESULT_PAGES = [
    "docs/results/README.md",
    *(f"docs/results/{path.parent.name}/README.md" for path in DOCS.glob("results/*/README.md")),
]
COPIED = ("CONTRIBUTING.md", "CHANGELOG.md", "clusters/", "examples/", "CITATION.cff", "LICENSE")


@pytest.mark.parametrize("name", tables.PAGES)
def test_tables_are_the_committed_results(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "<!-- generated: " in text
    assert tables.filled(text) == text, "python docs/scripts/tables.py"


def test_the_paper_table_is_the_reproductions_own() -> None:
    page = (MEASURED / "README.md").read_text().replace("\\", "")
    rows = [line.split(" | ") for line in tables.paper().splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 6
    for row in rows:
        (theirs,) = (line for line in page.splitlines() if line.startswith(row[0]) and line.count(" | ") == 6)
        assert set(cell.strip(" |") for cell in row) <= set(cell.strip(" |") for cell in theirs.split(" | "))
    counts = [
        int(number) for number in re.findall(r"(\d+) (?:of \d+ claims|claims|hold|do not|cannot)", tables.paper())
    ]
    assert (
        counts[0] == len(re.findall(r"^\| (?:Table|Figure) \d: .* \| [✓✗?] ", page, re.MULTILINE)) == sum(counts[1:4])
    )


def test_the_reproduction_at_mini_is_whole() -> None:
    found = {item["item"] for item in json.loads((MEASURED / "reproduce.json").read_text())["items"]}
    assert {name for name in GROUPS["all"] if ITEMS[name].claims} <= found


@pytest.mark.parametrize("folder", sorted(DOCS.glob("results/reproduce-*")), ids=lambda folder: folder.name)
def test_each_item_of_a_reproduction_is_of_one_commit(folder: Path) -> None:
    document = json.loads((folder / "reproduce.json").read_text())
    found = {item["item"]: item for item in document["items"]}
    text = (folder / "README.md").read_text()
    for name, item in found.items():
        commits = {git["commit"] for git in item["git"]}
        assert len(commits) == 1, f"{name} was measured on one commit"
        assert not any(git["dirty"] for git in item["git"]), f"{name} was measured on committed code"
        assert [claim["claim"] for claim in item["claims"]] == [claim.text for claim in ITEMS[name].claims]
        for picture in re.findall(r"\((figures/[^)]+)\)", text):
            assert (folder / picture).is_file(), picture


@pytest.mark.parametrize("name", [*PAGES, "CHANGELOG.md", *RESULT_PAGES])
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        inside = (path.parent / target).resolve()
        if inside.is_relative_to(DOCS):
            name_in_site = inside.relative_to(DOCS).as_posix()
            if name_in_site in reference.PAGES or name_in_site.startswith(COPIED):
                assert name_in_site in reference.PAGES or (ROOT / name_in_site).exists(), target
                continue
        assert inside.exists(), target


@pytest.mark.parametrize("name", [*PAGES, "CHANGELOG.md", "clusters/README.md"])
def test_no_number_at_the_beginning_of_a_line_became_a_list(name: str) -> None:
    lists = [token for token in MarkdownIt().parse((ROOT / name).read_text()) if token.type == "ordered_list_open"]
    assert all(token.attrGet("start") in (None, 1) for token in lists)


@pytest.mark.parametrize("name", PAGES)
def test_paths_and_modules_named_in_code_spans_exist(name: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(), flags=re.DOTALL)
    yours = set(re.findall(r"Save it as\s+`([^`]+)`", text))  # files that a reader is to write
    for span in set(re.findall(r"`([^`\n]+)`", text)) - yours:
        if re.fullmatch(r"(?:orchestrator|unlearn|attack|tests|benchmarks|clusters|docs|examples)/[\w./-]*", span):
            assert (ROOT / span).exists(), span
        elif match := re.fullmatch(r"((?:orchestrator|unlearn|attack)(?:\.\w+)+)", span):
            _resolve(match[1])


def _resolve(dotted: str) -> None:
    """Imports the longest module that a dotted name begins with, and looks the rest up."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return
    raise AssertionError(f"{dotted}: no such module")


def test_walks_pass_functions_that_exist() -> None:
    text = re.sub(r"```.*?```", "", (DOCS / "architecture.md").read_text(), flags=re.DOTALL)
    steps = re.findall(r"`((?:orchestrator|unlearn|attack)/[\w/]+\.py):([\w.]+)`", text)
    assert len(steps) > 30
    for file, name in steps:
        source = (ROOT / file).read_text()
        for part in name.split("."):
            assert re.search(rf"^\s*(?:def|class) {part}\b", source, re.MULTILINE), f"{file}:{name}"


def test_every_environment_variable_is_in_the_reference() -> None:
    read = re.compile(r"""environ(?:\.get\(|\[)\s*["'](\w+)["']|["'](\w+)["'] (?:not )?in os\.environ""")
    found = {
        match[1] or match[2]
        for package in ("orchestrator", "unlearn", "attack")
        for path in (ROOT / package).rglob("*.py")
        for match in read.finditer(path.read_text())
    }
    assert len(found) > 5
    assert found <= set(environment.VARIABLES)


@pytest.mark.medium
def test_the_glossary_has_every_measured_metric() -> None:
    head = (DOCS / "results" / "demo" / "results.csv").read_text().splitlines()[0].split(",")
    attacks = reference.attack.ATTACKS
    known = "|".join(
        re.sub(r"<\w+>", "[^/]+", re.escape(m.name).replace(r"\<", "<").replace(r"\>", ">")) for m in glossary.METRICS
    )
    columns = ("method", "access", "validation", "status", "models", "verdict", "error")
    for name in head:
        bare = re.sub(r"_(?:low|high)$", "", name)
        if name in columns or name.startswith("param."):
            continue
        prefix, _, rest = bare.partition("/")
        assert re.fullmatch(known, rest if prefix in attacks else bare), name


def test_reference_pages_name_what_there_is() -> None:
    pages = {name: write() for name, write in reference.PAGES.items()}
    for registry in (reference.unlearn.SOURCES, reference.unlearn.METHODS, reference.attack.ATTACKS):
        for name in registry:
            assert name == "retrain" or f": {name}`" in pages["reference/recipe.md"], name
    assert "| `training` |" in pages["reference/recipe.md"]
    assert "`--set a.b=v`" in pages["reference/commands.md"]
    assert "::: unlearn.methods." in pages["reference/unlearn.md"]


def test_copied_files_are_there() -> None:
    for name in COPIED:
        assert (ROOT / name).exists(), name
