"""Weights of the user's own: where unlearned ones are written, tried before any work."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ..base.errors import EnvironmentFault, UserError
from ..base.files import write_synced
from ..base.values import finite
from .tensors import tensors_of

MADE_BY = {"made_by": "orchestrator unlearn"}  # metadata of the weights that we wrote


class WeightsFile:
    """A `.safetensors` file and the `.json` beside it, which says how the weights came about."""

    def __init__(self, path: Path):
        self.path = path
        self.report = path.with_suffix(".json") if path.name else path  # `.` has no name

    def claim(self, inputs: Mapping[str, Path | None], force: bool = False) -> None:
        """Makes sure that both files can be written and replace nothing of the user's. Changes
        nothing.

        **Arguments:** `inputs`: option → file that is read. `force`: replace files that we did not
        write, but never inputs.

        **Raises:** `UserError` naming the option or the file; `EnvironmentFault` where the folder
        cannot be written.
        """
        if self.path.suffix != ".safetensors":
            raise UserError(
                f"--output: {str(self.path)!r}: weights are written as safetensors; name a file that ends in .safetensors"
            )
        for target in (self.path, self.report):
            for option, given in inputs.items():
                if given is not None and _same_file(target, given):
                    raise UserError(f"--output: {str(target)!r}: is {option}, which would be lost; give another name")
            if target.is_dir():
                raise UserError(f"--output: {str(target)!r}: is a folder; give the name of a file")
        if not force:
            for target, ours in ((self.path, self._weights_are_ours), (self.report, self._report_is_ours)):
                if target.exists() and not ours():
                    raise UserError(
                        f"--output: {str(target)!r}: exists and is not ours; give another name, or --force to replace it"
                    )
        _try_folder(self.path)

    def _report_is_ours(self) -> bool:
        try:
            document = json.loads(self.report.read_bytes())
        except (OSError, ValueError):
            return False
        return isinstance(document, dict) and {"method", "history", "output"} <= set(document)

    def _weights_are_ours(self) -> bool:
        try:
            with safe_open(self.path, "pt") as file:
                if dict(file.metadata() or {}).items() >= MADE_BY.items():
                    return True
        except (OSError, SafetensorError):
            return False
        return self._report_is_ours()  # an earlier version wrote no metadata

    def write(self, model: nn.Module, document: Mapping[str, object]) -> None:
        """Writes the weights and how they came about, each whole or not at all."""
        write_synced(self.path, save(tensors_of(model), MADE_BY))
        write_synced(self.report, json.dumps(finite(document), indent=1).encode())


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()


def _try_folder(path: Path) -> None:
    """Creates the folder of a file and writes there for a moment."""
    probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
    except OSError as error:
        raise EnvironmentFault(
            f"--output: {str(path)!r}: cannot be written ({error.strerror}); nothing was started"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
