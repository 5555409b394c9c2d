"""Machine unlearning for image classifiers: models, data, training, second moments, projection, methods. Needs torch only.

Names are loaded on first use, so that ``import unlearn`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "ImageDataset": "unlearn.data",
    "ImageSet": "unlearn.data",
    "ArrayLoader": "unlearn.data",
    "load_dataset": "unlearn.data",
    "SOURCES": "unlearn.data",
    "Scenario": "unlearn.scenario",
    "Split": "unlearn.scenario",
    "make_split": "unlearn.scenario",
    "MODELS": "unlearn.models",
    "build_model": "unlearn.models",
    "small_vgg": "unlearn.models",
    "all_cnn": "unlearn.models",
    "resnet18": "unlearn.models",
    "Training": "unlearn.training",
    "train": "unlearn.training",
    "train_together": "unlearn.training",
    "Graphs": "unlearn.graphs",
    "predict": "unlearn.training",
    "accuracy": "unlearn.training",
    "SecondMoments": "unlearn.moments",
    "second_moments": "unlearn.moments",
    "CoreBasis": "unlearn.projection",
    "METHODS": "unlearn.methods",
    "UnlearnResult": "unlearn.methods",
    "UnlearnError": "unlearn.methods",
    "PGU": "unlearn.methods",
    "IncrementalPGU": "unlearn.methods",
    "EUk": "unlearn.methods",
    "CFk": "unlearn.methods",
    "Retrain": "unlearn.methods",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'unlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
