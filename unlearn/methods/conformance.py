"""What every unlearning method must do, tried on a tiny model: a report, not an opinion.

Run it on a method of your own before you trust its numbers: `orchestrator check-method
package.module:Class`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.batches import Loader
from ..core.errors import MethodDidNothing
from ..core.seeds import seeded, stream
from ..data.images import ImageSet, make_dataset
from ..data.loader import ArrayLoader
from ..data.scenario import KINDS, Scenario, Split, make_split
from ..moments.fisher import fisher_diagonal
from ..moments.moments import second_moments
from ..training.predict import predict
from ..training.recipe import Training
from ..training.train import train
from .base import Method, UnlearnResult, share_of

CLASSES, SAMPLES, FORGET = 4, 160, 24

CHECKS = {
    "G0": "the class declares what it is: card, presets and ranges fit its fields",
    "G1": "the model that it is given keeps its bits",
    "G2": "doing nothing is told",
    "G3": "the same seed gives the same bits, another seed other bits",
    "G4": "data that it has not declared are never touched",
    "G5": "batch normalisation follows the policy, and its statistics stay finite",
    "G6": "statistics do not depend on the size or the order of batches",
    "G7": "modes, requires_grad and random numbers are left as they were",
    "G8": "an empty forget set, a missing input and a wrong scenario are told in one line",
    "G9": "the forget set is not learned better, and the retain set is not lost",
    "G10": "forgotten classes have no output any more",
}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    **Arguments:** `check`: G0 to G10, see `CHECKS`. `holds`: None where the check does not apply.
    `why`: what was seen.
    """

    check: str
    holds: bool | None
    why: str = ""


class _Fault(Exception):
    """A check does not hold."""


class _Skip(Exception):
    """A check does not apply."""


class Untouchable:
    """Data that may not be touched: whatever is done with it raises."""

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __getattr__(self, attribute: str) -> Any:
        raise _Fault(f"it touched {object.__getattribute__(self, '_name')}, which it has not declared")

    def __iter__(self) -> Iterator[Any]:
        raise _Fault(f"it read {object.__getattribute__(self, '_name')}, which it has not declared")


@dataclass(frozen=True)
class _Problem:
    """A trained model, its data, and a forget set."""

    model: nn.Sequential
    images: np.ndarray
    labels: np.ndarray
    forget: np.ndarray
    retain: np.ndarray
    held_out: tuple[np.ndarray, np.ndarray]
    forget_classes: tuple[int, ...]

    def loader(self, rows: np.ndarray, batch_size: int = 32, **options: Any) -> ArrayLoader:
        # A set of its own: a loader over all images would let a method see more than it is handed.
        settings: dict[str, Any] = {"mean": (0.5,), "std": (0.25,), "batch_size": batch_size, **options}
        return ArrayLoader(self.images[rows], self.labels[rows], **settings)


def _net() -> nn.Sequential:
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(48, 24),
            nn.ReLU(),
            nn.Linear(24, CLASSES),
        )


def _draw(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    random = stream(seed)
    patterns = stream(7).normal(size=(CLASSES, 8, 8, 1))
    labels = np.arange(count) % CLASSES
    noisy = 0.5 + 0.12 * patterns[labels] + 0.15 * random.normal(size=(count, 8, 8, 1))
    return (noisy.clip(0, 1) * 255).round().astype(np.uint8), labels.astype(np.int64)


@cache
def _problem(classes: bool) -> _Problem:
    """The model remembers its data; a forget set of samples, or of one class."""
    images, labels = _draw(1, SAMPLES)
    model = _net()
    rows = np.flatnonzero(labels == 0) if classes else np.arange(FORGET)
    everything = ArrayLoader(images, labels, mean=(0.5,), std=(0.25,), batch_size=32, shuffle=True)
    recipe = Training(lr=0.05, final_lr=0.005, epochs=17, batch_size=32, augment=None, weight_decay=0.0)
    train(model, everything, recipe, seed=0)
    rest = np.setdiff1d(np.arange(SAMPLES), rows)
    return _Problem(model.eval(), images, labels, rows, rest, _draw(2, 80), (0,) if classes else ())


class _Trial:
    """A method with settings that suit the tiny problem."""

    def __init__(self, cls: type[Method], options: Mapping[str, Any]) -> None:
        self.cls = cls
        names = _option_names(cls)
        small = {"epochs": 2, "batch_size": 16}
        self.options = {**{k: v for k, v in small.items() if k in names}, **cls.examples, **options}
        self.names = names
        self.problem = _problem(classes=not cls.scenarios & {"samples", "incremental", "poison"})

    def method(self, **changes: Any) -> Method:
        return self.cls.of(**{**self.options, **changes})

    def given(self, method: Method, problem: _Problem | None = None) -> dict[str, Any]:
        """What `method` declares, and untouchable data in every other place."""
        p, needs = problem or self.problem, method.needs()
        everything = p.loader(np.arange(SAMPLES))
        held_out = ArrayLoader(*p.held_out, mean=(0.5,), std=(0.25,), batch_size=64)
        given: dict[str, Any] = {
            "forget": p.loader(p.forget, needs.batch_size),
            "retain": Untouchable("the retain set"),
            "moments": Untouchable("second moments"),
            "fisher": Untouchable("the Fisher diagonal"),
        }
        if needs.retain:
            rows = share_of(p.retain, needs.retain, 0)
            given["retain"] = p.loader(rows, needs.batch_size, shuffle=True, augment=needs.augment)
        if needs.access == "moments":
            given["moments"] = second_moments(p.model, everything)
        if needs.access == "fisher":
            given["fisher"] = fisher_diagonal(p.model, everything, statistic=needs.statistic)
        if needs.validation:
            given["validation"] = held_out
        if needs.monitor:
            given["monitor"] = {"retain": p.loader(p.retain), "test": held_out}
        if p.forget_classes:
            given |= {"forget_classes": p.forget_classes, "num_classes": CLASSES}
        return given

    def run(
        self, model: nn.Module | None = None, given: Mapping[str, Any] | None = None, **changes: Any
    ) -> UnlearnResult:
        method = self.method(**changes)
        wanted = self.given(method) if given is None else given
        # A copy: what a faulty method does to it must not reach the next check.
        return method.unlearn(copy.deepcopy(self.problem.model) if model is None else model, **wanted)


def _option_names(cls: type) -> set[str]:
    found: set[str] = set()
    for item in dataclasses.fields(cls):
        inner = item.default_factory
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            found |= _option_names(inner)
        found.add(item.name)
    return found


def check_method(cls: type[Method], **options: Any) -> list[Finding]:
    """Tries the generic properties of `CHECKS` on a tiny model; takes seconds.

    **Arguments:** `options`: settings of the method, beside those that it names in `examples`.
    """
    trial = _Trial(cls, options)
    return [_tried(name, check, trial) for name, check in _CHECKS.items()]


def assert_conforms(cls: type[Method], **options: Any) -> None:
    """Raises `AssertionError` with one line for each check that does not hold; for use in tests."""
    wrong = [f"{f.check} ({CHECKS[f.check]}): {f.why}" for f in check_method(cls, **options) if f.holds is False]
    if wrong:
        raise AssertionError("\n".join([f"{cls.__name__} does not conform:", *wrong]))


def _tried(name: str, check: Callable[[_Trial], None], trial: _Trial) -> Finding:
    try:
        check(trial)
    except _Skip as reason:
        return Finding(name, None, str(reason))
    except _Fault as fault:
        return Finding(name, False, str(fault))
    except Exception as error:  # whatever the method under test raises is a finding
        return Finding(name, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return Finding(name, True)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _apart(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    return [name for name in first if not torch.equal(first[name], second[name])]


def _declares(trial: _Trial) -> None:
    cls = trial.cls
    if not cls.card.title or not cls.card.formula:
        raise _Fault("card: it has no title or no formula")
    for name, preset in cls.presets.items():
        if not preset.source:
            raise _Fault(f"presets: {name} does not say where it comes from")
        cls.of(**{**cls.examples, **preset.values})
    for name in cls.ranges:
        if name not in trial.names:
            raise _Fault(f"ranges: {name} is no field")


def _keeps_the_model(trial: _Trial) -> None:
    model = copy.deepcopy(trial.problem.model)
    before = _state(model)
    trial.run(model)
    changed = _apart(before, _state(model))
    if changed:
        raise _Fault(f"it changed {changed[0]} of the model that it was given")


def _tells_nothing(trial: _Trial) -> None:
    if "epochs" not in trial.names:
        raise _Skip("it has no epochs that could be 0")
    try:
        result = trial.run(epochs=0)
    except (MethodDidNothing, ValueError):
        return
    if trial.problem.forget_classes:
        raise _Skip("removing the classes' outputs is something")
    if not _apart(_state(trial.problem.model), _state(result.model)) and not result.notes:
        raise _Fault("with epochs=0 it returned the model that it was given, without a word")


def _obeys_the_seed(trial: _Trial) -> None:
    torch.manual_seed(1)
    first = _state(trial.run().model)
    torch.manual_seed(2)
    if _apart(first, _state(trial.run().model)):
        raise _Fault("two runs with one seed gave different weights")
    if "seed" in trial.names and not _apart(first, _state(trial.run(seed=11).model)):
        raise _Fault("another seed gave the same weights")


def _touches_no_more(trial: _Trial) -> None:
    method = trial.method()
    given = trial.given(method)
    pixels = given["forget"].images.clone()
    trial.run(given=given)
    if not torch.equal(pixels, given["forget"].images):
        raise _Fault("it changed the images of the forget set")


def _minds_normalisation(trial: _Trial) -> None:
    policies = ("train", "frozen") if "batch_norm" in trial.names else (None,)
    for policy in policies:
        changes: dict[str, Any] = {} if policy is None else {"batch_norm": policy}
        after = _state(trial.run(**changes).model)
        before = _state(trial.problem.model)
        for name in (n for n in after if "running" in n):
            if policy == "frozen" and not torch.equal(before[name], after[name]):
                raise _Fault(f"with batch_norm='frozen' it changed {name}")
            if not bool(torch.isfinite(after[name]).all()):
                raise _Fault(f"{name} is not finite")
            if "var" in name and not bool((after[name] > 0).all()):
                raise _Fault(f"{name} is not above 0")


def _sums_over_samples(trial: _Trial) -> None:
    if "epochs" in trial.names or trial.method().needs().access != "fisher":
        raise _Skip("it does not work by statistics alone")
    found = []
    for size, rows in ((7, trial.problem.forget), (24, trial.problem.forget[::-1])):
        given = {**trial.given(trial.method()), "forget": trial.problem.loader(rows.copy(), size)}
        found.append(_state(trial.run(given=given).model))
    for name, value in found[0].items():
        if not torch.allclose(value, found[1][name], rtol=1e-5, atol=1e-6):
            raise _Fault(f"{name} depends on the size or the order of the batches")


def _leaves_switches(trial: _Trial) -> None:
    model = copy.deepcopy(trial.problem.model)
    model[0].requires_grad_(False)
    model[1].train()
    given = trial.given(trial.method())
    if "moments" in trial.method().requires() or "fisher" in trial.method().requires():
        model[0].requires_grad_(True)
    flags, modes = _switches(model)
    torch.manual_seed(3)
    random = torch.get_rng_state()
    result = trial.run(model, given)
    if _switches(model) != (flags, modes):
        raise _Fault("it changed a mode or a requires_grad of the model that it was given")
    if any(parameter.grad is not None for parameter in model.parameters()):
        raise _Fault("it left gradients in the model that it was given")
    if not trial.problem.forget_classes and _switches(result.model) != (flags, modes):
        raise _Fault("a mode or a requires_grad of its result is not that of the model that it was given")
    if not torch.equal(random, torch.get_rng_state()):
        raise _Fault("it drew from the caller's random numbers")


def _switches(model: nn.Module) -> tuple[list[bool], list[bool]]:
    return [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]


def _tells_what_is_missing(trial: _Trial) -> None:
    method = trial.method()
    given = trial.given(method)
    empty = trial.problem.loader(np.arange(FORGET)).replace(indices=np.zeros(0, dtype=np.int64))
    cases: dict[str, Mapping[str, Any]] = {"an empty forget set": {**given, "forget": empty}}
    for name in sorted(method.requires() - {"monitor"}):
        cases[f"no {name}"] = {**given, name: None}
    for what, wrong in cases.items():
        _told(what, lambda wrong=wrong: trial.run(given=wrong))  # type: ignore[misc]
    for kind in KINDS:
        if kind not in trial.cls.scenarios:
            _told(f"a scenario of {kind}", lambda kind=kind: method.check(_split(kind)))  # type: ignore[misc]
        elif not (trial.cls.in_steps and kind != "incremental"):
            method.check(_split(kind))


def _told(what: str, action: Callable[[], Any]) -> None:
    try:
        action()
    except _Fault:
        raise
    except ValueError as error:
        if "\n" in str(error).strip():
            raise _Fault(f"{what}: its message has more than one line") from None
        return
    raise _Fault(f"{what} was not told")


def _split(kind: str) -> Split:
    images, labels = _draw(1, SAMPLES)
    data = make_dataset("tiny", ImageSet(images, labels), ImageSet(*_draw(2, 80)))
    options: dict[str, dict[str, Any]] = {
        "samples": {"per_class": 2},
        "classes": {"classes": (0,)},
        "poison": {"count": 8},
        "incremental": {"step": 2, "steps": 3},
    }
    return make_split(data, Scenario(kind=kind, **options[kind]), 0)


def _forgets(trial: _Trial) -> None:
    problem, result = trial.problem, trial.run()
    if problem.forget_classes:
        raise _Skip("its classes have no output any more")

    def measured(model: nn.Module, loader: Loader) -> tuple[float, float]:
        logits, labels = predict(model, loader)
        return float(F.cross_entropy(logits, labels)), float((logits.argmax(dim=1) == labels).double().mean())

    forget, retain = problem.loader(problem.forget), problem.loader(problem.retain)
    (before, _), (after, _) = measured(problem.model, forget), measured(result.model, forget)
    if after < 0.6 * before - 0.002:
        raise _Fault(f"cross-entropy on the forget set fell from {before:.3g} to {after:.3g}")
    (_, kept), (_, left) = measured(problem.model, retain), measured(result.model, retain)
    if left < kept - 0.3:
        raise _Fault(f"accuracy on the retain set fell from {kept:.2f} to {left:.2f}")


def _drops_outputs(trial: _Trial) -> None:
    if "classes" not in trial.cls.scenarios:
        raise _Skip("it is not for classes")
    method, problem = trial.method(), _problem(classes=True)
    logits, _ = predict(
        method.unlearn(problem.model, **trial.given(method, problem)).model, problem.loader(problem.retain)
    )
    if logits.shape[1] != CLASSES - 1:
        raise _Fault(f"the result has {logits.shape[1]} outputs where {CLASSES - 1} classes are left")


_CHECKS: dict[str, Callable[[_Trial], None]] = {
    "G0": _declares,
    "G1": _keeps_the_model,
    "G2": _tells_nothing,
    "G3": _obeys_the_seed,
    "G4": _touches_no_more,
    "G5": _minds_normalisation,
    "G6": _sums_over_samples,
    "G7": _leaves_switches,
    "G8": _tells_what_is_missing,
    "G9": _forgets,
    "G10": _drops_outputs,
}
