"""What every unlearning method must do, tried on a tiny model: a report, not an opinion.

Run it on a method of your own before you trust its numbers: `orchestrator check-method
package.module:Class`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.batches import Loader
from ..core.errors import MethodDidNothing
from ..data.images import ImageSet, make_dataset
from ..data.scenario import KINDS, Scenario, Split, make_split
from ..training.predict import predict
from .base import Choice, Method, Range
from .trial import CLASSES, FORGET, SAMPLES, Fault, Skip, Trial, drawn, problem_of

CHECKS = {
    "G0": "the class declares what it is: card, presets and a range for each field that is not fixed",
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


def examine(cls: type[Method], **options: Any) -> list[Finding]:
    """Tries the generic properties of `CHECKS` on a tiny model; takes seconds.

    **Arguments:** `options`: settings of the method, beside those that it names in `examples`.
    """
    trial = Trial(cls, options)
    return [_tried(name, check, trial) for name, check in _CHECKS.items()]


def _tried(name: str, check: Callable[[Trial], None], trial: Trial) -> Finding:
    try:
        check(trial)
    except Skip as reason:
        return Finding(name, None, str(reason))
    except Fault as fault:
        return Finding(name, False, str(fault))
    except Exception as error:  # whatever the method under test raises is a finding
        return Finding(name, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return Finding(name, True)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _apart(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    return [name for name in first if not torch.equal(first[name], second[name])]


def _declares(trial: Trial) -> None:
    cls = trial.cls
    if not cls.card.title or not cls.card.formula:
        raise Fault("card: it has no title or no formula")
    for name, preset in cls.presets.items():
        if not preset.source:
            raise Fault(f"presets: {name} does not say where it comes from")
        cls.of(**{**cls.examples, **preset.values})
    space, fixed = cls.space(), cls.held_fixed()
    for name in (*vars(cls).get("ranges", ()), *vars(cls).get("fixed", ())):
        if name not in trial.names:
            raise Fault(f"ranges, fixed: {name} is no field")
    for name in sorted(trial.names - fixed):
        if name not in space:
            raise Fault(f"ranges: {name} has none; give one, or name it in `fixed`")
        for value in _ends(space[name]):
            cls.of(**{**cls.examples, name: value})


def _ends(values: Range | Choice) -> tuple[Any, ...]:
    return values.values if isinstance(values, Choice) else (values.low, values.high)


def _keeps_the_model(trial: Trial) -> None:
    model = copy.deepcopy(trial.problem.model)
    before = _state(model)
    trial.run(model)
    changed = _apart(before, _state(model))
    if changed:
        raise Fault(f"it changed {changed[0]} of the model that it was given")


def _tells_nothing(trial: Trial) -> None:
    if "epochs" not in trial.names:
        raise Skip("it has no epochs that could be 0")
    try:
        result = trial.run(epochs=0)
    except (MethodDidNothing, ValueError):
        return
    if trial.problem.forget_classes:
        raise Skip("removing the classes' outputs is something")
    told = any(re.search(r"\bas (it was|they were)\b", note) for note in result.notes)
    if not _apart(_state(trial.problem.model), _state(result.model)) and not told:
        raise Fault("with epochs=0 it returned the model that it was given, and no note says `as it was`")


def _obeys_the_seed(trial: Trial) -> None:
    torch.manual_seed(1)
    first = _state(trial.run().model)
    torch.manual_seed(2)
    if _apart(first, _state(trial.run().model)):
        raise Fault("two runs with one seed gave different weights")
    if "seed" in trial.names and not _apart(first, _state(trial.run(seed=11).model)):
        raise Fault("another seed gave the same weights")


def _touches_no_more(trial: Trial) -> None:
    method = trial.method()
    given = trial.given(method)
    pixels = given["forget"].images.clone()
    trial.run(given=given)
    if not torch.equal(pixels, given["forget"].images):
        raise Fault("it changed the images of the forget set")


def _minds_normalisation(trial: Trial) -> None:
    policies = ("train", "frozen") if "batch_norm" in trial.names else (None,)
    for policy in policies:
        changes: dict[str, Any] = {} if policy is None else {"batch_norm": policy}
        after = _state(trial.run(**changes).model)
        before = _state(trial.problem.model)
        for name in (n for n in after if "running" in n):
            if policy == "frozen" and not torch.equal(before[name], after[name]):
                raise Fault(f"with batch_norm='frozen' it changed {name}")
            if not bool(torch.isfinite(after[name]).all()):
                raise Fault(f"{name} is not finite")
            if "var" in name and not bool((after[name] > 0).all()):
                raise Fault(f"{name} is not above 0")


def _sums_over_samples(trial: Trial) -> None:
    if "epochs" in trial.names or trial.method().needs().access != "fisher":
        raise Skip("it does not work by statistics alone")
    found = []
    for size, rows in ((7, trial.problem.forget), (24, trial.problem.forget[::-1])):
        given = {**trial.given(trial.method()), "forget": trial.problem.loader(rows.copy(), size)}
        found.append(_state(trial.run(given=given).model))
    for name, value in found[0].items():
        if not torch.allclose(value, found[1][name], rtol=1e-5, atol=1e-6):
            raise Fault(f"{name} depends on the size or the order of the batches")


def _leaves_switches(trial: Trial) -> None:
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
        raise Fault("it changed a mode or a requires_grad of the model that it was given")
    if any(parameter.grad is not None for parameter in model.parameters()):
        raise Fault("it left gradients in the model that it was given")
    if not trial.problem.forget_classes and _switches(result.model) != (flags, modes):
        raise Fault("a mode or a requires_grad of its result is not that of the model that it was given")
    if not torch.equal(random, torch.get_rng_state()):
        raise Fault("it drew from the caller's random numbers")


def _switches(model: nn.Module) -> tuple[list[bool], list[bool]]:
    return [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]


def _tells_what_is_missing(trial: Trial) -> None:
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
    except Fault:
        raise
    except ValueError as error:
        if "\n" in str(error).strip():
            raise Fault(f"{what}: its message has more than one line") from None
        return
    raise Fault(f"{what} was not told")


def _split(kind: str) -> Split:
    images, labels = drawn(1, SAMPLES)
    data = make_dataset("tiny", ImageSet(images, labels), ImageSet(*drawn(2, 80)))
    options: dict[str, dict[str, Any]] = {
        "samples": {"per_class": 2},
        "classes": {"classes": (0,)},
        "poison": {"count": 8},
        "incremental": {"step": 2, "steps": 3},
    }
    return make_split(data, Scenario(kind=kind, **options[kind]), 0)


def _forgets(trial: Trial) -> None:
    problem, result = trial.problem, trial.run()
    if problem.forget_classes:
        raise Skip("its classes have no output any more")

    def measured(model: nn.Module, loader: Loader) -> tuple[float, float]:
        logits, labels = predict(model, loader)
        return float(F.cross_entropy(logits, labels)), float((logits.argmax(dim=1) == labels).double().mean())

    forget, retain = problem.loader(problem.forget), problem.loader(problem.retain)
    (before, _), (after, _) = measured(problem.model, forget), measured(result.model, forget)
    if after < 0.6 * before - 0.002:
        raise Fault(f"cross-entropy on the forget set fell from {before:.3g} to {after:.3g}")
    (_, kept), (_, left) = measured(problem.model, retain), measured(result.model, retain)
    if left < kept - 0.3:
        raise Fault(f"accuracy on the retain set fell from {kept:.2f} to {left:.2f}")


def _drops_outputs(trial: Trial) -> None:
    if "classes" not in trial.cls.scenarios:
        raise Skip("it is not for classes")
    method, problem = trial.method(), problem_of(classes=True)
    logits, _ = predict(
        method.unlearn(problem.model, **trial.given(method, problem)).model, problem.loader(problem.retain)
    )
    if logits.shape[1] != CLASSES - 1:
        raise Fault(f"the result has {logits.shape[1]} outputs where {CLASSES - 1} classes are left")


_CHECKS: dict[str, Callable[[Trial], None]] = {
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
