"""Which objects of a store the given experiments use; the rest may be removed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unlearn.core.paths import local_path

from ..base.errors import EnvironmentFault, UserError
from ..base.values import Record
from ..plan.data import load_data
from ..plan.plan import make_plan
from ..plan.search import plan_search
from ..records.folder import open_folder
from ..records.lock import is_at_work
from ..records.rerun import command_again
from ..store import Store, open_store

LITTER_SECONDS = 24 * 3600.0  # no attempt takes longer without a sign of life


def require_idle(store: Store, kept: Sequence[Path] = ()) -> None:
    """Raises `EnvironmentFault` where a run makes units in `store` now, has it in its folder, or
    works in a folder that is kept.
    """
    around = () if "://" in store.uri else (local_path(store.uri).resolve().parent,)
    for folder in (*around, *kept):
        if is_at_work(folder):
            raise EnvironmentFault(
                f"STORE: {store.uri!r}: a run is at work in {folder}; wait for its end, or interrupt it"
            )
    if held := store.held():
        raise EnvironmentFault(
            f"STORE: {store.uri!r}: units are being made in it ({len(held)} now); wait for the end of the run, or interrupt it"
        )


def used_keys(folders: list[Path], collected: Store) -> set[str]:
    """Returns the keys that the experiments in `folders` use, unfinished ones included.

    **Arguments:** `collected`: the store that is cleaned.

    **Raises:** `UserError` where nothing that a folder uses is in this store.
    """
    everything: set[str] = set()
    there = set(collected.keys())
    for path in folders:
        used: set[str] = set()
        folder = open_folder(path)
        recipe = folder.recipe()
        store = open_store(folder.store_uri())
        data = load_data(recipe, store, stand_in=True)
        units = list(make_plan(recipe, data).units())
        if recipe.search is not None:
            units += plan_search(recipe, data).units()
        for unit in units:
            used.add(unit.key)
            used.update(unit.ancestors())
        used.update(
            key
            for key in list(store.keys())
            if store.meta(key).get("kind") == "dataset" and store.meta(key).get("digest") == data.digest
        )
        if recipe.league is not None:
            used |= _of_models(store, used)
        if command_again(folder.path):
            # Of a verification the recipe does not name the models under test. Those of others that
            # share the store are kept too.
            given = {key for key in list(store.keys()) if store.meta(key).get("kind") == "given"}
            used |= given | _of_models(store, used | given)
        # Steps of an incremental run that is not finished yet: its unit goes on from them.
        used.update(
            key
            for key in list(store.keys())
            if store.meta(key).get("kind") in ("step", "running") and store.meta(key)["spec"]["model"] in used
        )
        if not used & there and store.uri != collected.uri:
            raise UserError(f"--keep: {str(path)!r}: nothing of it is in this store; its own is {store.uri!r}")
        everything |= used
    return everything


def _of_models(store: Store, used: set[str]) -> set[str]:
    """Returns what may have been made of the models in `used`: unlearned ones, and what measured
    them.

    No plan lists what a league's tuning tried: it follows from what earlier settings came to.
    """
    metas = {key: store.meta(key) for key in list(store.keys())}
    found: set[str] = set()
    for kinds in (("moments", "fisher", "basis", "unlearn"), ("outputs",), ("score", "distance")):
        known = used | found
        for key, meta in metas.items():
            if meta.get("kind") in kinds and known & set(_needed(meta)):
                found.add(key)
    return found


def _needed(meta: Record) -> list[str]:
    """Returns the keys of the models or outputs that an object was made of."""
    spec = meta.get("spec", {})
    sides = [*spec.get("positive", ()), *spec.get("tested", ())]
    return [str(spec.get("model", "")), *(str(side[0]) for side in sides)]
