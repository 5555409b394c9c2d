"""What is tried before the first unit runs, so that nobody waits hours for an early mistake."""

from __future__ import annotations

import importlib.util
import os

from attack import ATTACKS

from ..base.errors import EnvironmentFault, Fault, RecipeError
from ..base.values import digest
from ..plan.data import ExperimentData
from ..recipe.choices import Choice
from ..recipe.sections import Recipe
from ..store import Store
from ..work.context import Context


def preflight(recipe: Recipe, data: ExperimentData, store: Store, *, allow_factory: bool = False) -> None:
    """Tries the attacks' packages, the user's own model and the store.

    **Raises:** `RecipeError` where the model cannot be built or gives no logits for two images.
    `EnvironmentFault` where a package is missing or the store does not give back what is written.
    """
    for attack in recipe.attacks:
        try_packages(attack.name)
    # of the shipped ones, all that can go wrong is looked up with the recipe
    if ":" in recipe.model.name:
        try_model(recipe.model, Context(None, data, allow_factory=allow_factory), recipe.name)
    try_store(store)


def try_packages(attack: str) -> None:
    """Raises `EnvironmentFault` where a package that an attack imports is not installed."""
    for package in ATTACKS[attack].packages:
        if importlib.util.find_spec(package) is None:
            raise EnvironmentFault(
                f"attacks: {attack!r} needs the package {package!r}, which is not installed; "
                "pip install 'unlearning-orchestrator[cpu]', or [gpu] on a GPU machine"
            )


def try_model(choice: Choice, context: Context, recipe: str) -> None:
    """Builds a model and passes two images through it; raises `RecipeError` where that gives no
    logits.
    """
    import torch  # slow to import; nobody needs it where all units are stored

    classes = context.data.dataset.num_classes
    try:
        model = context.new_model(choice, seed=0).eval()
        with torch.inference_mode():
            found = model(next(iter(context.loader("test", batch_size=2)))[0])
    except Exception as error:  # the user's own code may raise anything
        lines = str(error).strip().splitlines()
        problem = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise RecipeError([Fault("model.name", choice.name, problem)], recipe) from error
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    wanted = f"logits of shape (2, {classes}) for two images"
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] != classes:
        raise RecipeError([Fault("model.name", choice.name, f"gives {shape}", wanted)], recipe)


def try_store(store: Store) -> None:
    """Writes a small object, reads it back and removes it; raises `EnvironmentFault` where that
    fails.
    """
    key = digest(os.urandom(16).hex())
    with store.attempt(key) as attempt:
        attempt.path("probe").write_text("probe")
        attempt.commit({"kind": "probe"})
    try:
        found = store.fetch(key, "probe").read_text()
    except (OSError, KeyError) as error:
        raise EnvironmentFault(f"store {store.uri}: what is written cannot be read back ({error})") from error
    if found != "probe":
        raise EnvironmentFault(f"store {store.uri}: what is written comes back changed; check its disk")
    store.remove(key)
