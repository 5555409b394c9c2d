"""What unlearning methods share, so that each reads like its formula.

A method is a subclass of `KitMethod` or `GradientMethod` with one function, `run`, which works on a
`Task`.
"""

from .gradient import GradientMethod
from .losses import cross_entropy, divergence, per_sample_cross_entropy
from .samples import Batch, Samples, mixed, other_labels, paired
from .task import KitMethod, Network, Task

__all__ = [
    "Batch",
    "GradientMethod",
    "KitMethod",
    "Network",
    "Samples",
    "Task",
    "cross_entropy",
    "divergence",
    "mixed",
    "other_labels",
    "paired",
    "per_sample_cross_entropy",
]
