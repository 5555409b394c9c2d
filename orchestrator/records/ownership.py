"""Whose folder an output folder is: a marker that we write, and what we refuse to write into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import UserError
from ..base.files import write_synced
from ..base.values import digest
from . import events

if TYPE_CHECKING:
    from ..recipe.sections import Recipe

MARKER = ".orchestrator.json"
LAYOUT = 1

# What a process that was killed early leaves behind, and what operating systems put into any
# folder.
_NO_CONTENT = (".lock", "alive.json", "store", "lost+found", ".DS_Store", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Owner:
    """What an output folder belongs to.

    **Arguments:** `kind`: `experiment`, `audit` or `reproduction`. `parts`: part → digest of its
    settings. Two owners with equal parts are the same experiment; the parts that differ are named
    to the user.
    """

    kind: str
    parts: Mapping[str, str]

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Owner:
        """Returns the owner that a recipe stands for.

        Methods, attacks and numbers of models may change: they add to an experiment, and its models
        stay what they were.
        """
        # Not where the images lie: a data set that has moved is the same, and its units say so
        # themselves.
        dataset = recipe.section("dataset")
        part = {name: dataset.get(name) for name in ("source", "limit", "mean", "std")}
        document = {**recipe.document, "dataset": part}
        parts = ("name", "seed", "dataset", "scenario", "model", "training")
        return cls("experiment", {name: _digest(document[name]) for name in parts})

    @classmethod
    def of_audit(cls, outputs: list[str]) -> Owner:
        """Returns the owner that an audit of these files is."""
        return cls("audit", {"outputs": digest(sorted(outputs))[:16]})

    @classmethod
    def of_reproduction(cls, size: str) -> Owner:
        """Returns the owner that a reproduction of this size is."""
        return cls("reproduction", {"size": size})

    def __str__(self) -> str:
        return {"experiment": "a run's folder", "audit": "an audit's folder"}.get(self.kind, f"a {self.kind}'s folder")


def check(folder: Path, owner: Owner, force: bool = False) -> None:
    """Looks whether `owner` may write into `folder`; changes nothing.

    **Raises:** `UserError` where the folder holds files that we did not write, or belongs to
    something else. `force` allows both.
    """
    if force or not folder.is_dir():
        return
    found = _read(folder)
    if found is None:
        strange = _strange(folder)
        if strange and not _is_of_an_earlier_version(folder, owner):
            raise UserError(
                f"--output: {str(folder)!r}: holds files that are not ours ({strange}); give an empty or new folder, "
                "or --force to write there all the same and replace files of the same names"
            )
        return
    if found.kind != owner.kind and found.kind:
        raise UserError(f"--output: {str(folder)!r}: is {found}; {_OTHER}")
    differing = [name for name, value in owner.parts.items() if found.parts.get(name, value) != value]
    if differing:
        raise UserError(
            f"--output: {str(folder)!r}: holds another {owner.kind}: it differs in {', '.join(differing)}; {_OTHER}"
        )


_OTHER = "give another folder, or --force to replace its results"


def mark(folder: Path, owner: Owner) -> None:
    """Writes the marker, where it is not the right one already."""
    content = _content(owner.kind, owner.parts)
    path = folder / MARKER
    if not path.is_file() or path.read_bytes() != content:
        write_synced(path, content)


def _content(kind: str, parts: Mapping[str, str]) -> bytes:
    document = {"layout": LAYOUT, "kind": kind, "parts": dict(parts), "check": _check(kind, parts)}
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _check(kind: str, parts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([kind, dict(parts)], sort_keys=True).encode()).hexdigest()[:16]


def _read(folder: Path) -> Owner | None:
    """Returns whose folder this is, None without a marker. A damaged marker still says that it is
    ours, of no known kind.
    """
    try:
        document = json.loads((folder / MARKER).read_bytes())
        kind, parts = document["kind"], document["parts"]
        if document["check"] == _check(kind, parts):
            return Owner(kind, parts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return Owner("", {})


def _strange(folder: Path) -> str:
    """Returns up to three names of what lies in the folder, empty where nothing counts."""
    names = sorted(
        p.name for p in folder.iterdir() if p.name not in _NO_CONTENT and not p.name.startswith(".alive.json")
    )
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _is_of_an_earlier_version(folder: Path, owner: Owner) -> bool:
    """Whether this owner's kind of folder was written before there were markers."""
    if owner.kind == "experiment":
        return (folder / "recipe.yaml").is_file() and (folder / "run.json").is_file() and _has_events(folder)
    if owner.kind == "reproduction":
        return (folder / "reproduce.json").is_file() and (folder / "index.html").is_file()
    return False


def _has_events(folder: Path) -> bool:
    return any(events.is_whole(event) for event in events.read(folder / events.EVENTS))


def _digest(value: object) -> str:
    """Returns a digest of a section; options that are null count as not given."""
    if isinstance(value, Mapping):
        value = {name: inner for name, inner in value.items() if inner is not None}
    return digest(value)[:16]
