"""Finished work, found by a hash of everything it depends on. Local folder, shared file system or
S3 behind one interface."""

from __future__ import annotations

from unlearn.core.paths import local_path

from ..base.errors import EnvironmentFault
from .base import Attempt, CorruptObject, Store
from .local import LocalStore


def open_store(uri: str) -> Store:
    """Returns the store at `uri`: a folder, or `s3://bucket/prefix` (needs the `s3` extra).

    **Raises:** `EnvironmentFault` where it cannot be reached or written.
    """
    if uri.startswith("s3://"):
        try:
            from .s3 import S3Store
        except ImportError:  # boto3 is an extra
            message = f"store {uri}: S3 needs the s3 extra; pip install 'unlearning-orchestrator[s3]'"
            raise EnvironmentFault(message) from None
        return S3Store(uri)
    return LocalStore(uri.removeprefix("file://"))


def existing_store(uri: str) -> Store | None:
    """Returns the store at `uri` for planning, which leaves nothing behind: None where there is no
    such folder yet.

    **Raises:** as `open_store`.
    """
    if uri.startswith("s3://"):
        return open_store(uri)
    root = local_path(uri.removeprefix("file://"))
    return open_store(str(root)) if (root / "objects").is_dir() else None


__all__ = ["Attempt", "CorruptObject", "LocalStore", "Store", "existing_store", "open_store"]
