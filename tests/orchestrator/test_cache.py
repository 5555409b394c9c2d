"""Files of a remote store on the local disk: verified, downloaded once, and cleared, the longest unused first, above a limit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.base.errors import EnvironmentFault
from orchestrator.store import cache as module
from orchestrator.store.cache import FileCache

MIB = 2**20


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FileCache:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ORCHESTRATOR_CACHE_GIB", str(3.5 / 1024))  # three files of a MiB
    return FileCache()


def put(cache: FileCache, letter: str) -> Path:
    content = letter.encode() * MIB
    path = cache.file(hashlib.sha256(content).hexdigest(), lambda to: to.write_bytes(content) and None)
    assert path is not None
    return path


def age(path: Path, hours: float) -> None:
    stamp = time.time() - 3600 * hours
    os.utime(path, (stamp, stamp))


def test_a_file_is_downloaded_once_and_one_that_was_changed_again(cache: FileCache) -> None:
    calls = []

    def download(to: Path) -> None:
        calls.append(to)
        to.write_bytes(b"content")

    digest = hashlib.sha256(b"content").hexdigest()
    first = cache.file(digest, download)
    assert first is not None
    assert cache.file(digest, download) == first
    assert len(calls) == 1
    first.write_bytes(b"changed")
    assert cache.file(digest, download) == first
    assert first.read_bytes() == b"content"
    assert len(calls) == 2


def test_what_does_not_match_its_checksum_is_not_kept(cache: FileCache) -> None:
    assert cache.file("0" * 64, lambda to: to.write_bytes(b"something else") and None) is None
    assert not [path for path in cache.path.rglob("*") if path.is_file()]


def test_above_the_limit_what_was_not_used_for_longest_goes(cache: FileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {letter: put(cache, letter) for letter in "abcd"}
    for letter, hours in (("a", 5.0), ("b", 9.0), ("c", 7.0), ("d", 3.0)):
        age(paths[letter], hours)
    put(cache, "b")  # used again: no longer the oldest
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    cache.trim()
    assert {letter for letter, path in paths.items() if path.exists()} == {"a", "b", "d"}


def test_what_is_young_stays_whatever_the_limit(cache: FileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [put(cache, letter) for letter in "abcdef"]
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    cache.trim()
    assert all(path.exists() for path in paths)


def test_folders_of_links_go_too(cache: FileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(cache, "a")
    linked = cache.folder("key-attempt")
    os.link(path, linked / "model.safetensors")
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    (put(cache, "b"), put(cache, "c"), put(cache, "d"))
    age(path, 70.0)
    age(linked, 60.0)
    cache.trim()
    assert not path.exists()
    assert linked.exists()  # the rest fits, by what the files of checksums take
    put(cache, "e")
    cache.trim()
    assert not linked.exists()  # nobody else holds its bytes any more


def test_nothing_else_is_touched(cache: FileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being written, however long that takes and however much it is, and what others keep beside the cache."""
    other = cache.path.parent / "my-project"
    other.mkdir()
    (other / "thesis").write_bytes(b"t" * 8 * MIB)
    attempt = cache.attempt("0123456789abcdef")
    (attempt / "model").write_bytes(b"m" * 8 * MIB)
    for path in (other, attempt, attempt.parent):
        age(path, 100.0)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    cache.trim()
    FileCache().attempt("fedcba9876543210")  # another worker of this machine begins
    assert (other / "thesis").exists()
    assert (attempt / "model").exists()


def test_what_a_killed_process_was_writing_goes(cache: FileCache) -> None:
    code = "import os; from orchestrator.store.cache import FileCache; print(FileCache().attempt('0123456789abcdef'), flush=True); os.kill(os.getpid(), 9)"
    left = Path(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip())
    assert left.is_dir()
    cache.attempt("fedcba9876543210")
    assert not left.exists()


def test_a_limit_that_is_no_number_is_one_line(cache: FileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE_GIB", "much")
    with pytest.raises(EnvironmentFault, match="ORCHESTRATOR_CACHE_GIB: 'much' is not allowed"):
        FileCache()
