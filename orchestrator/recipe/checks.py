"""What is wrong with a recipe beyond the types of its fields: one fault a line."""

from __future__ import annotations

import os
from collections.abc import Mapping

from attack import ATTACKS
from attack.attacks.registry import label_free
from unlearn import METHODS, MODELS, SOURCES, Scenario, Training, build_model
from unlearn.models import build_shapes, torchvision_names

from ..base.errors import Fault, nearest
from . import sweep
from .choices import Choice
from .options import fault_from, option_faults, option_names
from .own_code import unknown
from .sections import Draft

# What a model is built with that no recipe says: its data and its own seed do.
GIVEN = ("num_classes", "in_channels", "image_size", "seed")


def _section_faults(draft: Draft) -> list[Fault]:
    found: list[Fault] = []
    dataset = dict(draft.dataset)
    source = dataset.pop("source", None)
    if source not in SOURCES:
        found.append(unknown("dataset.source", source, "data source", SOURCES))
    else:
        extra = {"limit": int | dict[str, int] | None, "mean": list[float] | None, "std": list[float] | None}
        found += option_faults(SOURCES[source], dataset, "dataset", extra=extra)
        found += _limit_faults(dataset.get("limit"))
        found += _shared_faults(dataset.get("train"), dataset.get("test"))
    found += option_faults(Scenario, draft.scenario, "scenario")
    found += option_faults(Training, draft.training, "training")
    model = dict(draft.model)
    name = model.pop("name", None)
    if not isinstance(name, str):
        found.append(
            Fault("model.name", name, "missing", ", ".join([*MODELS, "a torchvision model", "package.module:factory"]))
        )
    elif name in MODELS:
        unfit = option_faults(MODELS[name], model, "model", skip=GIVEN)
        found += unfit or model_faults(Choice.of(draft.model), num_classes=10, channels=3, image_size=64)
    else:
        found += [
            Fault(f"model.{key}", model[key], "follows from the data", "leave it out") for key in GIVEN if key in model
        ]
        if ":" not in name and name not in (known := [*MODELS, *torchvision_names()]):
            found.append(
                Fault(
                    "model.name",
                    name,
                    "no such model",
                    f"{', '.join(MODELS)}, a torchvision classifier or package.module:factory",
                    nearest(name, known),
                )
            )
    return found


def model_faults(
    model: Choice, num_classes: int, channels: int, image_size: int, allow_factory: bool = False
) -> list[Fault]:
    """Returns what keeps the model from being built for images of this shape; builds it without its
    weights."""
    if ":" in model.name and allow_factory:
        return []  # the user's own code may not stand being built without weights
    shape = {"num_classes": num_classes, "in_channels": channels, "image_size": image_size}
    options: dict[str, object] = {**model.options, **shape}
    try:
        try:
            build_shapes(model.name, **options)
        except NotImplementedError:
            # Some, as torchvision's RegNets, compute with values while they are built.
            build_model(model.name, **options)
    except (ValueError, TypeError, NotImplementedError) as error:
        return [fault_from(error, "model", model.to_json())]
    return []


def _shared_faults(train: object, test: object) -> list[Fault]:
    """Returns a fault where a place is named for both parts: models would be tested on what they
    were trained on."""

    def places(given: object) -> dict[str, str]:
        named = given if isinstance(given, list) else [given]
        return {os.path.realpath(os.path.expanduser(each)): each for each in named if isinstance(each, str) and each}

    shared = places(train).keys() & places(test).keys()
    return [Fault("dataset.test", test, "the same as dataset.train", "other images")] if shared else []


def _limit_faults(limit: object) -> list[Fault]:
    if limit is None:
        return []
    parts = limit if isinstance(limit, Mapping) else {"train": limit}
    found = [
        Fault(f"dataset.limit.{k}", v, "unknown key", "train, test", nearest(k, ("train", "test")))
        for k, v in parts.items()
        if k not in ("train", "test")
    ]
    found += [
        Fault(f"dataset.limit.{k}", v, "not a number of images", "an integer of at least 1")
        for k, v in parts.items()
        if not isinstance(v, int) or isinstance(v, bool) or v < 1
    ]
    return found


def _shadow_faults(draft: Draft) -> list[Fault]:
    shadows = draft.shadows
    found = []
    for role, count in (("originals", shadows.originals), ("retrained", shadows.retrained)):
        if sum(shadows.split) != count and not (role == "retrained" and count == 0 and not draft.attacks):
            found.append(
                Fault(
                    "shadows.split",
                    list(shadows.split),
                    f"adds up to {sum(shadows.split)}, but shadows.{role} is {count}",
                    f"three numbers that add up to {count}{_such_as(count, shadows.split)}",
                )
            )
            break
    if draft.attacks and min(shadows.split) < 1:
        found.append(
            Fault("shadows.split", list(shadows.split), "each fold needs a model", "three numbers of at least 1")
        )
    elif shadows.split[2] < 1 or min(shadows.split) < 0:
        found.append(
            Fault(
                "shadows.split",
                list(shadows.split),
                "the test fold needs a model",
                "for example [0, 0, 3] without attacks",
            )
        )
    return found


def _kept_faults(draft: Draft) -> list[Fault]:
    """Returns what keeps retained images from being audited."""
    kept, shadows = draft.outputs, draft.shadows
    found = []
    if kept.group is not None and not kept.retain:
        found.append(Fault("outputs.group", kept.group, "has no meaning without outputs.retain", "retain: 2000"))
    if not kept.retain:
        return found
    if draft.scenario.get("kind") == "classes":
        found.append(
            Fault(
                "outputs.retain", kept.retain, "is not measured where whole classes are removed", "0, or leave it out"
            )
        )
    if kept.test < 2:
        found.append(
            Fault("outputs.test", kept.test, "retained images are compared with unseen ones", "2 or more, such as 2000")
        )
    for name, count in (("shadows.retrained", shadows.retrained), ("shadows.split", shadows.split[2])):
        if count < 2:
            found.append(Fault(name, count, "outputs.retain compares models of both kinds", "2 or more on each side"))
    return found


def _such_as(count: int, split: tuple[int, int, int]) -> str:
    """Returns a split that adds up to `count`, near the one that is given; nothing where three
    folds cannot."""
    _, validation, test = split
    if count - validation - test < 1:
        validation = test = max(1, count // 10)
    first = count - validation - test
    return f", such as [{first}, {validation}, {test}]" if first >= 1 else ""


def _method_faults(draft: Draft, inherit: bool) -> list[Fault]:
    given = [(f"methods.{index}", settings) for index, settings in enumerate(draft.methods)]
    if draft.search is not None:
        # How often it draws is told where the search is checked.
        given.append(("search.method", {k: v for k, v in draft.search.method.items() if k != "samples"}))
    return [
        fault
        for index, (where, settings) in enumerate(given)
        for fault in _faults_of_method(draft, settings, where, index, inherit)
    ]


def _faults_of_method(
    draft: Draft, settings: Mapping[str, object], where: str, index: int, inherit: bool
) -> list[Fault]:
    name = settings.get("name")
    if not isinstance(name, str) or name not in METHODS:
        return [unknown(f"{where}.name", name, "method", METHODS)]
    if not METHODS[name].selectable:
        return [Fault(f"{where}.name", name, f"{name} is always a row of its own", "leave it out")]
    if "samples" in option_names(METHODS[name]):
        return [
            Fault(f"{where}.name", name, "has an option `samples`, which counts the draws of a sweep", "another name")
        ]
    options = {k: v for k, v in settings.items() if k != "name"}
    malformed = sweep.faults(options, where)
    known = {*option_names(METHODS[name]), *METHODS[name].retired, "samples"}
    strange = {k: v for k, v in options.items() if k not in known}
    if malformed or strange:
        found = option_faults(METHODS[name], strange, where)
        return malformed + [fault for fault in found if fault.field.split(".")[-1] in strange]
    inherited = method_defaults(name, draft) if inherit else {}
    found = [
        fault
        for params in sweep.expand(options, draft.seed, index)
        for fault in point_faults(name, {**inherited, **params}, where)
    ]
    return list({str(fault): fault for fault in found}.values())


def point_faults(name: str, params: Mapping[str, object], where: str) -> list[Fault]:
    """Returns what keeps one setting of a method from being built."""
    try:
        kind, options = METHODS[name].translate(params)
    except ValueError as error:
        return [fault_from(error, where, params)]
    return option_faults(kind, options, where)


def method_defaults(name: str, draft: Draft) -> dict[str, object]:
    """Returns what a method takes from the rest of the recipe where its own section is silent.

    A method says which options it inherits from `training`: those that train "with the original
    recipe" inherit all of them. It also says what suits whole classes.
    """
    method = METHODS[name]
    shared = {key: draft.training[key] for key in sorted(method.inherits & set(draft.training))}
    return shared | dict(method.for_classes if draft.scenario.get("kind") == "classes" else {})


def _attack_faults(draft: Draft) -> list[Fault]:
    found: list[Fault] = []
    for index, settings in enumerate(draft.attacks):
        where = f"attacks.{index}"
        name = settings.get("name")
        if name not in ATTACKS:
            found.append(unknown(f"{where}.name", name, "attack", ATTACKS))
            continue
        found += option_faults(ATTACKS[name], {k: v for k, v in settings.items() if k != "name"}, where)
        if draft.scenario.get("kind") == "classes" and ATTACKS[str(name)].reads_label:
            # Every model shows an attacker the kept classes' logits only, since an unlearned model
            # has no others.
            found.append(
                Fault(
                    f"{where}.name",
                    name,
                    "reads the label's own logit, which removing classes takes away",
                    ", ".join(label_free()),
                )
            )
        if name == "u_lira" and draft.shadows.unlearn != "all":
            found.append(
                Fault(
                    "shadows.unlearn",
                    draft.shadows.unlearn,
                    "u_lira compares models unlearned from every original",
                    "all",
                )
            )
    names = [settings.get("name") for settings in draft.attacks]
    if any(name in names[:index] for index, name in enumerate(names)):
        found.append(Fault("attacks", names, "an attack is named twice", "each attack once"))
    return found
