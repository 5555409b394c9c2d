"""What a method is handed, what it does with it, and the base class of methods that are written
with the kit.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...core.batches import EpochCallback, Loader, device_of, kept
from ...core.errors import MethodDidNothing, UnlearnError
from ...core.modes import NORMS, flags_kept, modes_kept
from ...core.numerics import arithmetic, deterministic_convolutions
from ...core.seeds import seeded, stream
from ...models.classes import drop_classes
from ...models.probe import probe_with
from ...models.reset import reset
from ...moments.basis import CoreBasis
from ...moments.fisher import Fisher, fisher_diagonal
from ...moments.moments import SecondMoments
from ...training.graphs import Graphs
from ...training.loop import Job, StopTraining, TrainingDiverged, Work, fit
from ...training.predict import accuracy
from ...training.recipe import Training
from ..base import Method, Needs, UnlearnResult
from .samples import Batch, Samples
from .work import Item, Network, Objective, ObjectiveWork, classify

# The retain set keeps the order that other methods train on it in; the forget set has one of its
# own.
_FORGET_ORDER = 0x5EED
_FIT = 17  # names the random stream


class _Passes:
    """Makes the items of each pass anew, for the training loop."""

    def __init__(self, items: Callable[[int], Iterable[Item]], plain: bool) -> None:
        self.items, self.plain, self.epoch = items, plain, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        for item in self.items(self.epoch):
            yield (item.images, item.labels) if self.plain and isinstance(item, Batch) else item


@dataclass
class Task:
    """One unlearning, from the copied model to the result.

    **Arguments:**

    - `model`: the copy, which the method changes. `original`: the model as given, which nothing may
        change.
    - `forget`, `retain`: the sets. `retain`, `fisher` and `validation` raise where the method has
        not declared that it needs them.
    - `monitor`: what is evaluated after each epoch, the forget
        set among it.
    - `num_classes`: the number of outputs. `forget_classes`: the classes forgotten altogether.
    - `fits`: how many trainings have begun.
    """

    model: nn.Module
    original: nn.Module
    device: torch.device
    seed: int
    precision: str
    forget: Samples
    retain_set: Samples | None
    moments: SecondMoments | CoreBasis | None
    stored_fisher: Fisher | None
    validation_set: Loader | None
    num_classes: int
    forget_classes: tuple[int, ...]
    monitor: Mapping[str, Loader]
    on_epoch: EpochCallback | None
    graphs: Graphs | None
    history: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stopped_at: int | None = None
    fits: int = 0
    kept_as_given: str = ""  # why the model as given may be the result; without it that is an error

    @property
    def retain(self) -> Samples:
        """The retain set, or the share of it that was declared."""
        if self.retain_set is None:
            raise UnlearnError("retain: the method has not declared that it needs it; set its `access`")
        return self.retain_set

    @property
    def validation(self) -> Loader:
        """The held-out samples."""
        if self.validation_set is None:
            raise UnlearnError("validation: the method has not declared that it needs it; set `uses_validation`")
        return self.validation_set

    def fisher(self, statistic: str = "fisher") -> Fisher:
        """The stored statistic of the training data, checked to be of this model."""
        if self.stored_fisher is None:
            raise UnlearnError("fisher: the method has not declared that it needs it; set its `access`")
        self.stored_fisher.check(self.original, statistic)
        return self.stored_fisher

    def fisher_of(self, samples: Samples, statistic: str = "fisher") -> Fisher:
        """The same statistic of one of the sets, computed now, with the model as given."""
        return fisher_diagonal(self.original, samples.plain(), statistic=statistic)

    def teacher(self, module: nn.Module | None = None) -> Network:
        """A frozen copy of `module` (None:

        the model as given) in evaluation mode, that no step can change.
        """
        frozen = copy.deepcopy(self.original if module is None else module).eval()
        frozen.requires_grad_(False)
        frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Network(frozen, self.precision, frozen=True)

    def fresh_teacher(self) -> Network:
        """A teacher of the same architecture that knows nothing: initialised anew, from the
        seed."""
        fresh = copy.deepcopy(self.original)
        with seeded(self.seed):
            reset(fresh.modules())
        return self.teacher(fresh)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that may move: those that require gradients."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def convolutions(self) -> dict[str, nn.Module]:
        """The convolutions of `model` by name, in the order in which they are defined.

        Raises `UnlearnError` where it has none.
        """
        found: dict[str, nn.Module] = {
            name: module for name, module in self.model.named_modules() if isinstance(module, nn.modules.conv._ConvNd)
        }
        if not found:
            raise UnlearnError("model: the method works on convolutions, and this model has none")
        return found

    def fit(
        self,
        training: Training,
        items: Callable[[int], Iterable[Item]],
        objective: Objective | None = None,
        *,
        batch_norm: str = "train",
        dropout: bool = True,
        model: nn.Module | None = None,
        mask: Mapping[str, Tensor] | None = None,
        clip: float | None = None,
        adjust: Callable[[Item], None] | None = None,
        after_epoch: Callable[[int], bool | None] | None = None,
    ) -> None:
        """Trains with the shared loop: `items(epoch)` yields what each step of a pass works on.

        **Arguments:**

        - `objective`: the network and an item to the loss. None is cross-entropy on batches, as in
            training; without a mask, a clipped norm or an adjustment its steps are those of
            training.
        - `batch_norm`: `train` lets normalisation learn the statistics of the batches; `frozen`
            keeps them. `dropout`: false puts all other layers in evaluation mode.
        - `model`: None for the task's own. `mask`, `clip`, `adjust`: see `ObjectiveWork`.
        - `after_epoch`: called with the number of the pass (1, 2, …) when it is over; a true answer
            ends the training.

        The first training draws dropout from the task's seed, each later one from a seed of its
        own.
        """
        trained = self.model if model is None else model
        passed, seed = len(self.history), self._fit_seed()

        def set_mode() -> None:
            trained.train(dropout)
            for module in trained.modules():
                if isinstance(module, NORMS):
                    module.train(batch_norm == "train")

        def report(row: dict[str, Any]) -> None:
            if trained is self.model:
                self.report({**row, "epoch": passed + row["epoch"]})
            if after_epoch is not None and after_epoch(row["epoch"]):
                raise StopTraining

        def work() -> Work:
            options = {"mask": mask, "clip": clip, "adjust": adjust}
            wanted = classify if objective is None else objective
            return ObjectiveWork(trained, training, self.device, seed, wanted, **options)  # type: ignore[arg-type]

        plain = objective is None and mask is None and clip is None and adjust is None
        loader: Any = _Passes(items, plain)
        job = Job(trained, loader, training, seed, set_mode, report, None if plain else work)
        try:
            fit(job, self.graphs)
        except TrainingDiverged as error:
            raise UnlearnError(str(error)) from error
        self.notes += [note for note in job.notes if note not in self.notes]

    def _fit_seed(self) -> int:
        """The seed of the next training: its masks must not be those of an earlier one."""
        number, self.fits = self.fits, self.fits + 1
        return int(stream(self.seed, _FIT, number).integers(2**63)) if number else self.seed

    def report(self, row: dict[str, Any]) -> None:
        """Adds an epoch to the history, with the accuracies after it."""
        row |= {f"{name}_accuracy": accuracy(self.model, loader) for name, loader in self.monitor.items()}
        self.history.append(row)
        if self.on_epoch is not None:
            self.on_epoch(row)


@dataclass(frozen=True)
class KitMethod(Method):
    """A method that is written with the kit: it changes `task.model` in `run`.

    What every method must do is done here. The model as given keeps its bits. A missing input, an
    empty forget set and a method that did nothing are told. Modes and `requires_grad` are put back,
    random numbers come from `seed` alone.
    """

    statistic: ClassVar[str] = "fisher"  # which one is stored, where `access` is `fisher`

    def needs(self) -> Needs:
        """What `access` and `statistic` say."""
        return Needs(access=self.access, statistic=self.statistic)

    @abstractmethod
    def run(self, task: Task) -> None:
        """Changes `task.model`."""

    def setting(self, name: str, default: Any) -> Any:
        """The value of a field that not every method has."""
        return getattr(self, name, default)

    def require(self, name: str, holds: bool, allowed: str) -> None:
        """Raises `ValueError` unless the field `name` may have the value that it has.

        **Arguments:** `allowed`: what to give, as in `a number above 0`.
        """
        if not holds:
            raise ValueError(f"{name}: {getattr(self, name)!r} is not allowed; give {allowed}")

    def one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        """Raises `ValueError` unless the field `name` has one of the values that are allowed."""
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name}: {getattr(self, name)!r} is not allowed; allowed are {', '.join(allowed)}")

    def unlearn(
        self,
        model: nn.Module,
        *,
        forget: Loader,
        retain: Loader | None = None,
        moments: SecondMoments | CoreBasis | None = None,
        fisher: Fisher | None = None,
        validation: Loader | None = None,
        num_classes: int | None = None,
        forget_classes: tuple[int, ...] = (),
        monitor: Mapping[str, Loader] | None = None,
        on_epoch: EpochCallback | None = None,
        graphs: Graphs | None = None,
    ) -> UnlearnResult:
        """Returns an unlearned copy of `model`; see `Method.unlearn`.

        Raises `UnlearnError` where an input is missing or empty, `MethodDidNothing` where no weight
        changed.
        """
        needs = self.needs()
        given = {"retain": retain, "moments": moments, "fisher": fisher, "validation": validation}
        for name in sorted(needs.names() & set(given)):
            if given[name] is None:
                raise UnlearnError(f"{name}: {self.name} needs it; give {name}=…")
        if not forget_classes and self.scenarios == frozenset({"classes"}):
            raise UnlearnError(f"forget_classes: {self.name} forgets whole classes only; give the classes")
        result = copy.deepcopy(model)
        forget = kept(forget)
        looked = probe_with(result, forget)
        assert looked is not None, "the forget set can be read again"
        self.check_model(result, looked)
        if forget_classes:
            looked.require_head(result, num_classes)
        device = device_of(result)
        seed = int(self.setting("seed", 0))
        options: dict[str, Any] = {"device": device, "batch_size": needs.batch_size, "augment": needs.augment}
        forgotten = Samples(forget, "forget", seed=(seed + _FORGET_ORDER) % 2**63, **options)
        task = Task(
            model=result,
            original=model,
            device=device,
            seed=seed,
            precision=str(self.setting("precision", "float32")),
            forget=forgotten,
            retain_set=Samples(retain, "retain", seed=seed, **options) if retain is not None and needs.retain else None,
            moments=moments if needs.access == "moments" else None,
            stored_fisher=fisher if needs.access == "fisher" else None,
            validation_set=validation if needs.validation else None,
            num_classes=num_classes or looked.outputs,
            forget_classes=tuple(forget_classes),
            monitor={"forget": forgotten.plain(512), **(monitor or {})},
            on_epoch=on_epoch,
            graphs=graphs if needs.graphs else None,
        )
        with (
            flags_kept(result),
            modes_kept(result),
            seeded(seed),
            arithmetic(task.precision),
            deterministic_convolutions(),
        ):
            self.run(task)
        for parameter in result.parameters():
            parameter.grad = None
        if not _changed(self.name, model, task.model):
            if not task.kept_as_given:
                raise MethodDidNothing(
                    f"{self.name}: it left every weight as it was; raise lr, epochs or the strength of its effect"
                )
            task.notes.append(f"the model is as it was given: {task.kept_as_given}")
        return UnlearnResult(drop_classes(task.model, task.forget_classes), task.history, task.stopped_at, task.notes)


def _changed(name: str, before: nn.Module, after: nn.Module) -> bool:
    """Whether any weight moved. Raises `UnlearnError` where one is no longer finite."""
    weights = dict(before.named_parameters())
    found = [(key, p) for key, p in after.named_parameters() if not torch.equal(p, weights[key])]
    for key, parameter in found:
        if not bool(torch.isfinite(parameter).all()):
            raise UnlearnError(
                f"lr: {name} left values in {key} that are not finite; lower lr or the method's strength"
            )
    return bool(found)
