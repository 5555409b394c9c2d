"""The table of what was survived, as a page and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "chaos.json"
COMMAND = "make chaos"


def merge(folder: Path, document: dict[str, Any], whole: bool) -> dict[str, Any]:
    """Returns `document` with the scenarios that only an earlier invocation ran; as it is where it is `whole`."""
    path = folder / FILE
    if whole or not path.is_file():
        return document
    earlier = json.loads(path.read_text())
    return {**document, "scenarios": {**earlier["scenarios"], **document["scenarios"]}}


def write_table(folder: Path, document: dict[str, Any], order: list[str]) -> None:
    """Writes `README.md` and `chaos.json` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [document["scenarios"][name] for name in order if name in document["scenarios"]]
    document = {**document, "scenarios": {scenario["name"]: scenario for scenario in found}}
    (folder / FILE).write_text(json.dumps(document, indent=1) + "\n")
    (folder / "README.md").write_text(page(found))


def page(scenarios: list[dict[str, Any]]) -> str:
    """Returns the page."""
    faults = sum(s["faults"] for s in scenarios)
    survived = sum(s["survived"] for s in scenarios)
    lines = [
        "# What a run survives",
        "",
        f"{survived} of {len(scenarios)} scenarios, {faults} faults. Written by `{COMMAND}`; every random choice comes from its seed.",
        "",
        "A small real experiment (64 objects: dataset, 18 shadow models, moments, unlearning, logits, attackers, scores; Ray, a store, MLflow) "
        "is disturbed and the same command given again until it ends well. After each scenario:",
        "",
        "- rows of `results.json` equal those of an undisturbed run to the bit (but for seconds), and so do the weights of all models;",
        "- every unit that had been finished was executed 0 times again: counted outside of the program, by the folder that each execution begins "
        "with; every object is committed once;",
        "- one MLflow run for each unit, all finished, none with more or fewer values;",
        "- no process and no temporary file is left, but in the store's `tmp/` what executions that were killed had begun.",
        "",
        "*Cut off*: executions in flight that a kill ended, the only work done twice. *Time*: all invocations of the slowest experiment over the "
        "undisturbed run, less, for each restart, what the command takes where everything is done; in brackets, less what the undisturbed run takes "
        "until its first unit is done, since of so short a run starting Ray again is a large part. A worker that was killed is allowed what a worker "
        "takes to start. More than 1.5 × in brackets counts as not survived.",
        "",
        "| scenario | faults | survived | cut off | time | undisturbed | everything done | first unit | seed, commit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for s in scenarios:
        ratio = "" if s["worst_ratio"] is None else f"{s['worst_ratio']:.2f} × ({s['worst_ratio_with_ray']:.2f} ×)"
        lines.append(
            f"| {s['title']} | {s['faults']} | {_outcome(s)} | {s['units_cut_off']} | {ratio} | "
            f"{s['clean_seconds']:.0f} s | {s['start_up_seconds']:.1f} s | {s['first_unit_seconds']:.0f} s | {s['seed']}, {s['commit']} |"
        )
    for s in scenarios:
        lines += ["", f"## {s['title'][0].upper() + s['title'][1:]}", ""]
        lines += [f"- {name}: {_text(value)}" for name, value in s["facts"].items()]
        lines += [f"- {note}" for note in s["notes"]]
        lines += [f"- **not survived**: {problem}" for problem in s["problems"]]
        if s["experiments"]:
            each = ", ".join(
                f"{e['seconds']:.0f} s with {e['restarts']} restart{'s' if e['restarts'] != 1 else ''}"
                for e in s["experiments"]
            )
            lines.append(f"- experiments: {each}")
        lines.append(f"- `python -m tests.chaos --only {s['name']} --seed {s['seed']}`: {s['seconds']:.0f} s")
    lines += [
        "",
        "For comparison, `Tuner.restore` of Ray Tune 2.60 after a `kill -9` ran 21 of 24 finished trials again: it snapshots its state every "
        "ten seconds or more, while here each unit is committed as it ends.",
        "",
    ]
    return "\n".join(lines)


def _outcome(scenario: dict[str, Any]) -> str:
    if scenario.get("skipped"):
        return f"not done: {scenario['skipped']}"
    return "yes" if scenario["survived"] else "**no**"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    return str(value)
