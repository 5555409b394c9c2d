"""Code blocks of README and docs do what the text says: Python runs, recipes load, commands parse."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from orchestrator.commands.cli import main
from orchestrator.recipe.recipe import load_recipe

from ..clusters.commands import check_script, commands_in
from .places import PAGES, ROOT

# Blocks in this language are not code.
PLAIN = {"text"}
# What a reader would have at hand.
STAND_INS = {"my.yaml": "demo", "RECIPE": "demo"}


def run_recipe(example: Example) -> None:
    """A block that names an experiment is a whole recipe; any other is a part of one and only parsed."""
    document: dict[str, Any] = yaml.safe_load(example.parsed)
    if "name" not in document:
        assert isinstance(document, dict | list)
        return
    path = Path("recipe.yaml")
    path.write_text(example.parsed)
    load_recipe(str(path), [])


def run_shell(example: Example) -> None:
    """Every known command is understood by its program, and its recipe is there."""
    script = example.parsed
    for name, stand_in in STAND_INS.items():
        script = re.sub(rf"\b{re.escape(name)}\b", stand_in, script)
    assert commands_in(script) or "make " in script or "pip " in script, "no command that this test knows"
    assert check_script(script) == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", script, re.MULTILINE)) <= targets


def run_console(example: Example) -> None:
    """Every line after `$ ` is run and prints what stands below it. `…` stands for anything."""
    for part in re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        program, *arguments = shlex.split(command)
        assert program == "orchestrator"
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
            main(arguments)
        pattern = ".*".join(re.escape(text) for text in expected.strip().split("…"))
        assert re.fullmatch(pattern, printed.getvalue().strip(), re.DOTALL), printed.getvalue()


def read_toml(example: Example) -> None:
    """An entry point is in a group that the program looks in."""
    groups = tomllib.loads(example.parsed)["project"]["entry-points"]
    assert set(groups) <= {"unlearn.methods", "unlearn.sources", "unlearn.models", "attack.attacks"}


PARSERS = [
    PythonCodeBlockParser(),
    CodeBlockParser("console", run_console),
    CodeBlockParser("toml", read_toml),
    CodeBlockParser("yaml", run_recipe),
    CodeBlockParser("sh", run_shell),
]


def languages(name: str) -> list[str]:
    text = (ROOT / name).read_text()
    return re.findall(r"^ *```(\S*)\n.*?^ *```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.medium
@pytest.mark.parametrize("name", [name for name in PAGES if languages(name)])
def test_code_blocks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    document = Sybil(PARSERS, path=str(ROOT)).parse(ROOT / name)
    examples = list(document.examples())
    for example in examples:
        example.evaluate()
    code = [language for language in languages(name) if language not in PLAIN]
    assert len(examples) == len(code), "every block names a language that this test runs"


@pytest.mark.parametrize(
    "block",
    [
        "```python\nimport unlearn\nunlearn.no_such_thing\n```\n",
        "```yaml\nname: x\nextends: demo\ntrainig: {}\n```\n",
        "```sh\norchestrator run demo --adress auto\n```\n",
        "```sh\nmake no-such-target\n```\n",
        "```console\n$ orchestrator show demo\nname: another\n```\n",
    ],
)
def test_a_planted_fault_is_noticed(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(block)
    (example,) = Sybil(PARSERS, path=str(tmp_path)).parse(page).examples()
    with pytest.raises(Exception):  # noqa: B017, PT011  (whatever the block's own language raises)
        example.evaluate()
