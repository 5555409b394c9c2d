"""What items of a reproduction will take: each unit once, by what such units took before.

Where no such unit is in the store, seconds come from operations. The training benchmark says how
many of them a second two cores do, and what a GPU is taken to do. See `docs/results/training`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from unlearn import build_model
from unlearn.data import ImageDataset
from unlearn.methods.base import Method

from ...base.values import canonical, plain
from ...plan.data import ExperimentData, load_data
from ...plan.plan import make_plan
from ...plan.specs import TrainSpec, UnlearnSpec
from ...plan.units import Unit
from ...recipe.choices import Choice
from ...recipe.sections import Recipe
from ...store import Store
from ..estimate import STATISTICS, Pace, groups_of, learn
from .item import Item
from .runner import recipe_of

# Operations a second of two cores in training, by model: at a quarter and at full width, 32×32. It
# is images a second times operations an image: docs/results/training, commit 4a0fc39.
CPU_RATES = {"small_vgg": (159e9, 212e9), "all_cnn": (145e9, 193e9), "resnet18": (149e9, 222e9)}
# Of one H200: a bf16 matrix product reaches 790e12. Published training of small images reaches 36 %
# to 45 % of a GPU's peak. No code of this project has been timed on a GPU.
GPU_RATE = 0.36 * 790e12
EIGEN_SECONDS = 1.6e-10  # times d³: a float64 decomposition on two cores
MATMUL_RATE = 200e9  # of second moments, on two cores


@dataclass(frozen=True)
class Price:
    """What one item adds to those before it.

    **Arguments:** `units` are missing. `seconds` of two cores, or of one GPU, that they take.
    `measured` of the units are priced by stored ones of their kind, the others by operations.
    `shared` units count with an item before.
    """

    name: str
    units: int
    seconds: float
    measured: int
    shared: int
    gpu: bool

    @property
    def hours(self) -> float:
        return self.seconds / 3600


@dataclass(frozen=True)
class Size:
    """What a model's operations are for one image.

    **Arguments:** `forward`: of a forward pass. `moments`: of summing second moments. `dimensions`:
    of each layer's input vectors.
    """

    forward: float
    moments: float
    dimensions: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, channels: int, image_size: int) -> Size:
        """Counts the operations of convolutions and linear layers; nothing is computed."""
        forward, moments, dimensions = 0.0, 0.0, []

        def watch(layer: nn.Module, _: object, output: torch.Tensor) -> None:
            nonlocal forward, moments
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            size = layer.weight[0].numel()
            places = output[0].numel() // layer.weight.shape[0]
            forward += 2.0 * places * layer.weight.numel()
            moments += 2.0 * places * size * size
            dimensions.append(size)

        layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        handles = [layer.register_forward_hook(watch) for layer in layers]
        model.to("meta").eval()(torch.zeros(1, channels, image_size, image_size, device="meta"))
        for handle in handles:
            handle.remove()
        return cls(forward, moments, tuple(dimensions))


def price(items: Sequence[Item], size: str, overrides: Sequence[str] = (), store: Store | None = None) -> list[Price]:
    """Returns what each item adds, in the order in which they run. Nothing is trained.

    Unlearning is priced at all the passes that its settings allow. An early stop makes it cheaper.
    """
    counted: set[str] = set()
    decoded: dict[str, ImageDataset] = {}
    found: list[Price] = []
    for item in items:
        total, missing, measured, shared, gpu = 0.0, 0, 0, 0, False
        for each in item.runs:
            recipe = recipe_of(each, size, overrides)
            source = canonical(plain(recipe.section("dataset")))
            data = load_data(recipe, store, keep=False, stand_in=True, decoded=decoded.get(source))
            decoded = {source: data.dataset}  # items of the same data follow each other
            plan = make_plan(recipe, data)
            groups = groups_of(plan)
            keys = [unit.key for units in groups.values() for unit in units]
            stored = set() if store is None else store.committed(keys)
            model = _Priced(recipe, data, learn(groups, stored, store, data.digest))
            gpu = gpu or model.gpu
            for unit in (unit for units in groups.values() for unit in units):
                if unit.key in counted:
                    shared += unit.kind not in STATISTICS
                    continue
                counted.add(unit.key)
                if unit.key in stored:
                    continue
                seconds, known = model.seconds(unit)
                total, missing, measured = total + seconds, missing + 1, measured + known
        found.append(Price(item.name, missing, total, measured, shared, gpu))
    return found


class _Priced:
    """Prices the units of one recipe."""

    def __init__(self, recipe: Recipe, data: ExperimentData, pace: Pace):
        self.recipe, self.data, self.pace = recipe, data, pace
        self.gpu = recipe.resources.gpus_per_unit > 0
        dataset = data.dataset
        options = dict(recipe.model.options)
        model = build_model(recipe.model.name, num_classes=dataset.num_classes, in_channels=dataset.channels,
                            image_size=dataset.image_size, **options)  # fmt: skip
        self.size = Size.of(model, dataset.channels, dataset.image_size)
        self.rate = GPU_RATE if self.gpu else cpu_rate(recipe.model)

    def seconds(self, unit: Unit) -> tuple[float, bool]:
        """Returns the seconds of a unit, with every core or one GPU, and whether they are of stored
        units."""
        stored = self.pace.seconds(unit, self.data.digest)
        if stored is not None and not self.gpu:
            # A unit has one core of two; two of them run at once.
            return stored / 2, True
        return self._by_operations(unit), False

    def _by_operations(self, unit: Unit) -> float:
        train, forward = 3 * self.size.forward / self.rate, self.size.forward / self.rate
        split = self.data.split
        spec = unit.spec
        if isinstance(spec, TrainSpec):
            return unit.cost * train
        if isinstance(spec, UnlearnSpec):
            method, passes = spec.params, spec.params.passes()
            looked = _looked_at(method, len(split.forget), len(split.retain), len(split.val))
            steps = max(1, len(split.steps)) if method.in_steps else 1
            eigen = self._eigen() * steps if spec.moments else 0.0
            # The forget set is spread over the steps, retain data is read in each of them.
            images = unit.cost * (steps if method.needs().retain else 1)
            return images * train + passes * looked * steps * forward + eigen
        if unit.kind == "moments":
            return len(split.labels) * (forward + self.size.moments / MATMUL_RATE)
        if unit.kind == "basis":
            return self._eigen()
        if unit.kind in ("outputs", "unseen", "retained", "fisher"):
            return unit.cost * forward * (3 if unit.kind == "fisher" else 1)
        return 5.0 if unit.kind in ("attack", "score") else 1.0

    def _eigen(self) -> float:
        samples = len(self.data.split.labels)
        sizes = [min(size, samples) for size in self.size.dimensions]
        return sum(EIGEN_SECONDS * size**3 for size in sizes)


def _looked_at(method: Method, forget: int, retain: int, held: int) -> int:
    """Images that are evaluated after each pass."""
    needs = method.needs()
    return (forget + held if needs.validation else 0) + (retain + held if needs.monitor else 0)


def cpu_rate(model: Choice) -> float:
    """Returns the operations a second of two cores, by the logarithm of the width."""
    low, high = CPU_RATES.get(model.name, (100e9, 150e9))
    given = model.options.get("width", 1.0)
    width = float(given) if isinstance(given, int | float) else 1.0
    share = min(1.0, max(0.0, math.log2(width * 4) / 2))
    return low * (high / low) ** share


def table(prices: Sequence[Price]) -> str:
    """Returns prices as text."""
    what = "GPU-hours" if any(each.gpu for each in prices) else "hours"
    lines = [f"{'item':<26}{'units':>7}{'shared':>8}{what:>11}"]
    lines += [f"{each.name:<26}{each.units:>7}{each.shared:>8}{each.hours:>11.2f}" for each in prices]
    lines.append(f"{'all':<26}{sum(e.units for e in prices):>7}{'':>8}{sum(e.hours for e in prices):>11.2f}")
    known, units = sum(e.measured for e in prices), sum(e.units for e in prices)
    lines.append(f"{known} of {units} units are priced by stored ones, the others by their operations")
    if any(each.gpu for each in prices):
        lines.append(
            f"of a GPU that does {GPU_RATE / 1e12:.0f} TFLOP/s, which no code of this project has been timed on"
        )
    else:
        lines.append("of two cores; unlearning at all its passes, so an early stop makes it cheaper")
    return "\n".join(lines)


def documents(prices: Sequence[Price]) -> list[Mapping[str, object]]:
    """Returns prices as JSON data."""
    return [{**vars(each), "hours": each.hours} for each in prices]
