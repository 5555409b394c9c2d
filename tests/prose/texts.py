"""Takes the text that people read out of Markdown, Python and YAML files, as blocks with their line numbers."""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

# Strings with fewer words than this are names, formats and keys rather than messages.
MESSAGE_WORDS = 6

_CODE = re.compile(r"``[^`]+``|`[^`]+`")
_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_FIELD = re.compile(r"^\s*(?:[\w.*,/ ]{1,40}|`[^`]+`)(?: \([^)]*\))?: |^\s*:\w[^:]*: ")
_ADMONITION = re.compile(r"^(\s*)(?:!!!|\?\?\?\+?|===) .*$")
_TOOL = re.compile(r"#!|#\s*(?:noqa|type:|fmt:|pragma|ruff:|mypy:|pylint:)")


@dataclass(frozen=True)
class Block:
    """A paragraph, list item, table cell, docstring part, comment or message. `line` counts from 1."""

    line: int
    text: str
    message: bool = False  # a string of the program, where `;` and line ends divide sentences too


@dataclass(frozen=True)
class Text:
    """What a file says: its blocks, and its lines of prose as `(number, line)` for the column rule."""

    blocks: list[Block]
    lines: list[tuple[int, str]]


def read(path: Path) -> Text:
    """Returns the text of a file, by its suffix: `.md`, `.py`, `.yaml` or `.yml`."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return markdown(source)
    if path.suffix == ".py":
        return python(source)
    return yaml(source)


# ---------------------------------------------------------------------------------------------------------------- Markdown


def markdown(source: str) -> Text:
    """Returns the paragraphs, headings, list items and table cells. Code and HTML are left out."""
    lines = _without_generated(_without_admonitions(source.splitlines()))
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse("\n".join(lines))
    blocks, prose, line, table = [], [], 1, False
    for token in tokens:
        if token.map:
            line = token.map[0] + 1
        if token.type in ("table_open", "table_close"):
            table = token.type == "table_open"
        if token.type == "inline":
            blocks.append(Block(line, _plain(token)))
        # A table row cannot be broken; a paragraph can.
        if token.type in ("paragraph_open", "heading_open") and token.map and not table:
            prose += range(token.map[0], token.map[1])
    return Text(blocks, [(n + 1, lines[n]) for n in prose])


def _plain(token: Token) -> str:
    """Returns an inline token's words. A code span is one word; a link is its text; a picture is its caption."""
    parts = []
    for child in token.children or []:
        if child.type == "code_inline":
            parts.append("Code")
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif child.type == "html_inline":
            parts.append("\x00" if child.content.startswith("<br") else "")
        else:
            parts.append(child.content)
    return "".join(parts)


def _without_admonitions(lines: list[str]) -> list[str]:
    """Moves the indented content of admonitions and tabs to the left, where a Markdown parser sees it as text."""
    for number, line in enumerate(lines):
        if match := _ADMONITION.match(line):
            indent = len(match.group(1)) + 4
            lines[number] = ""
            for below in range(number + 1, len(lines)):
                if lines[below].strip() and not lines[below].startswith(" " * indent):
                    break
                lines[below] = lines[below][indent:]
    return lines


def _without_generated(lines: list[str]) -> list[str]:
    """Blanks what stands between `<!-- generated: … -->` and `<!-- end -->`: a program wrote it."""
    inside = False
    for number, line in enumerate(lines):
        inside = inside or line.startswith("<!-- generated")
        ends = line.startswith("<!-- end -->")
        if inside or line.startswith("::: "):
            lines[number] = ""
        inside = inside and not ends
    return lines


# ------------------------------------------------------------------------------------------------------------------ Python


def python(source: str) -> Text:
    """Returns docstrings, comments and messages: strings of six words or more."""
    tree = ast.parse(source)
    docstrings = _docstrings(tree)
    blocks: list[Block] = []
    lines: list[tuple[int, str]] = []
    rows = source.splitlines()
    for node in docstrings:
        blocks += _paragraphs(_docstring_lines(node, rows), node.lineno)
        lines += [(n, rows[n - 1]) for n in range(node.lineno, (node.end_lineno or node.lineno) + 1)]
    comment_blocks, comment_lines = _comments(source)
    blocks += comment_blocks
    lines += comment_lines
    known = {id(node) for node in docstrings}
    blocks += _messages(tree, known)
    return Text(sorted(blocks, key=lambda block: block.line), sorted(set(lines)))


def _docstrings(tree: ast.Module) -> list[ast.Constant]:
    """Returns every docstring, and strings that stand alone under a field, which documentation tools read too."""
    bodies = (body for node in ast.walk(tree) if isinstance(body := getattr(node, "body", None), list))
    values = (part.value for body in bodies for part in body if isinstance(part, ast.Expr))
    return [value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]


def _docstring_lines(node: ast.Constant, rows: list[str]) -> list[str]:
    first, *rest = str(node.value).splitlines() or [""]
    return [first.strip(), *textwrap.dedent("\n".join(rest)).splitlines()]


def _comments(source: str) -> tuple[list[Block], list[tuple[int, str]]]:
    """Returns comments; those on lines of their own, one below the other, are one block."""
    blocks: list[Block] = []
    lines: list[tuple[int, str]] = []
    together: list[str] = []
    begin = last = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or _TOOL.match(token.string):
            continue
        number, text = token.start[0], token.string.lstrip("#").strip()
        alone = not token.line[: token.start[1]].strip()
        lines.append((number, token.line.rstrip("\n")))
        if together and not (alone and number == last + 1):
            blocks += _paragraphs(together, begin)
            together = []
        if alone:
            begin = begin if together else number
            together.append(text)
            last = number
        else:
            blocks += _paragraphs([text], number)
    return blocks + (_paragraphs(together, begin) if together else []), lines


def _paragraphs(lines: list[str], first: int) -> list[Block]:
    """Divides lines at blank lines, list items and `name: …` fields. Examples (`>>>`, fences) are left out."""
    blocks: list[Block] = []
    together: list[str] = []
    begin, fenced, literal = first, False, False

    def close() -> None:
        if together:
            blocks.append(Block(begin, _CODE.sub("Code", " ".join(together))))
            together.clear()

    for number, line in enumerate(lines, first):
        stripped = line.strip()
        if stripped.startswith("```"):
            close()
            fenced = not fenced
            continue
        if literal and (not stripped or line.startswith("    ")):
            continue
        literal = False
        if fenced or stripped.startswith((">>>", "...")) or not stripped or set(stripped) <= set("-=~ "):
            close()
            continue
        if _ITEM.match(line) or (line[:1] == " " and _FIELD.match(line)):
            close()
        if not together:
            begin = number
        together.append(_ITEM.sub("", line).strip())
        if stripped.endswith("::"):
            close()
            literal = True
    close()
    return blocks


def _messages(tree: ast.Module, docstrings: set[int]) -> Iterator[Block]:
    """Yields strings that read like sentences. What is filled in counts as one word."""
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(p.value) if isinstance(p, ast.Constant) else "x" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | inside:
            text = node.value
        else:
            continue
        if len(text.split()) >= MESSAGE_WORDS and "</" not in text:
            yield Block(node.lineno, _CODE.sub("Code", text), message=True)


# -------------------------------------------------------------------------------------------------------------------- YAML


def yaml(source: str) -> Text:
    """Returns the comments of a YAML file."""
    blocks: list[Block] = []
    lines: list[tuple[int, str]] = []
    together: list[str] = []
    for number, line in enumerate([*source.splitlines(), ""], 1):
        before, mark, comment = line.partition("#") if line.lstrip().startswith("#") else line.partition(" # ")
        if together and (before.strip() or not mark):
            blocks += _paragraphs(together, number - len(together))
            together = []
        if mark:
            lines.append((number, line))
            if before.strip():
                blocks += _paragraphs([comment.strip()], number)
            else:
                together.append(comment.strip())
    return Text(blocks, lines)
