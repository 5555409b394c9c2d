"""Files of named tensors with a few facts beside them: safetensors, written whole or not at all."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import IncompatibleMoments


def write_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes to a temporary name, syncs and renames, so that a file of this name is always
    complete.
    """
    from safetensors.torch import save_file

    target = Path(path)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    metadata = {"unlearn": json.dumps({"kind": kind, **facts})}
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors makes files that only their owner can read
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and the facts of a file that `write_tensors` wrote.

    Raises `FileNotFoundError`, and `IncompatibleMoments` where the file holds something else or is
    cut short.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).exists():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("unlearn", "{}"))
            if facts.get("kind") != kind:
                raise IncompatibleMoments(f"{path}: holds {facts.get('kind', 'other tensors')}, not {kind}")
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise IncompatibleMoments(f"{path}: not readable as {kind} ({error}); it may be cut short") from None
