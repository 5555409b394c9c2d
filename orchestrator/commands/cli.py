"""The command line. Nothing heavy is imported before a command is chosen, so that `--help` answers
at once."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NamedTuple, NoReturn

import psutil

from .. import __version__
from ..base.environment import prepare_environment
from ..base.errors import (
    EXIT_ENVIRONMENT,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    UserError,
    did_you_mean,
    forced_end,
    signals_seen,
)
from . import arguments, own_arguments
from .ending import print_json, safe_streams, unforeseen
from .shared_arguments import experiment_arguments, json_argument


class Command(NamedTuple):
    """A command: its module below `orchestrator.commands`, which has `main(args)`; what declares
    its arguments; one line of help.

    The module is imported once its command is chosen, and imports all that it needs at its top.
    """

    module: str
    arguments: Callable[[argparse.ArgumentParser], None]
    summary: str


COMMANDS = {
    "run": Command("run", arguments.run, "run a whole experiment; running it again resumes"),
    "search": Command(
        "search", experiment_arguments, "find good settings of a method within a budget, then measure them"
    ),
    "league": Command(
        "league", experiment_arguments, "tune methods with equal budgets and rank them beside doing nothing and Retrain"
    ),
    "plan": Command(
        "plan", arguments.plan, "say what would run: units for each stage, stored or missing, and what they may cost"
    ),
    "submit": Command(
        "submit", arguments.submit, "run an experiment as a Ray job on a cluster; submitting it twice attaches"
    ),
    "jobs": Command("jobs", own_arguments.jobs, "list a cluster's jobs; follow or stop one by its id"),
    "status": Command("status", arguments.status, "say what is done, running, failed and left"),
    "watch": Command("watch", arguments.watch, "follow a run"),
    "retry": Command("retry", arguments.retry, "run failed units again"),
    "report": Command("report", arguments.report, "write tables, figures and the page again from stored results"),
    "table": Command("table", arguments.table, "print the results as csv, md, latex or JSON"),
    "compare": Command("compare", arguments.compare, "print runs side by side"),
    "recipes": Command("recipes", json_argument, "list the recipes that come with the package"),
    "methods": Command("methods", arguments.methods, "list the unlearning methods, or print the card of one"),
    "check-method": Command(
        "check_method", arguments.check_method, "try a method of your own on what every method must do"
    ),
    "new": Command("new", own_arguments.new, "write a method, attack, source or model of your own, with its test"),
    "show": Command("show", arguments.show, "print a recipe with every default written out"),
    "schema": Command("schema", arguments.schema, "print the JSON Schema of recipes"),
    "audit": Command("audit", arguments.audit, "attack the outputs of your own models"),
    "reproduce": Command(
        "reproduce", arguments.reproduce, "run the paper's tables and figures and put them beside the published numbers"
    ),
    "unlearn": Command("unlearn", arguments.unlearn, "unlearn from one model of your own"),
    "verify": Command("verify", own_arguments.verify, "from one checkpoint to a page: has your model forgotten?"),
    "doctor": Command("doctor", arguments.doctor, "look at Ray, GPUs, storage and MLflow, and say what is wrong"),
    "store": Command("store", arguments.store, "verify a store or clean it up"),
    "completion": Command("completion", own_arguments.completion, "print a script that completes commands in a shell"),
}

# Between a signal and the end by force: ten seconds are promised, on busy machines, too.
GRACE_SECONDS = 5.0
_interrupted = False


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, with the nearest spelling."""

    def error(self, message: str) -> NoReturn:
        match = re.match(r"argument (\S+): invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if match:
            what, given, choices = match.groups()
            allowed = list(COMMANDS) if what == "COMMAND" else choices.replace("'", "").split(", ")
            hint = did_you_mean(given, allowed)
            if what == "COMMAND":
                message = f"no such command: {given!r}{hint} (see `orchestrator --help`)"
            else:
                message = f"{what}: {given!r} is not allowed; allowed: {', '.join(allowed)}{hint}"
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown:
            options = [option for action in self._all_actions() for option in action.option_strings]
            message += did_you_mean(unknown.group(1).partition("=")[0], options) or f" (see `{self.prog} --help`)"
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)

    def _all_actions(self) -> list[argparse.Action]:
        found = list(self._actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                chosen = next((word for word in sys.argv[1:] if word in action.choices), None)
                if chosen:
                    found += action.choices[chosen]._actions
        return found


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of every command."""
    parser = _Parser(
        prog="orchestrator",
        description="Machine-unlearning experiments: train shadow models, unlearn, attack, report. Start with `orchestrator run demo`.",
        epilog="exit codes: 0 done; 1 some units failed; 2 bad usage or recipe; 3 storage, cluster, disk or tracking; 130 interrupted, resumable",
    )
    parser.add_argument("--version", action="version", version=f"orchestrator {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, command in COMMANDS.items():
        description = command.summary[0].upper() + command.summary[1:] + "."
        command.arguments(commands.add_parser(name, help=command.summary, description=description))
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the arguments; units may also come after options, which argparse alone does not
    take."""
    parser = build_parser()
    words = sys.argv[1:] if argv is None else list(argv)
    args, rest = parser.parse_known_args(words)
    args.words = words  # `verify` tells how to go on
    if rest and hasattr(args, "units") and not any(word.startswith("-") for word in rest):
        args.units = [*args.units, *rest]
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    args = _parse(argv)
    if os.name == "nt":  # no `fcntl` there, and other signals: before anything needs them
        print("orchestrator: Windows is not supported; use WSL 2, where Linux runs", file=sys.stderr)
        return EXIT_USAGE
    prepare_environment()
    with _answering_signals():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        module = importlib.import_module(f"orchestrator.commands.{COMMANDS[args.command].module}")
        if hasattr(args, "allow_factory"):
            importlib.import_module("orchestrator.recipe.own_code").permit_code(args.allow_factory)
        return int(module.main(args))
    except UserError as error:
        if getattr(args, "json", False):
            print_json({"error": str(error).splitlines(), "exit_code": error.exit_code})
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; finished work is kept, the same command resumes", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return 0  # commands print when their work is done: `orchestrator table … | head -1`
        return _failed(args, f"{error.filename or 'the system'}: {error.strerror or error}", error)
    except Exception as error:
        return _failed(args, "", error)


@contextlib.contextmanager
def _answering_signals() -> Iterator[None]:
    """Has SIGTERM and SIGINT interrupt what is inside, and end it by force where it does not end.

    In another thread than the main one, signals stay as they are: Python lets the main thread alone
    answer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_after_signal, args=(reader,), daemon=True, name="signals").start()
    try:
        yield
    finally:
        if not _interrupted:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(writer)


def _end_after_signal(reader: int) -> None:
    """Ends the process some seconds after a signal, also where the main thread is in C code and
    answers none."""
    while number := os.read(reader, 1):
        if number[0] in (signal.SIGTERM, signal.SIGINT):
            _end_later()
    os.close(reader)


def _end_later() -> None:
    timer = threading.Timer(GRACE_SECONDS, _end_now)
    timer.daemon = True
    timer.start()


def _failed(args: argparse.Namespace, line: str, error: Exception) -> int:
    """Tells an error that no command expected, in one line; returns the exit code."""
    if os.environ.get("ORCHESTRATOR_TRACEBACK"):
        raise error
    line = line or unforeseen(args.command, error)
    if getattr(args, "json", False):
        print_json({"error": [line], "exit_code": EXIT_ENVIRONMENT})
    print(line, file=sys.stderr)
    return EXIT_ENVIRONMENT


def console() -> NoReturn:
    """Runs one command as this process's whole purpose: a signal in its last moments, too, ends it
    with a code of ours.

    Without this, SIGTERM while the interpreter takes itself down reads as −15: a job queue would
    call a finished run killed.
    """
    known = [EXIT_INTERRUPTED]  # what the process ends with

    def end_at_once(number: int, frame: FrameType | None) -> None:
        os._exit(known[-1])

    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end_at_once)
    # Registered first, so run last of all: Python puts the default action back only where a handler
    # of its own is set.
    atexit.register(_ignore_signals)
    safe_streams()
    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else EXIT_USAGE if end.code else 0
    except KeyboardInterrupt:  # on its way out of `main`
        code = EXIT_INTERRUPTED
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        # The reader is gone. Python would try once more on its way out, and end with 120.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    known.append(code)
    sys.exit(code)


def _reader_is_gone() -> bool:
    """Whether nobody reads standard output any more."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
        return any(state & select.POLLERR for _, state in poll.poll(0))
    except (OSError, ValueError):
        return False


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ends what runs, in order; a second signal, or that taking too long, ends it at once. Either
    way it can be resumed."""
    global _interrupted
    if _interrupted:
        _end_now()
    _interrupted = True
    signals_seen.append(number)
    _end_later()
    raise KeyboardInterrupt


def _end_now() -> None:
    """Ends this process and those that it started. What is finished is in the store already."""
    with contextlib.suppress(Exception):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    code, line = EXIT_INTERRUPTED, "interrupted; finished work is kept, the same command resumes"
    if forced_end:
        code, line = forced_end[-1]
    os.write(2, f"{line}\n".encode())
    os._exit(code)
