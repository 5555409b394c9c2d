"""Makes `import torchvision` work beside a torch that its compiled extension was not built for.

The torchvision wheels on PyPI are built against CUDA torch. Beside a CPU-only torch their extension
cannot be loaded, and the import dies because two operators that it would have declared are missing.
Declaring the operators' signatures is enough for models, transforms, datasets and feature
extraction; `torchvision.ops.nms` itself stays unusable.

This must run before torchvision is imported, so every package here takes torchvision from
`load_torchvision`. Importing it takes a second, and most models and data sets do without.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None  # the declarations live as long as this object does


def _extension_loads(folder: Path) -> bool:
    extensions = [path for pattern in ("_C*.so", "_C*.pyd", "_C*.dylib") for path in folder.glob(pattern)]
    for path in extensions:
        try:
            ctypes.CDLL(os.fspath(path))
        except OSError:
            return False
    return bool(extensions)


def declare_operators() -> bool:
    """Declares torchvision's operators where its extension cannot be loaded.

    Returns whether they are declared here.
    """
    global _library
    if _library is not None:
        return True
    if "torchvision" in sys.modules:
        return False
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("torchvision")
        if spec is not None and spec.origin is not None and not _extension_loads(Path(spec.origin).parent):
            _library = torch.library.Library("torchvision", "FRAGMENT")
            _library.define(f"nms{_SIGNATURE}")
            _library.define(f"qnms{_SIGNATURE}")
    return _library is not None


declare_operators()


def load_torchvision() -> ModuleType:
    """Returns the package `torchvision` with `models`, `datasets` and `transforms`.

    **Raises:** `ImportError` where it is not installed.
    """
    import torchvision

    return torchvision
