"""Measures two walks through the code: from a recipe to `results.json`, and from logits to an AUC.

    python docs/scripts/walk.py [FOLDER OF THE CODE] [--write]

With `--write` it writes its part of `docs/architecture.md`, beside what was measured before. A tiny experiment runs in this process. Where one of the stations of a walk is called for the first time, the functions of
the project on the stack are noted. A walk is all functions noted, in the order in which they are first passed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

WALKS = {
    "recipe to results.json": (
        ("the recipe is parsed", ("load_recipe",)),
        ("the plan is made", ("make_plan",)),
        ("a unit is claimed", ("claim",)),
        ("a model is trained", ("train_fast", "fast_train", "train_together", "train")),
        ("a unit is committed", ("commit_unit", "commit")),
        ("a row is built", ("build_row", "_row")),
        ("results are written", ("write_results",)),
    ),
    "logits to AUC": (
        ("a model's logits", ("predict",)),
        ("written as outputs", ("write_fragment", "outputs_table")),
        ("an attacker is fitted", ("fit",)),
        ("outputs are scored", ("score",)),
        ("scores are evaluated", ("evaluate",)),
        ("the AUC", ("auc_matrix",)),
    ),
}
RECIPE = """
name: walk
dataset: {source: digits, limit: {train: 100, test: 100}}
scenario: {kind: samples, per_class: 2}
model: {name: small_vgg, width: 0.0625}
training: {epochs: 1, batch_size: 50, augment: null}
shadows: {originals: 4, retrained: 4, split: [1, 1, 2]}
methods: [{name: pgu, epochs: 1, early_stop: null}]
attacks: [{name: xgboost}]
tracking: {uri: null}
"""


Walk = dict[str, list[str]]  # station → the functions passed on the way to it

DOCS = Path(__file__).parents[1]
BEFORE = Path(__file__).parent / "walk-before.txt"  # what this program printed of commit b095c32
HEADING = "## Two walks through the code"
TEXT = """
All functions of the project that a run in one process passes, in order. One walk goes from a recipe
to `results.json`, the other from a model's logits to an AUC. `python docs/scripts/walk.py` measures
them. Where a station is reached for the first time, it notes what is on the stack.
"""


def main() -> None:
    """Runs the experiment and prints the walks, or writes them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code", nargs="?", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    root = args.code.resolve()
    sys.path.insert(0, str(root))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        os.chdir(folder)
        Path("walk.yaml").write_text(RECIPE)
        passed = _traced(root, ["run", "walk.yaml", "--address", "inline", "--quiet"])
    walks = {title: _walk(stations, passed) for title, stations in WALKS.items()}
    if args.write:
        page = DOCS / "architecture.md"
        before = page.read_text().partition(HEADING)[0].rstrip()
        page.write_text(f"{before}\n\n{_section(walks, _read(BEFORE.read_text()))}")
    else:
        print(_listed(walks))


def _walk(stations: tuple[tuple[str, tuple[str, ...]], ...], passed: dict[str, list[str]]) -> Walk:
    seen: set[str] = set()
    walk: Walk = {}
    for what, names in stations:
        stack = next((passed[name] for name in names if name in passed), None)
        if stack is None:
            raise SystemExit(f"{what}: none of {', '.join(names)} was called")
        walk[what] = [place for place in dict.fromkeys(stack) if place not in seen]
        seen.update(stack)
    return walk


def _size(walk: Walk) -> str:
    places = [place for part in walk.values() for place in part]
    return f"{len(places)} functions in {len({place.rpartition(':')[0] for place in places})} files"


def _listed(walks: dict[str, Walk]) -> str:
    lines = []
    for title, walk in walks.items():
        lines.append(f"# {title}: {_size(walk)}")
        for what, places in walk.items():
            lines += [f"{what}:", *(f"  {place}" for place in places)]
    return "\n".join(lines)


def _read(text: str) -> dict[str, Walk]:
    """Returns the walks that `_listed` wrote."""
    walks: dict[str, Walk] = {}
    title = station = ""
    for line in text.splitlines():
        if line.startswith("# "):
            title = line[2:].partition(":")[0]
            walks[title] = {}
        elif line.startswith("  "):
            walks[title][station].append(line.strip())
        elif line:
            station = line.rstrip(":")
            walks[title][station] = []
    return walks


def _section(now: dict[str, Walk], before: dict[str, Walk]) -> str:
    lines = [HEADING, TEXT, "| walk | before the rooms (b095c32) | now |", "| --- | --- | --- |"]
    lines += [f"| {title} | {_size(before[title])} | {_size(walk)} |" for title, walk in now.items()]
    for title, walk in now.items():
        lines += ["", f"### {title[0].upper()}{title[1:]}", ""]
        for what, places in walk.items():
            lines += [f"- {what}:", *(f"    - `{place}`" for place in places)]
        then = _listed({title: before[title]}).splitlines()[1:]
        lines += ["", '??? note "Before the rooms"', "", "    ```text", *(f"    {line}" for line in then), "    ```"]
    return "\n".join(lines) + "\n"


def _traced(root: Path, arguments: list[str]) -> dict[str, list[str]]:
    """Returns function name → the project's functions on the stack when it was first called."""
    wanted = {name for stations in WALKS.values() for _, names in stations for name in names}
    passed: dict[str, list[str]] = {}
    packages = tuple(str(root / name) + os.sep for name in ("orchestrator", "unlearn", "attack"))

    def look(frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_name
        if event != "call" or name not in wanted or name in passed or not frame.f_code.co_filename.startswith(packages):
            return
        if name in ("fit", "score") and "xgboost" not in frame.f_code.co_filename:
            return
        stack = []
        at: FrameType | None = frame
        while at is not None:
            file = at.f_code.co_filename
            if file.startswith(packages) and not at.f_code.co_name.startswith("<"):
                place = at.f_code.co_qualname.replace(".<locals>", "")
                stack.append(f"{Path(file).relative_to(root).as_posix()}:{place}")
            at = at.f_back
        passed[name] = stack[::-1]

    from orchestrator.commands.run import main as _  # noqa: F401  (imports are no part of a walk)

    if (root / "orchestrator" / "commands" / "cli.py").exists():
        from orchestrator.commands.cli import main as run
    else:
        from orchestrator.cli import main as run
    sys.setprofile(look)
    try:
        code = run(arguments)
    finally:
        sys.setprofile(None)
    if code:
        raise SystemExit(f"the experiment ended with {code}")
    return passed


if __name__ == "__main__":
    main()
