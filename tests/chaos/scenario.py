"""What a scenario reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .checks import cut_off
from .lab import Place

MOST_TIMES = 1.5  # of the undisturbed run's time, restarts not counted


@dataclass
class Report:
    """One scenario's outcome: what was done to the run, what did not hold, how long it took."""

    name: str
    title: str
    faults: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    experiments: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    skipped: str = ""  # why it was not done at all

    def add(self, problems: list[str]) -> None:
        """Takes in what was found wrong, each thing once."""
        self.problems.extend(problem for problem in problems if problem not in self.problems)

    def measure(self, place: Place, idle: float = 0.0, interrupted: bool = False, lost_workers: int = 0) -> None:
        """Notes how long an experiment took in all its invocations beside the undisturbed run, and what it lost.

        **Arguments:**

        - `idle`: seconds in which the disturbance itself kept the run from working.
        - `interrupted`: what was in flight cleaned up after itself and counts as cut off all the same.
        - `lost_workers`: workers that were started again while the command went on.
        """
        clean = place.lab.clean
        spent = sum(invocation.ended - invocation.started for invocation in place.invocations) - idle
        spent -= lost_workers * clean.worker_start
        restarts = len(place.invocations) - 1
        self.experiments.append(
            {
                "seconds": round(spent, 1),
                "restarts": restarts,
                "units_cut_off": cut_off(place, interrupted),
                # Each restart is allowed what the same command takes where there is nothing to do, or what the
                # undisturbed run takes until its first unit is done: Ray is started again as well.
                "ratio": round((spent - restarts * clean.start_up) / clean.seconds, 2),
                "ratio_with_ray": round((spent - restarts * clean.timeline[0]) / clean.seconds, 2),
            }
        )
        ratio = self.experiments[-1]["ratio_with_ray"]
        if ratio > MOST_TIMES:
            self.add([f"{place.root.name} took {ratio:.2f} times the undisturbed run, restarts not counted"])

    def document(self) -> dict[str, Any]:
        """Returns the report as JSON data."""
        return {
            "name": self.name,
            "title": self.title,
            "survived": not self.problems and not self.skipped,
            "skipped": self.skipped,
            "faults": self.faults,
            "problems": self.problems,
            "notes": self.notes,
            "facts": self.facts,
            "experiments": self.experiments,
            "worst_ratio": max((e["ratio"] for e in self.experiments), default=None),
            "worst_ratio_with_ray": max((e["ratio_with_ray"] for e in self.experiments), default=None),
            "units_cut_off": sum(e["units_cut_off"] for e in self.experiments),
            "seconds": round(self.seconds, 1),
        }
