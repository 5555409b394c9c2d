"""Wraps docstrings and comments of Python files that run over the columns: `python -m tests.prose --wrap FILE…`.

Words stay as they are; sentences that are too long are left to people. The program must stay the same, which is checked.
"""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize

from .texts import _FIELD, _ITEM, _TOOL, _docstrings

_FENCE = ("```", ">>>", "...", "|")


def wrapped(source: str, columns: int) -> str:
    """Returns the source with docstrings and comments wrapped where a line of them is too long.

    Raises `ValueError` where that would change the program.
    """
    rows = source.splitlines()
    # First and last row, from 0, to the rows in their place.
    replaced: dict[tuple[int, int], list[str]] = {}
    for node in _docstrings(ast.parse(source)):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        if not rows[first].lstrip().startswith(('"""', 'r"""')):
            continue
        if any(len(row) > columns for row in rows[first : last + 1]):
            replaced[first, last] = _blocks(rows[first : last + 1], columns)
    replaced.update(_comments(source, rows, columns))
    for (first, last), new in sorted(replaced.items(), reverse=True):
        rows[first : last + 1] = new
    result = "\n".join(rows) + "\n"
    if _program(result) != _program(source):
        raise ValueError("wrapping would change the program")
    return result


def _program(source: str) -> str:
    """Returns the syntax tree as text, white space in docstrings not counted."""
    tree = ast.parse(source)
    for node in _docstrings(tree):
        node.value = " ".join(str(node.value).split())
    return ast.dump(tree)


def _blocks(rows: list[str], columns: int) -> list[str]:
    """Wraps the paragraphs and list items of a docstring, each at its own indentation."""
    found: list[str] = []
    together: list[str] = []
    fenced = literal = False

    def close() -> None:
        if together and any(len(row) > columns for row in together):
            found.extend(_wrap(together, columns))
        else:
            found.extend(together)
        together.clear()

    for number, row in enumerate(rows):
        text = row.strip()
        if literal and (not text or row.startswith(" " * (_indent(rows[0]) + 4))):
            found.append(row)
            continue
        literal = False
        if fenced or text.startswith(_FENCE) or not text or text == '"""':
            close()
            fenced ^= text.startswith("```")
            found.append(row)
            continue
        if number and (_ITEM.match(row) or (_indent(row) > _indent(rows[0]) and _FIELD.match(row))):
            close()
        together.append(row)
        if text.endswith("::"):
            close()
            literal = True
    close()
    return found


def _indent(row: str) -> int:
    return len(row) - len(row.lstrip())


def _wrap(rows: list[str], columns: int) -> list[str]:
    start = _indent(rows[0])
    item = _ITEM.match(rows[0])
    rest = _indent(rows[1]) if len(rows) > 1 else start + (4 if item else 0)
    text = " ".join(row.strip() for row in rows)
    return textwrap.wrap(
        text,
        columns,
        initial_indent=" " * start,
        subsequent_indent=" " * rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _comments(source: str, rows: list[str], columns: int) -> list[tuple[tuple[int, int], list[str]]]:
    """Returns the comments that are too long, wrapped. One behind code moves to a line of its own above."""
    alone: dict[int, str] = {}
    found: list[tuple[tuple[int, int], list[str]]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or _TOOL.match(token.string) or re.search(r"#\s*noqa|# type:", token.string):
            continue
        number, code = token.start[0] - 1, token.line[: token.start[1]]
        if not code.strip():
            alone[number] = rows[number]
        elif len(rows[number]) > columns and token.line.rstrip("\n") == rows[number]:
            indent = " " * _indent(rows[number])
            text = token.string.lstrip("#").strip()
            found.append(((number, number), [*_comment(text, indent, columns), code.rstrip()]))
    for first in sorted(alone):
        if first - 1 in alone and _indent(alone[first - 1]) == _indent(alone[first]):
            continue
        last = first
        while last + 1 in alone and _indent(alone[last + 1]) == _indent(alone[first]):
            last += 1
        if any(len(rows[n]) > columns for n in range(first, last + 1)):
            found.append(((first, last), _wrapped_comment(rows[first : last + 1], columns)))
    return found


def _wrapped_comment(rows: list[str], columns: int) -> list[str]:
    indent = " " * _indent(rows[0])
    found: list[str] = []
    together: list[str] = []
    for row in [*rows, f"{indent}#"]:
        text = row.strip().lstrip("#").strip()
        ruled = bool(text) and set(text) <= set("-=")
        if together and (not text or ruled or _ITEM.match(text)):
            found += _comment(" ".join(together), indent, columns)
            together = []
        if ruled or not text:
            found.append(row)
        else:
            together.append(text)
    return found[:-1]


def _comment(text: str, indent: str, columns: int) -> list[str]:
    hanging = "  " if _ITEM.match(text) else ""
    return textwrap.wrap(
        text,
        columns,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# {hanging}",
        break_long_words=False,
        break_on_hyphens=False,
    )
