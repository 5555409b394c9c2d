"""`dataset.preprocess` becomes the numbers that it stands for, so that a recipe says what was
done."""

from __future__ import annotations

import dataclasses
import importlib

from unlearn import SOURCES
from unlearn.data.preprocess import preprocessing

from ..base.errors import Fault, one_line
from .options import fault_from
from .own_code import PERMIT


class _NotPermitted(Exception):
    """A recipe names code, and nobody has permitted that."""


def fill_in(document: dict[str, object], found: list[Fault]) -> dict[str, object]:
    """Returns the document with `mean`, `std` and, where the source resizes, `image_size` in place
    of `dataset.preprocess`.

    What the recipe gives itself stays.
    """
    dataset = document.get("dataset")
    if not isinstance(dataset, dict) or "preprocess" not in dataset:
        return document
    rest = {name: value for name, value in dataset.items() if name != "preprocess"}
    if dataset["preprocess"] is None:
        return {**document, "dataset": rest}
    try:
        wanted = preprocessing(_own(dataset["preprocess"]))
    except _NotPermitted as fault:
        found.append(Fault("dataset.preprocess", dataset["preprocess"], str(fault), PERMIT))
        return {**document, "dataset": rest}
    except ValueError as error:
        found.append(fault_from(error, "dataset", dataset))
        return {**document, "dataset": rest}
    values: dict[str, object] = {"mean": list(wanted.mean), "std": list(wanted.std)}
    source = rest.get("source")
    resizes = isinstance(source, str) and source in SOURCES
    if resizes and wanted.image_size and "image_size" in {f.name for f in dataclasses.fields(SOURCES[str(source)])}:
        values["image_size"] = wanted.image_size
    return {**document, "dataset": {**values, **rest}}


def _own(given: object) -> object:
    """Returns `given`, or what a function of the user's own returns that it names."""
    if not isinstance(given, str) or ":" not in given or given.startswith("timm:") or given.endswith(".json"):
        return given
    if not SOURCES.code_allowed:
        raise _NotPermitted("would import and run code of your own")
    module, _, name = given.partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except Exception as error:  # whatever the code of a user raises
        raise ValueError(f"dataset.preprocess: {given!r} cannot be used ({one_line(error)})") from None
