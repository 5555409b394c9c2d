"""How attacks that read logits are fitted and scored from a source: in this process, a piece at a
time where they allow it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from ..attacks.base import Attack, Fitted
from ..metrics.evaluation import Scores
from ..outputs.measured import IDENTITY, METHOD, PARAMS, ROLE, Measured, identified, locate
from ..outputs.sources import Source
from ..outputs.table import rows_where


class Runner(Protocol):
    """Fits and scores attacks that read logits."""

    def path(self, attack: type[Attack]) -> str:
        """Returns what results say of where an attack of this class was fitted: `in_process` or
        `distributed`."""
        ...

    def fit(self, attacks: Sequence[Attack], source: Source, measured: Measured, models: np.ndarray) -> list[Fitted]:
        """Returns each of `attacks`, of one class, fitted on the outputs of the models at these
        indices of `measured`."""
        ...

    def score(self, fitted: Fitted, source: Source, measured: Measured, models: np.ndarray) -> dict[int, np.ndarray]:
        """Returns the scores of each of these models, float64 `(S,)` in the order of
        `measured.samples`."""
        ...


@dataclass(frozen=True)
class InProcess:
    """Fits in this process, on the train and validation folds' rows in memory, and scores piece by
    piece.

    **Arguments:** `threads`, `device`: of XGBoost; None leaves the threads to the attack.
    """

    threads: int | None = None
    device: str = "cpu"

    def path(self, attack: type[Attack]) -> str:
        return "in_process"

    def fit(self, attacks: Sequence[Attack], source: Source, measured: Measured, models: np.ndarray) -> list[Fitted]:
        roles = sorted({measured.models[m][ROLE] for m in models})
        unlearned = {(m[METHOD], m[PARAMS]) for m in (measured.models[i] for i in models) if m[ROLE] == "unlearned"}
        pieces = source.pieces(roles=roles, folds=("train", "validation"))
        if _only_checks(type(attacks[0])):
            # What it would check of the other pieces, `Examination` has refused.
            first = next(pieces, None)
            if first is None:
                first = source.schemas()[0].empty_table()
            return attacks[0].fit_each(_of_method(first, unlearned), attacks)
        # No name holds the pieces beside the table, and what is not fitted on is let go of piece by
        # piece.
        table = pa.concat_tables(_of_method(piece, unlearned) for piece in pieces).unify_dictionaries()
        return attacks[0].fit_each(table, attacks, threads=self.threads, device=self.device)

    def score(self, fitted: Fitted, source: Source, measured: Measured, models: np.ndarray) -> dict[int, np.ndarray]:
        roles = sorted({measured.models[m][ROLE] for m in models})
        pieces = source.pieces(roles=roles, folds=("test",))
        return gathered(((piece, fitted.score(piece)) for piece in pieces), measured, models)


def _only_checks(attack: type[Attack]) -> bool:
    """Whether `fit` learns nothing. A class that has a `fit` of its own must say so itself."""
    owner = next(each for each in attack.__mro__ if "fit" in vars(each))
    return not attack.learns and "learns" in vars(owner)


def _of_method(piece: pa.Table, unlearned: set[tuple[str, str]]) -> pa.Table:
    """Returns the rows without those of unlearned models of another method: an attack for one
    method sees no other's."""
    if not unlearned:
        return piece
    [(method, params)] = unlearned
    others = rows_where(piece, role=("original", "retrained"))
    return pa.concat_tables([others, rows_where(piece, role="unlearned", method=method, params=params)])


class Coded(NamedTuple):
    """Scores of rows: `model`, indices int32 or int64 into a list of models, `sample` ids int64,
    `score`; each `(rows,)`."""

    model: np.ndarray
    sample: np.ndarray
    score: np.ndarray


def gathered(
    scored: Iterable[tuple[pa.Table, np.ndarray]], measured: Measured, models: np.ndarray
) -> dict[int, np.ndarray]:
    """Returns scores by model, from an iterable of (table with the identity columns and
    `sample_id`, scores of its rows).

    **Raises:** `ValueError` where a model under attack has a sample without a score.
    """
    index = {model: place for place, model in enumerate(measured.models)}

    def coded() -> Iterator[Coded]:
        for table, scores in scored:
            keys, place = identified(table)
            yield Coded(np.asarray([index[key] for key in keys])[place], table["sample_id"].to_numpy(), scores)

    return by_model(coded(), measured, models)


def by_model(scored: Iterable[Coded], measured: Measured, models: np.ndarray) -> dict[int, np.ndarray]:
    """Returns the scores of each of `models`, float64 `(S,)`, from those of rows in any order;
    others' are passed over.

    **Arguments:** `scored`: coded by indices into `measured.models`.

    **Raises:** `ValueError` where a model under attack has a sample without a score.
    """
    wanted = np.unique(models)
    line = np.full(len(measured.models), -1)
    line[wanted] = np.arange(len(wanted))
    found = np.full((len(wanted), len(measured.samples)), np.nan)
    for model, sample, score in scored:
        lines = line[model]
        mine = lines >= 0
        columns = locate(sample[mine], measured.samples)
        found[lines[mine], columns] = score[mine]
    for m, values in zip(wanted, found, strict=True):
        if np.isnan(values).any():
            raise ValueError(
                f"scores: model {measured.models[m][IDENTITY.index('model_id')]!r} has samples without one"
            )
    return {int(m): values for m, values in zip(wanted, found, strict=True)}


def scores_of(scores: dict[int, np.ndarray], measured: Measured, models: np.ndarray) -> Scores:
    """Returns the scores of some models as `evaluate` takes them; models go by their numbers, which
    sort as their ids do."""
    values = np.concatenate([scores[int(m)] for m in models])
    return Scores(values, np.repeat(models, len(measured.samples)), np.tile(measured.samples, len(models)))
