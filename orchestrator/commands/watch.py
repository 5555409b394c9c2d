"""`orchestrator watch`: follow a run from its folder, from any machine that sees it."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..base.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_UNITS_FAILED
from ..base.text import printable
from ..plan.stages import STAGE_TITLES
from ..records.folder import open_folder
from ..records.progress import duration
from ..records.state import ExperimentState, StateDocument
from .ending import print_json
from .status import attempt_text, rate_text, render

MOST_FAILURES = 6
PLAIN_SECONDS = 10.0


def main(args: argparse.Namespace) -> int:
    state = ExperimentState(open_folder(args.folder).path)
    interval = max(0.2, args.interval)
    try:
        if sys.stdout.isatty() and not args.json:
            _live(state, interval)
            print(render(state.document()))
        else:
            _plain(state, interval, sys.stderr if args.json else sys.stdout)
            if args.json:
                print_json(state.document())
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED  # only the watching ends
    if state.failures:
        return EXIT_UNITS_FAILED
    return EXIT_INTERRUPTED if state.state in ("interrupted", "stopped") else EXIT_OK


def _live(state: ExperimentState, interval: float) -> None:
    """Draws the state in place until no driver is at work any more."""
    state.update()
    console = Console()
    with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
        while state.at_work:
            live.update(picture(state.document(), max(1, console.height - 1)), refresh=True)
            time.sleep(interval)
            state.update(wait=False)


def picture(state: StateDocument, height: int) -> Group:
    """Returns the live view: stages with bars, throughput and ETA; running units; failures. At most
    `height` lines."""
    now = time.time()
    head = Text.assemble(
        (state["recipe"] or "experiment", "bold"),
        f"  {state['state']}",
        f"  {duration(now - state['started'])}" if state["started"] else "",
        (f"  last event {duration(max(0.0, now - state['last_event']))} ago", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )
    lines: list[RenderableType] = [
        head,
        Text(state["where"] or state["driver"], style="dim", no_wrap=True, overflow="ellipsis"),
    ]
    stages = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("stage", "", "done", "failed", "stored", "throughput", "left"):
        stages.add_column(title, justify="left" if title in ("stage", "") else "right", no_wrap=True)
    for name, counts in state["stages"].items():
        finished = counts["done"] + counts["failed"]
        if counts["seconds"] is not None:
            left = f"took {duration(counts['seconds'])}"
        elif counts["to_do"] and counts["seconds_left"] is not None:
            left = duration(counts["seconds_left"])
        else:
            left = "estimating" if counts["to_do"] else ""
        stages.add_row(
            STAGE_TITLES.get(name, name),
            ProgressBar(total=max(1, counts["to_do"]), completed=finished if counts["to_do"] else 1, width=20),
            f"{counts['done']}/{counts['to_do']}",
            Text(str(counts["failed"]), style="red" if counts["failed"] else "dim"),
            str(counts["stored"]),
            rate_text(counts["units_per_second"]) if finished else "",
            left,
        )
    lines.append(stages)
    room = height - 4 - len(state["stages"])
    failures = list(state["failures"].items())[-min(MOST_FAILURES, max(0, room // 3)) :] if room >= 3 else []
    running = sorted(state["running"].values(), key=lambda unit: unit["since"])
    most = max(0, room - len(failures) - 2)
    if running and most:
        shown = running if len(running) <= most else running[: most - 1]
        lines.append(Text(f"{len(running)} running", style="dim"))
        for unit in shown:
            where = f" on {unit['where']}" if unit["where"] else ""
            text = f"  {printable(unit['name'])}{where}, {duration(unit.get('for', 0.0))}{attempt_text(unit)}"
            lines.append(Text(text, no_wrap=True, overflow="ellipsis"))
        if len(shown) < len(running):
            lines.append(Text(f"  and {len(running) - len(shown)} more", style="dim"))
    for key, failure in failures:
        text = f"failed: {printable(failure['name'])} [{key[:12]}]: {printable(failure['error'])}"
        lines.append(Text(text, style="red", no_wrap=True, overflow="ellipsis"))
    if len(failures) < len(state["failures"]) and room > 0:
        lines.append(Text(f"{len(state['failures'])} failed in all", style="red"))
    return Group(*lines[: max(1, height)])


def _plain(state: ExperimentState, interval: float, stream: TextIO) -> None:
    """Prints a line for each stage that begins or ends, each failure, and every ten seconds how far
    it is."""

    def say(text: str) -> None:
        print(text, file=stream, flush=True)

    state.update()
    if not state.at_work:
        say(render(state.document()))
        return
    say(render(state.document()))
    told = time.monotonic()
    while state.at_work:
        time.sleep(interval)
        for event in state.update(wait=False):
            title = STAGE_TITLES.get(event.get("stage", ""), event.get("stage", ""))
            if event["event"] == "stage_start":
                say(f"{title}: {event['units']} to do, {event['reused']} stored")
            elif event["event"] == "stage_end":
                say(f"{title}: ended after {duration(event['seconds'])}")
            elif event["event"] == "unit" and event["status"] == "failed":
                say(f"failed: {printable(event['name'])} [{event['unit'][:12]}]: {printable(event.get('error', ''))}")
        if time.monotonic() - told >= PLAIN_SECONDS:
            told = time.monotonic()
            for name, counts in state.document()["stages"].items():
                if counts["seconds_left"] and counts["left"]:
                    say(
                        f"{STAGE_TITLES.get(name, name)}: {counts['done']}/{counts['to_do']}, {counts['failed']} failed, "
                        f"{rate_text(counts['units_per_second'])}, about {duration(counts['seconds_left'])} left"
                    )
    say(f"{state.folder}: {state.state}")
