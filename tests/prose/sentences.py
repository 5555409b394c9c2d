"""Splits plain text into sentences and counts their words."""

from __future__ import annotations

import re

# A full stop after one of these does not end a sentence.
ABBREVIATIONS = {"e.g", "i.e", "cf", "vs", "al", "fig", "figs", "eq", "eqs", "no", "approx", "resp", "tab", "sec", "ca"}

# An end mark, closing quotes or brackets, a space, and what may begin a sentence.
_END = re.compile(r"(?<=[.!?…])([\"'”’)\]*_]*)\s+(?=[\"'“‘(\[*_]*[^\W_a-z])")
_WORD = re.compile(r"\S*[^\W_]\S*")


def sentences(text: str) -> list[str]:
    """Returns the sentences of one block of plain text.

    A sentence ends at `.`, `!`, `?` or `…` before a space and a character that is not a small letter.
    Abbreviations and initials do not end one.
    """
    text = " ".join(text.split())
    found, start = [], 0
    for match in _END.finditer(text):
        before = text[start : match.start()].rsplit(" ", 1)[-1].lstrip("([\"'“‘").rstrip(".")
        initial = len(before) == 1 and before.isalpha() and before.isupper()
        if text[match.start() - 1] == "." and (before.lower() in ABBREVIATIONS or initial):
            continue
        found.append(text[start : match.end()].strip())
        start = match.end()
    return [*found, text[start:]] if text[start:] else found


def words(sentence: str) -> int:
    """Returns how many words a sentence has: runs of characters with a letter or a digit among them."""
    return len(_WORD.findall(sentence))
