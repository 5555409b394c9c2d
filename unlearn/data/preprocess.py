"""How a published model wants its images: mean, standard deviation and size, by name or from a
configuration."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core._torchvision import load_torchvision
from ..core.paths import local_path

_WAYS = "a torchvision model or its weights, timm:NAME, a .json file, or a mapping with mean and std"


@dataclass(frozen=True)
class Preprocessing:
    """What a model was trained with.

    **Arguments:** `mean`, `std`: one number a channel, of pixels in [0, 1]. `image_size`: pixels a
    side, None where it is not said.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None = None


def preprocessing(given: Any) -> Preprocessing:
    """Returns the preprocessing that `given` names or holds. Nothing is downloaded.

    **Arguments:** `given` is one of these:

    - a torchvision classifier (`resnet50`: of its default weights) or its weights
      (`ResNet50_Weights.IMAGENET1K_V1`);
    - `timm:NAME`, where timm is installed;
    - the path of a `.json` file, or a mapping: timm's `config.json`, or Hugging Face's
      `preprocessor_config.json`, or just `mean` and `std`.

    Raises `ValueError` naming what is allowed.
    """
    if isinstance(given, Mapping):
        return _of_mapping(given, "dataset.preprocess")
    if not isinstance(given, str) or not given:
        raise ValueError(f"dataset.preprocess: {given!r} is not allowed; give {_WAYS}")
    if given.endswith(".json"):
        return _of_file(local_path(given))
    if given.startswith("timm:"):
        return _of_timm(given.removeprefix("timm:"))
    return _of_torchvision(given)


def _of_file(path: Path) -> Preprocessing:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"dataset.preprocess: {str(path)!r}: {error.strerror or 'cannot be read'}") from None
    except ValueError:
        raise ValueError(f"dataset.preprocess: {str(path)!r}: not readable as JSON") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"dataset.preprocess: {str(path)!r}: no mapping with mean and std")
    return _of_mapping(content, f"dataset.preprocess: {str(path)!r}")


def _of_mapping(given: Mapping[str, Any], where: str) -> Preprocessing:
    inner = given.get("pretrained_cfg", given)
    found = inner if isinstance(inner, Mapping) else given
    mean, std = (found.get(name, found.get(f"image_{name}")) for name in ("mean", "std"))
    for name, values in (("mean", mean), ("std", std)):
        if not _numbers(values):
            raise ValueError(f"{where}: {name}: {values!r} is not allowed; give a list of numbers, one a channel")
    return Preprocessing(tuple(map(float, mean or ())), tuple(map(float, std or ())), _size(found))


def _numbers(values: Any) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and bool(values)
        and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    )


def _size(found: Mapping[str, Any]) -> int | None:
    """Returns the side of the images: timm says `input_size` (channels, height, width), Hugging
    Face `crop_size` or `size`."""
    size = found.get("input_size", found.get("crop_size", found.get("size")))
    if isinstance(size, Mapping):
        size = size.get("height", size.get("shortest_edge"))
    if isinstance(size, Sequence) and not isinstance(size, str):
        size = size[-1] if size else None
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


def _of_timm(name: str) -> Preprocessing:
    try:
        timm: Any = importlib.import_module("timm")  # not a requirement: few need it
    except ImportError:
        raise ValueError(
            f"dataset.preprocess: 'timm:{name}' needs timm, which is not installed; give its config.json instead"
        ) from None
    known = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if known is None:
        raise ValueError(f"dataset.preprocess: 'timm:{name}': timm knows no such model")
    return _of_mapping({key: getattr(known, key) for key in ("mean", "std", "input_size")}, "dataset.preprocess")


def _of_torchvision(name: str) -> Preprocessing:
    models = load_torchvision().models
    try:
        weights = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
    except ValueError:
        raise ValueError(f"dataset.preprocess: {name!r} is not allowed; give {_WAYS}") from None
    found = weights.transforms()
    size = getattr(found, "crop_size", None)
    if size is None or not hasattr(found, "mean"):
        raise ValueError(f"dataset.preprocess: {name!r} is no classifier; give {_WAYS}")
    return Preprocessing(tuple(map(float, found.mean)), tuple(map(float, found.std)), int(size[-1]))
