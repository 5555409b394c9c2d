"""The store's contract: an object is a set of files with a commit mark that is written last and
holds their checksums."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NotRequired, TypedDict

from ..base.files import sha256_file
from ..base.values import Record
from .claims import Claim, ClaimBoard, Claims

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

COMMIT_MARK = "commit.json"
LAYOUT_VERSION = 1


def is_key(name: str) -> bool:
    """Whether a name can be a unit's key; anything else in a store's folder is not ours."""
    return re.fullmatch(r"[0-9a-f]{64}", name) is not None


class CorruptObject(Exception):
    """A committed object whose bytes are not those that were committed. It has been set aside; its
    unit must run again."""

    def __init__(self, key: str, reason: str):
        self.key = key
        self.reason = reason
        super().__init__(f"object {key[:12]} is damaged ({reason}) and was set aside")

    def __reduce__(self) -> tuple[type[CorruptObject], tuple[str, str]]:
        return (CorruptObject, (self.key, self.reason))


class MissingObject(CorruptObject, KeyError):
    """An object, or a file of one, that is not there: never was, or has been set aside by somebody
    else since."""

    def __init__(self, key: str, reason: str):
        super().__init__(key, reason)
        self.args = (f"object {key[:12]} is not in the store ({reason})",)

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[type[CorruptObject], tuple[str, str]]:
        return (MissingObject, (self.key, self.reason))


class StoredFile(TypedDict):
    """A file of an object: its bytes and their SHA-256."""

    size: int
    sha256: str


class Mark(TypedDict):
    """The commit mark of an object. `meta` is what its unit says of itself, see `plan.facts`.

    A mark in S3 also says which attempt wrote the files.
    """

    layout: int
    key: str
    files: dict[str, StoredFile]
    meta: Record
    check: str
    attempt: NotRequired[str]


def commit_document(key: str, folder: Path, meta: Record) -> Mark:
    """Returns the commit mark of the files in `folder`: sizes, checksums and the unit's
    metadata."""
    files: dict[str, StoredFile] = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.iterdir())
        if path.name != COMMIT_MARK
    }
    return {"layout": LAYOUT_VERSION, "key": key, "files": files, "meta": meta, "check": meta_digest(key, files, meta)}


def meta_digest(key: str, files: Mapping[str, StoredFile], meta: Record) -> str:
    """Returns the checksum that guards the commit mark itself."""
    text = json.dumps([key, files, meta], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_plain(name: str) -> bool:
    """Whether a name is that of one file in one folder: a store from elsewhere must not lead
    anywhere else."""
    return name not in ("", ".", "..", COMMIT_MARK) and not set(name) & {"/", "\\", "\0"}


def parse_commit(key: str, text: bytes) -> Mark:
    """Returns the commit mark that `text` holds; raises ValueError saying what is wrong with it."""
    try:
        mark: Mark = json.loads(text)
        if mark["key"] != key:
            raise ValueError("it belongs to another object")
        if mark["layout"] != LAYOUT_VERSION:
            raise ValueError(f"its layout is {mark['layout']!r}, and this version knows {LAYOUT_VERSION}")
        if not all(_is_plain(name) for name in mark["files"]):
            raise ValueError("it names files outside its own folder")
        if mark["check"] != meta_digest(key, mark["files"], mark["meta"]):
            raise ValueError("its commit mark does not match its checksum")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError("its commit mark is not readable") from None
    return mark


class Attempt:
    """One attempt at producing an object: write files below `folder`, then `commit`. Without a
    commit nothing is left behind."""

    def __init__(self, store: Store, key: str, folder: Path):
        self.store = store
        self.key = key
        self.folder = folder

    def path(self, name: str) -> Path:
        """Returns where to write the file `name`."""
        return self.folder / name

    def commit(self, meta: Record) -> bool:
        """Makes the files and `meta` the object's content. Returns False where another attempt
        committed first."""
        return self.store._commit(self.key, self.folder, meta)

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Store(ABC):
    """A content-addressed store of finished units. Keys are SHA-256 in hexadecimal."""

    uri: str
    _claims: Claims | None = None

    @abstractmethod
    def claim_board(self) -> ClaimBoard:
        """Returns where claims on this store's keys are written."""

    def claim(self, key: str) -> Claim | None:
        """Returns this process's claim on making `key`, or None while another worker that seems
        alive holds it."""
        if self._claims is None:
            self._claims = Claims(self.claim_board())
        return self._claims.take(key)

    def held(self) -> list[str]:
        """Returns the keys that living workers make now, here or on other machines."""
        return Claims(self.claim_board()).held()

    @abstractmethod
    def attempt(self, key: str) -> Attempt:
        """Returns a fresh attempt at the object `key`."""

    @abstractmethod
    def _commit(self, key: str, folder: Path, meta: Record) -> bool: ...

    @abstractmethod
    def mark(self, key: str) -> Mark | None:
        """Returns the commit mark of `key`, or None where nothing (whole) is committed. A torn
        object is set aside."""

    @abstractmethod
    def fetch(self, key: str, name: str) -> Path:
        """Returns a local path of the file `name` of `key`, its checksum verified.

        **Raises:** `KeyError` where there is none; `CorruptObject` after setting a damaged object
        aside.
        """

    @abstractmethod
    def folder(self, key: str) -> Path:
        """Returns a local folder that holds every file of `key` under its name, checksums verified;
        raises as `fetch`."""

    @abstractmethod
    def set_aside(self, key: str, reason: str) -> None:
        """Moves a damaged object out of the way, keeping it for inspection."""

    @abstractmethod
    def keys(self) -> Iterator[str]:
        """Yields the key of every committed object."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Deletes an object."""

    @abstractmethod
    def litter(self, older_than: float) -> list[str]:
        """Returns what dead attempts left behind more than `older_than` seconds ago, in names that
        `clear` takes."""

    @abstractmethod
    def clear(self, names: Iterable[str]) -> None:
        """Deletes what `litter` named."""

    @abstractmethod
    def location(self, key: str, name: str) -> str:
        """Returns where a file of `key` lies, as every node sees it: a path, or an address that
        `filesystem` opens."""

    def filesystem(self) -> FileSystem | None:
        """Returns the `pyarrow.fs` file system of `location`; None for plain paths."""
        return None

    def has(self, key: str) -> bool:
        """Whether `key` is committed (sizes checked; checksums are checked when a file is read)."""
        return self.mark(key) is not None

    def committed(self, keys: Iterable[str]) -> set[str]:
        """Returns those of `keys` that are committed; where a look-up crosses a network, many at
        once."""
        return {key for key in keys if self.has(key)}

    def meta(self, key: str) -> Record:
        """Returns the metadata committed with `key`; raises KeyError where there is none."""
        mark = self.mark(key)
        if mark is None:
            raise MissingObject(key, "no commit mark")
        return mark["meta"]

    def verify(self, key: str) -> bool:
        """Whether every file of `key` matches its checksum; a damaged object is set aside."""
        mark = self.mark(key)
        if mark is None:
            return False
        try:
            for name in mark["files"]:
                self.fetch(key, name)
        except (CorruptObject, KeyError):
            return False
        return True
