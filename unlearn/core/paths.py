"""Paths as people write them."""

from __future__ import annotations

import glob
import os
from pathlib import Path


def local_path(text: str | os.PathLike[str]) -> Path:
    """Returns a path with `~` expanded.

    A name of nobody, as in `~no-such-user/x`, stays as it is: `Path.expanduser` would raise.
    """
    return Path(os.path.expanduser(text))


def matches(path: str) -> list[str]:
    """Returns the files that a path or a glob names, sorted. What is there is meant: brackets in
    the name of a file or of a folder are no pattern.
    """
    if os.path.exists(path) or not glob.has_magic(path):
        return [path]
    folder = next((parent for parent in Path(path).parents if parent.name and parent.is_dir()), None)
    if folder is not None:
        path = os.path.join(glob.escape(str(folder)), Path(path).relative_to(folder))
    return sorted(glob.glob(path, recursive=True))
