"""The table of what was survived, over all seeds that ran, as a page and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FILE = "chaos.json"
SCHEMA = 2

ABOUT = """\
A small real experiment ({objects} objects: a dataset, shadow models, moments, unlearning, logits,
attackers and scores; Ray, a store, MLflow) is disturbed. The same command is given again until it
ends well. After each scenario:

- rows of `results.json` equal those of an undisturbed run to the bit, but for seconds, and so do
  the weights of all models;
- no finished unit was executed again: executions are counted outside of the program, by the
  folder that each begins with; each object is committed once;
- MLflow has one run for each unit, all finished, none with more or fewer values;
- no process and no temporary file is left. What killed executions had begun may lie in the
  store's `tmp/`.

*Cut off* counts executions in flight that a kill ended, the only work done twice. *Time* is the
slowest experiment's, all invocations together, over the undisturbed run's. For each restart, what
the command takes where everything is done is subtracted. In brackets, what the undisturbed run
takes until its first unit is done is subtracted instead: starting Ray again is a large part of so
short a run. A worker that was killed is allowed what a worker takes to start. More than 1.5 × in
brackets counts as not survived. The last run of a scenario with a seed stands; the
[log](../../LOG.md) says what earlier ones missed.
"""

COMPARISON = """\
For comparison, `Tuner.restore` of Ray Tune 2.60 after a `kill -9` ran 21 of 24 finished trials
again. It snapshots its state every ten seconds or more. Here each unit is committed as it ends.
"""


def merge(folder: Path, scenarios: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns what is stored in `folder` with `scenarios` (name → one seed's report) put in.

    A seed that ran before is replaced; other seeds stay.
    """
    path = folder / FILE
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    runs = earlier["scenarios"] if earlier.get("schema") == SCHEMA else {}
    for name, report in scenarios.items():
        kept = [run for run in runs.get(name, ()) if run["seed"] != report["seed"]]
        runs[name] = sorted([*kept, report], key=lambda run: int(run["seed"]))
    return {"schema": SCHEMA, "scenarios": runs}


def write_table(folder: Path, document: dict[str, Any], order: list[str]) -> None:
    """Writes `README.md` and `chaos.json` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: document["scenarios"][name] for name in order if name in document["scenarios"]}
    (folder / FILE).write_text(json.dumps({**document, "scenarios": found}, indent=1) + "\n")
    (folder / "README.md").write_text(page(found))


def page(scenarios: dict[str, list[dict[str, Any]]]) -> str:
    """Returns the page. `scenarios` maps a name to its runs, one for each seed."""
    every = [run for runs in scenarios.values() for run in runs]
    survived, seeds = sum(run["survived"] for run in every), sorted({run["seed"] for run in every})
    lines = [
        "# What a run survives",
        "",
        f"{survived} of {len(every)} runs of {len(scenarios)} scenarios, {sum(run['faults'] for run in every)} faults. "
        f"Every random choice comes from a seed; seeds {_listed(seeds)} ran.",
        "",
        "    for seed in " + " ".join(map(str, seeds)) + '; do make chaos CHAOS="--seed $seed"; done',
        "",
        *ABOUT.format(objects=_span(run["objects"] for run in every)).splitlines(),
        "",
        "| scenario | seeds | survived | faults | cut off | time | undisturbed | everything done | commit |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
        *(_row(runs) for runs in scenarios.values()),
    ]
    for name, runs in scenarios.items():
        title = runs[0]["title"]
        lines += ["", f"## {title[0].upper() + title[1:]}", "", f"`python -m tests.chaos --only {name} --seed N`", ""]
        lines += [_detail(run) for run in runs]
    return "\n".join([*lines, "", *COMPARISON.splitlines(), ""])


def _row(runs: list[dict[str, Any]]) -> str:
    slowest = max(runs, key=lambda run: run["worst_ratio_with_ray"] or 0.0)
    time = f"{slowest['worst_ratio']:.2f} × ({slowest['worst_ratio_with_ray']:.2f} ×)" if slowest["worst_ratio"] else ""
    return (
        f"| {runs[0]['title']} | {_listed(run['seed'] for run in runs)} | {_outcome(runs)} | {sum(run['faults'] for run in runs)} | "
        f"{sum(run['units_cut_off'] for run in runs)} | {time} | {_span(round(run['clean_seconds']) for run in runs)} s | "
        f"{_span(run['start_up_seconds'] for run in runs)} s | {', '.join(sorted({run['commit'] for run in runs}))} |"
    )


def _detail(run: dict[str, Any]) -> str:
    """Returns what one seed did, as an item of a list."""
    said = [f"{name}: {_text(value)}" for name, value in run["facts"].items()] + list(run["notes"])
    if run["experiments"]:
        each = (
            f"{e['seconds']:.0f} s, {e['restarts']} restart{'s' * (e['restarts'] != 1)}" for e in run["experiments"]
        )
        said.append("experiments: " + "; ".join(each))
    said += [f"**not survived**: {problem}" for problem in run["problems"]]
    said += [f"not done: {run['skipped']}"] if run.get("skipped") else []
    return f"- Seed {run['seed']}, {run['seconds']:.0f} s. " + ". ".join(said)


def _outcome(runs: list[dict[str, Any]]) -> str:
    done = [run for run in runs if not run.get("skipped")]
    survived = sum(run["survived"] for run in done)
    if not done:
        return f"not done: {runs[0]['skipped']}"
    return "all" if survived == len(done) else f"**{survived} of {len(done)}**"


def _text(value: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in value.items()) if isinstance(value, dict) else str(value)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _span(numbers: Iterable[float]) -> str:
    """Returns the least and the largest as text, or the one value."""
    least, *_, largest = sorted([*(found := list(numbers)), max(found)])
    return f"{least:g}" if least == largest else f"{least:g}–{largest:g}"
