"""Machine unlearning for image classifiers: models, data, training, second moments, projection,
methods. Needs torch only.

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
    "Scenario": "unlearn.data.scenario",
    "Split": "unlearn.data.scenario",
    "make_split": "unlearn.data.scenario",
    "MODELS": "unlearn.models",
    "build_model": "unlearn.models",
    "small_vgg": "unlearn.models",
    "all_cnn": "unlearn.models",
    "resnet18": "unlearn.models",
    "Training": "unlearn.training.recipe",
    "train": "unlearn.training.train",
    "train_together": "unlearn.training.train",
    "Graphs": "unlearn.training.graphs",
    "predict": "unlearn.training.predict",
    "accuracy": "unlearn.training.predict",
    "SecondMoments": "unlearn.moments.moments",
    "second_moments": "unlearn.moments.moments",
    "Fisher": "unlearn.moments.fisher",
    "fisher_diagonal": "unlearn.moments.fisher",
    "CoreBasis": "unlearn.moments.basis",
    "METHODS": "unlearn.methods",
    "UnlearnResult": "unlearn.methods",
    "UnlearnError": "unlearn.methods",
    "PGU": "unlearn.methods",
    "DepoisonPGU": "unlearn.methods",
    "IncrementalPGU": "unlearn.methods",
    "Method": "unlearn.methods",
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
