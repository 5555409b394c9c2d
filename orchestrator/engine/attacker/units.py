"""Attack units on tables that one process should not hold: candidates fitted on the workers of Ray
Train.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attack.attacks.xgboost import FittedXGBoost, XGBoostAttack

from ...base.errors import EnvironmentFault, disk_is_full, first_line, one_line
from ...base.files import sha256_file
from ...plan.facts import OutputsFacts, facts_of
from ...plan.specs import PlainSpec
from ...plan.units import Outcome, Unit
from ...recipe.sections import Resources
from ...store import Store
from ...work.commit import commit_unit
from ...work.scoring import save_fitted
from ..base import Ledger
from ..ray.placement import Placement
from .fit import fit_all_distributed
from .path import knows_gpus

GIB = 2**30


@dataclass(frozen=True)
class DistributedAttackers:
    """Fits attack units on many workers, from one reading of the table. Ray Train is never nested
    in Tune's trials.

    **Arguments:** `write_outputs`: writes `outputs/*.parquet` in the driver's folder and returns
    them.
    """

    store: Store
    resources: Resources
    placement: Placement
    write_outputs: Callable[[], Sequence[Path]]

    def run(self, units: Sequence[Unit], ledger: Ledger) -> None:
        """Fits the attackers of `units`; those with the same features are fitted from one table."""
        written = {path.stem: path for path in self.write_outputs()}
        paths = [self._shared_file(written[role]) for role in ("original", "retrained") if role in written]
        attacks = {unit.key: unit.spec.params for unit in units}
        groups: dict[tuple[str, tuple[int, ...]], list[Unit]] = {}
        for unit in units:
            groups.setdefault((attacks[unit.key].label, attacks[unit.key].forget_classes), []).append(unit)
        for group in groups.values():
            self.fit(paths, group, [attacks[unit.key] for unit in group], ledger)

    def fit(
        self, paths: Sequence[str], units: Sequence[Unit], attacks: Sequence[XGBoostAttack], ledger: Ledger
    ) -> None:
        """Fits candidates that share their features. Each is committed as soon as it is fitted."""
        cpus = self.resources.cpus_per_unit / 2
        memory = self.resources.attacker_memory_gib
        started = time.perf_counter()
        done: set[str] = set()

        def commit(number: int, fitted: FittedXGBoost) -> None:
            nonlocal started
            unit, seconds = units[number], time.perf_counter() - started
            started = time.perf_counter()
            with self.store.attempt(unit.key) as attempt:
                meta = save_fitted(fitted, attempt, "distributed", self._rows(unit))
                commit_unit(unit, attempt, meta, seconds)
            done.add(unit.key)
            ledger.settle(Outcome(unit.key, unit.name, unit.kind, "done", seconds))

        try:
            fit_all_distributed(
                paths,
                attacks,
                num_workers=self.placement.attackers(cpus, knows_gpus()),
                resources_per_worker={"CPU": cpus},
                filesystem=self.store.filesystem(),
                memory_per_worker=None if memory is None else memory * GIB,
                on_fitted=commit,
            )
        except (RuntimeError, ValueError, OSError) as error:
            if disk_is_full(error):
                raise EnvironmentFault(f"attackers: no space left on a disk: {first_line(error)}") from error
            seconds = time.perf_counter() - started
            line = one_line(error)
            for unit in units:
                if unit.key not in done:
                    outcome = Outcome(unit.key, unit.name, unit.kind, "failed", seconds, line, traceback.format_exc())
                    ledger.settle(outcome)

    def _rows(self, unit: Unit) -> int:
        return sum(facts_of(self.store, entry.key, OutputsFacts).rows for entry in unit.spec.outputs)

    def _shared_file(self, path: Path) -> str:
        """Returns where every node can read the file. The driver's folder may be its own, so the
        store takes a copy.
        """
        unit = Unit(PlainSpec("table", {"file": path.name, "sha256": sha256_file(path)}), path.name)
        if not self.store.has(unit.key):
            with self.store.attempt(unit.key) as attempt:
                shutil.copyfile(path, attempt.path(path.name))
                commit_unit(unit, attempt, {}, 0.0)
        return self.store.location(unit.key, path.name)
