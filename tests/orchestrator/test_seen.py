"""A second look at a store parses no commit mark again, and misses no damage for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import LocalStore, local, seen

UNITS = 40


def key(number: int) -> str:
    return f"{number:02x}{number:062x}"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of forty objects that has been looked at once."""
    monkeypatch.setattr(seen, "WORTH", 1)
    store = LocalStore(tmp_path)
    for number in range(UNITS):
        with store.attempt(key(number)) as attempt:
            attempt.path("weights").write_bytes(bytes(10 + number % 3))
            attempt.commit({"number": number})
    assert look(tmp_path) == set(range(UNITS))
    return tmp_path


def look(root: Path) -> set[int]:
    """Returns which objects a new process finds."""
    found = LocalStore(root).committed(key(number) for number in range(UNITS + 5))
    return {int(name[2:], 16) for name in found}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the marks that are parsed from now on."""
    names: list[str] = []
    real = local.parse_commit

    def counted(name: str, text: bytes) -> Any:
        names.append(name)
        return real(name, text)

    monkeypatch.setattr(local, "parse_commit", counted)
    return names


def test_a_second_look_reads_each_mark_once_and_parses_none(
    root: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    real = local.look
    monkeypatch.setattr(local, "look", lambda path: (reads.append(path), real(path))[1])
    assert look(root) == set(range(UNITS))
    assert (len(reads), parsed) == (UNITS, [])
    store = LocalStore(root)
    store.committed(key(number) for number in range(UNITS))
    assert all(store.has(key(number)) for number in range(UNITS))
    assert (len(reads), parsed) == (2 * UNITS, []), "what was looked at is known in this process"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "mark flipped": lambda folder: flip(folder / "commit.json"),
    "mark emptied": lambda folder: (folder / "commit.json").write_bytes(b""),
    "mark gone": lambda folder: (folder / "commit.json").unlink(),
    "file gone": lambda folder: (folder / "weights").unlink(),
    "file shorter": lambda folder: (folder / "weights").write_bytes(b"1"),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", DAMAGE)
def test_damage_that_keeps_its_time_stamp_is_found(root: Path, name: str) -> None:
    folder = root / "objects" / key(7)[:2] / key(7)
    before = {path: path.stat() for path in folder.iterdir()}
    DAMAGE[name](folder)
    for path, status in before.items():
        if path.exists():
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look(root) == set(range(UNITS)) - {7}
    assert not folder.exists(), "it was set aside"
    assert any(path.name.startswith(key(7)) for path in (root / "aside").iterdir())


def test_an_object_that_was_made_again_is_found(root: Path) -> None:
    LocalStore(root).remove(key(3))
    assert look(root) == set(range(UNITS)) - {3}
    assert key(3) in (root / seen.FILE).read_text(), "nothing new: not written again"
    with LocalStore(root).attempt(key(3)) as attempt:
        attempt.path("weights").write_bytes(b"another")
        attempt.commit({"number": -3})
    assert look(root) == set(range(UNITS))
    assert LocalStore(root).meta(key(3)) == {"number": -3}
    LocalStore(root).remove(key(4))
    LocalStore(root).remove(key(5))
    with LocalStore(root).attempt(key(4)) as attempt:
        attempt.commit({"number": -4})
    assert look(root) == set(range(UNITS)) - {5}
    assert key(5) not in (root / seen.FILE).read_text()


@pytest.mark.medium
@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 5000, b'{"version": 1}' + b"0" * 64])
def test_without_the_file_marks_are_parsed(root: Path, parsed: list[str], content: bytes) -> None:
    (root / seen.FILE).write_bytes(content)
    assert look(root) == set(range(UNITS))
    assert len(parsed) == UNITS
    parsed.clear()
    assert look(root) == set(range(UNITS))
    assert not parsed, "it was written again"


def test_a_flipped_bit_in_the_file_is_found(root: Path, parsed: list[str]) -> None:
    flip(root / seen.FILE)
    assert look(root) == set(range(UNITS))
    assert len(parsed) == UNITS


def test_a_store_that_cannot_be_written_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / seen.FILE).unlink()

    def full(*given: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(seen, "write_synced", full)
    assert look(root) == set(range(UNITS))
