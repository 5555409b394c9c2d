"""Checkpoints of the user's own: their weights, whatever they are wrapped in, without executing
anything they carry."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unlearn import MODELS
from unlearn.models import build_shapes, torchvision_names

from ..base.errors import UserError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "params", "ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")


def load_weights(model: nn.Module, path: Path, option: str = "--model") -> list[str]:
    """Loads a checkpoint into a model, in place.

    A mapping around the weights (`{"net": …}`) comes off where the model has none. So does a prefix
    that all names share (`module.` of DataParallel, `_orig_mod.` of torch.compile).

    **Arguments:** `option`: that named the file, for errors.

    **Returns:** what was taken off, one sentence each.

    **Raises:** `UserError`, one line, where the file cannot be read, holds more than weights, or
    does not fit the model.
    """
    state, notes = _unwrapped(_read(path, option), path, option)
    wanted = model.state_dict()
    state, taken = _without_prefixes(state, set(wanted))
    if taken:
        notes.append(f"the prefix {taken!r} was taken off all names")
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    shapes = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if missing or unknown or shapes:
        parts = [_few(missing, "lacks"), _few(unknown, "has no place for")]
        if shapes:
            name = shapes[0]
            parts.append(f"{name} is {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}")
        told = "; ".join(part for part in parts if part)
        raise UserError(f"{option}: {str(path)!r}: does not fit the recipe's model: {told}")
    model.load_state_dict(state)
    return notes


def guess_architecture(path: Path) -> str:
    """Returns the name of the model whose weights have the names and shapes of a checkpoint's.

    The head may be of other classes, and the first convolution of other channels.

    **Raises:** `UserError` where no built-in or torchvision classifier of usual width fits.
    """
    option = "--model"
    given, _ = _unwrapped(_read(path, option), path, option)
    names = torchvision_names()
    first = [name for name in names if name.startswith(("resnet", "vgg", "mobilenet", "efficientnet_b0"))]
    for name in dict.fromkeys([*MODELS.built_in, *first, *names]):
        try:
            # Vision transformers are made for images of one size, most of them for this one.
            size = {"image_size": 224} if name.startswith("vit_") else {}
            wanted = build_shapes(name, num_classes=10, **size).state_dict()
        except Exception:  # some refuse to be built for other images, each in its own way
            continue
        state, _ = _without_prefixes(given, set(wanted))
        if set(state) == set(wanted) and sum(state[n].shape != wanted[n].shape for n in wanted) <= 3:
            return name
    raise UserError(
        f"{option}: {str(path)!r}: of no architecture of usual width that is known here; give --arch NAME, "
        "--arch '{name: small_vgg, width: 0.125}' or --arch package.module:factory"
    )


def _few(names: list[str], what: str) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    who = "it lacks" if what == "lacks" else "the model has no place for"
    return f"{who} {', '.join(names[:3])}{more}"


def _read(path: Path, option: str) -> object:
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{option}: {str(path)!r}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{option}: {str(path)!r}: is a folder; give the file in it") from None
    except pickle.UnpicklingError:
        if not _looks_saved(path):
            raise UserError(
                f"{option}: {str(path)!r}: no checkpoint; give .safetensors, or what torch.save wrote"
            ) from None
        raise UserError(
            f"{option}: {str(path)!r}: holds more than weights; save model.state_dict() instead of the whole model"
        ) from None
    except Exception as error:
        raise UserError(
            f"{option}: {str(path)!r}: not readable as weights ({type(error).__name__}); it may be cut short"
        ) from None


def _looks_saved(path: Path) -> bool:
    """Whether a file begins as a zip archive or a pickle does: what torch.save writes, today and
    before."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))


def _unwrapped(content: object, path: Path, option: str) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the mapping of names to tensors that a checkpoint holds, and what lay around it."""
    notes: list[str] = []
    for _ in range(3):
        if not isinstance(content, Mapping) or not content:
            break
        if all(isinstance(value, Tensor) for value in content.values()):
            return {str(name): value for name, value in content.items()}, notes
        inner = [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if not inner:
            break
        notes += [f"the weights were taken from {inner[0]!r}"]
        content = content[inner[0]]
    shown = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
    raise UserError(
        f"{option}: {str(path)!r}: holds no weights by name ({shown or 'nothing'}); save model.state_dict(), "
        f"alone or under one of {', '.join(WRAPPERS)}"
    )


def _without_prefixes(state: dict[str, Tensor], wanted: set[str]) -> tuple[dict[str, Tensor], str]:
    taken = ""
    while not set(state) & wanted:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), "")
        if not prefix:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        taken += prefix
    return state, taken
