"""People read short sentences and short lines; and the check that says so finds what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from .check import MARKDOWN, PROGRAM, ROOT, files, not_yet, offences
from .sentences import sentences, words
from .texts import Block, markdown, python, yaml
from .wrap import wrapped

LONG = "This one sentence goes on and on " + "with one more idea " * 6 + "until nobody knows how it began."
SHORT = "This one is short."


def found(tmp_path: Path, name: str, source: str) -> list[str]:
    path = tmp_path / name
    path.write_text(source)
    return [str(offence).strip() for offence in offences(path)]


@pytest.mark.medium
@pytest.mark.parametrize("name", [name for name in files(MARKDOWN + PROGRAM) if name not in not_yet()])
def test_file_is_in_plain_english(name: str) -> None:
    assert [str(offence) for offence in offences(ROOT / name)] == []


def test_the_list_of_exceptions_only_shrinks() -> None:
    listed = not_yet()
    assert listed == sorted(set(listed))
    for name in listed:
        assert (ROOT / name).exists(), f"{name} is gone: python -m tests.prose --shrink"
        assert offences(ROOT / name), f"{name} passes: python -m tests.prose --shrink"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two.", ["One.", "Two."]),
        ("It is 0.5. 95 % hold.", ["It is 0.5.", "95 % hold."]),
        ("See Fig. 3 and e.g. Table 2. γ is small.", ["See Fig. 3 and e.g. Table 2.", "γ is small."]),
        ("By J. Doe et al. 2024? Yes!", ["By J. Doe et al. 2024?", "Yes!"]),
        ("It says “done.” Then it ends.", ["It says “done.”", "Then it ends."]),
        ("Version 2.60 of ray.tune is slow", ["Version 2.60 of ray.tune is slow"]),
        ("One\nline. (Two.)", ["One line.", "(Two.)"]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_words_are_runs_with_a_letter_or_digit() -> None:
    assert words("AUC – 0.5 is |AUC − 0.5|, isn't it?") == 7
    assert words("— · …") == 0


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.md", LONG),
        ("a.md", f"# A heading\n\n- a list\n- {LONG}\n"),
        ("a.md", f"!!! note\n\n    {LONG}\n"),
        ("a.md", f"| a |\n| --- |\n| {LONG} |\n"),
        ("a.md", f"> {LONG}\n"),
        ("a.md", "long " * 10 + "line. " + "It has " * 8),
        ("a.py", f'"""{LONG}"""\n'),
        ("a.py", f'def f() -> int:\n    """Short.\n\n    Returns: {LONG}\n    """\n    return 1\n'),
        ("a.py", f"# {LONG}\nx = 1\n"),
        ("a.py", "x = 1\n" + "".join(f"# {part}\n" for part in LONG.split(" with "))),
        ("a.py", f'raise ValueError("{LONG}")\n'),
        ("a.py", f'raise ValueError(f"{LONG[:60]}{{x}}{LONG[60:]}")\n'),
        ("a.py", f'help = ("{LONG[:50]}"\n        "{LONG[50:]}")\n'),
        ("a.py", "x = 1  # " + "short. " * 20),
        ("a.py", f'x = 1\n"""{LONG}"""\n'),
        ("a.yaml", f"# {LONG}\nx: 1\n"),
        ("a.yaml", f"x: 1 # {LONG}\n"),
    ],
)
def test_planted_offence_is_found(tmp_path: Path, name: str, source: str) -> None:
    assert found(tmp_path, name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.md", f"{SHORT} {SHORT} {SHORT}\n{SHORT} {SHORT} {SHORT}\n"),
        ("a.md", f"```\n{LONG} {LONG}\n```\n"),
        ("a.md", f"<!-- {LONG} -->\n"),
        ("a.md", f"<!-- generated: by a program -->\n{LONG}\n<!-- end -->\n"),
        ("a.md", "- one two three four\n" * 20),
        ("a.md", "| a | b |\n| --- | --- |\n| " + "1 | " * 60 + "\n"),
        ("a.md", "[a](https://example.com/" + "a" * 120 + ")\n"),
        ("a.md", "Call `" + "f x " * 20 + "` twice.\n"),
        ("a.py", f'"""Short.\n\n    >>> f("{"x " * 35}")\n"""\n'),
        ("a.py", '"""Short:\n\n```\n' + "f x " * 20 + '\n```\n"""\n'),
        ("a.py", "x = 1  # noqa: " + "E501 " * 40),
        ("a.py", "x = {" + ", ".join(f'"key {n}": {n}' for n in range(40)) + "}\n"),
        ("a.py", 'raise ValueError("' + "lr is 3; give less than 1; the default is 0.1; " * 4 + '")\n'),
        ("a.yaml", "x: 1\n" * 40 + "# Short.\n"),
    ],
)
def test_what_is_no_offence_is_let_pass(tmp_path: Path, name: str, source: str) -> None:
    assert found(tmp_path, name, source) == []


def test_blocks_know_their_lines() -> None:
    assert markdown("# One\n\nTwo\nthree\n\n- four\n").blocks == [
        Block(1, "One"),
        Block(3, "Two three"),
        Block(6, "four"),
    ]
    text = python('"""One."""\n\n# Two\n# three.\nx = "four five six seven eight nine"\n')
    assert text.blocks == [Block(1, "One."), Block(3, "Two three."), Block(5, "four five six seven eight nine", True)]
    assert [number for number, _ in text.lines] == [1, 3, 4]
    assert yaml("a: 1\n# Two\nb: 2 # Three\n").blocks == [Block(2, "Two"), Block(3, "Three")]


def test_wrapping_shortens_lines_and_leaves_the_program() -> None:
    long = "word " * 30
    source = (
        f'"""{long}end."""\n\n\n'
        f'def f(a: int) -> int:\n    """Short.\n\n    - `a`: {long}\n    - `b`: short\n    """\n'
        f"    # {long}\n    # - {long}\n    b = a  # {long}\n    return b\n"
    )
    result = wrapped(source, 100)
    assert max(len(line) for line in result.splitlines()) <= 100
    assert result.split() != source.split()  # the last comment moved above its line
    assert sorted(word for word in result.split() if word != "#") == sorted(w for w in source.split() if w != "#")
    assert wrapped(result, 100) == result


def test_wrapping_leaves_what_is_short_or_code() -> None:
    source = '"""Short.\n\n```\n' + "x " * 60 + '\n```\n"""\n\nx = "' + "y " * 60 + '"  # noqa: E501\n'
    assert wrapped(source, 100) == source
