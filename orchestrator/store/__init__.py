"""Finished work, found by a hash of everything it depends on. Local folder, shared file system or
S3 behind one interface."""

from __future__ import annotations

from unlearn.core.paths import local_path

from ..base.errors import EnvironmentFault, UserError
from ..base.text import is_address
from .base import Attempt, CorruptObject, Store
from .local import LocalStore


def open_store(uri: str) -> Store:
    """Returns the store at `uri`: a folder, or `s3://bucket/prefix` (needs the `s3` extra).

    **Raises:** `UserError` where it is neither; `EnvironmentFault` where it cannot be reached or
    written.
    """
    _require_known(uri)
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
    _require_known(uri)
    if uri.startswith("s3://"):
        return open_store(uri)
    root = local_path(uri.removeprefix("file://"))
    return open_store(str(root)) if (root / "objects").is_dir() else None


def _require_known(uri: str) -> None:
    if is_address(uri) and not uri.startswith(("s3://", "file://")):
        raise UserError(f"--store: {uri!r}: not a store; give a folder or s3://BUCKET/PREFIX")


__all__ = ["Attempt", "CorruptObject", "LocalStore", "Store", "existing_store", "open_store"]
