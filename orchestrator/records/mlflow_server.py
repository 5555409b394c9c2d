"""Where MLflow's runs go: the package, the client, and a database of its own where there is no
server.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..base.files import exclusive, sync
from ..recipe.places import expand, sqlite_path
from ..recipe.sections import Recipe

if TYPE_CHECKING:
    from mlflow import MlflowClient


def load_mlflow() -> ModuleType:
    """Returns MLflow, which takes seconds to import: the tracker's own thread waits for it, the
    experiment does not.
    """
    import mlflow

    return mlflow


def mlflow_client(uri: str) -> MlflowClient:
    """Returns a client of a tracking server or database."""
    return load_mlflow().MlflowClient(tracking_uri=uri)


def tracking_uri(recipe: Recipe) -> str:
    """Returns the tracking URI as MLflow wants it: variables looked up, a relative sqlite path from
    the current folder.
    """
    uri = expand(recipe.tracking.uri or "")
    path = sqlite_path(uri)
    return f"sqlite:///{path}" if path else uri


def experiment_name(recipe: Recipe) -> str:
    """Returns the name of the MLflow experiment."""
    return recipe.tracking.experiment or recipe.name


@contextlib.contextmanager
def creation_lock(uri: str) -> Iterator[None]:
    """Lets one process at a time create a new sqlite store: several at once corrupt it for good."""
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.parent / f".{path.name}.lock"):
        if not path.exists():
            create_sqlite(path)
        yield


def create_sqlite(path: Path) -> None:
    """Makes a new sqlite store, whole or not at all. The caller holds the lock.

    MLflow's migrations take seconds. A store that is killed in between can never be opened again.
    """
    for left in path.parent.glob(f".{path.name}.*.new*"):
        left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        mlflow_client(f"sqlite:///{temporary}").search_experiments(max_results=1)
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
