"""Every command that a file holds, read by the parser of the program that it calls."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import warnings
from functools import cache
from typing import Any

import click

# Programs whose parser is at hand. `python` counts where it runs a module of the project.
KNOWN = ("orchestrator", "ray", "mlflow")
_OPERATORS = {
    "&&",
    "||",
    ";",
    "|",
    "&",
    ";;",
    "(",
    ")",
    "{",
    "}",
    "then",
    "else",
    "do",
    "fi",
    "done",
    "if",
    "while",
    "!",
}
_PREFIXES = {"exec", "export", "time", "nohup"}


def check_command(words: list[str]) -> list[str]:
    """Returns what is wrong with one command, given as words; nothing where its program is not known."""
    return list(_check(tuple(words))) if words else []


@cache  # a file with one planted fault repeats all the other commands
def _check(words: tuple[str, ...]) -> list[str]:
    program, *arguments = words
    program = program.rpartition("/")[2]
    if program in ("python", "python3") and tuple(arguments[:2]) == ("-m", "orchestrator"):
        program, arguments = "orchestrator", arguments[2:]
    if program == "orchestrator":
        return _check_orchestrator(arguments)
    if program == "ray":
        return _check_click(_ray(), arguments, "ray")
    if program == "mlflow":
        return _check_click(_mlflow(), arguments, "mlflow")
    return []


def commands_in(script: str) -> list[list[str]]:
    """Returns the commands of a shell text that call a known program, with everything expanded put in as `1`."""
    found: list[list[str]] = []
    for line in _logical_lines(script):
        try:
            lexer = shlex.shlex(_expand(line), posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            lexer.commenters = "#"
            words = list(lexer)
        except ValueError:
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) & set("<>") and set(word) <= set("<>&|"):
                # What follows is a file; a number before it is a descriptor.
                if command and command[-1].isdigit():
                    command.pop()
                command.append("\0redirect")
            elif word in _OPERATORS or set(word) <= set("&|;()"):
                found.append(command)
                command = []
            elif command and command[-1] == "\0redirect":
                command.pop()
            elif not command and (word in _PREFIXES or re.fullmatch(r"\w+=.*", word, re.DOTALL)):
                continue
            else:
                command.append(word)
    return [command for command in found if command and _is_known(command)]


def check_script(script: str) -> list[str]:
    """Returns what is wrong with the known commands of a shell text."""
    return [fault for command in commands_in(script) for fault in check_command(command)]


def quoted_in_comments(text: str) -> str:
    """Returns the commands that comments show, indented by three spaces or more, as a shell text."""
    return "\n".join(re.findall(r"^#\s{3,}((?:orchestrator|ray|mlflow|python) .*)$", text, re.MULTILINE))


def _is_known(command: list[str]) -> bool:
    program = command[0].rpartition("/")[2]
    return program in KNOWN or (program.startswith("python") and command[1:3] == ["-m", "orchestrator"])


def _logical_lines(script: str) -> list[str]:
    return re.sub(r"\\\n\s*", " ", script).splitlines()


def _expand(line: str) -> str:
    line = re.sub(r"\$\(\(.*?\)\)", "1", line)
    line = re.sub(r"\$\{[^}]*\}", "1", line)
    line = re.sub(r"\$\([^()]*\)", "1", line)
    line = line.replace('"$@"', "")
    return re.sub(r"\$\w+", "1", line)


def _check_orchestrator(arguments: list[str]) -> list[str]:
    from orchestrator.base.errors import UserError
    from orchestrator.recipe.recipe import load_recipe

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(io.StringIO()):
            parsed = _orchestrator().parse_args(arguments)
    except SystemExit as end:
        return [] if end.code in (0, None) else [complaint.getvalue().strip() or "refused"]
    # Capitals and expanded variables stand for the reader's own recipe.
    recipe = getattr(parsed, "recipe", None)
    if recipe and recipe != recipe.upper():
        try:
            load_recipe(recipe, parsed.overrides)
        except UserError as error:
            return [str(error)]
    return []


def _check_click(group: click.Command, arguments: list[str], name: str) -> list[str]:
    command, context = group, click.Context(group, info_name=name)
    rest = list(arguments)
    while isinstance(command, click.Group):
        if not rest:
            return [f"{name}: no command"]
        if rest[0] in ("--help", "--version"):
            return []
        inner = command.get_command(context, rest[0])
        if inner is None:
            return [f"{name} {rest[0]}: no such command"]
        command, context, rest = inner, click.Context(inner, info_name=rest[0], parent=context), rest[1:]
    if "--" in rest and name == "ray":
        # What follows is a command of its own.
        after = rest[rest.index("--") + 1 :]
        return _check_parsed(command, rest, name) + check_command(after)
    return _check_parsed(command, rest, name)


def _check_parsed(command: click.Command, rest: list[str], name: str) -> list[str]:
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            command.make_context(command.name or name, list(rest))
    except click.exceptions.Exit as end:
        return [] if end.exit_code == 0 else [f"{name} {command.name}: exit {end.exit_code}"]
    except click.ClickException as error:
        return [f"{name} {command.name}: {error.format_message()}"]
    return []


@cache
def _orchestrator() -> Any:
    from orchestrator.commands.cli import build_parser

    return build_parser()


@cache
def _ray() -> Any:
    with warnings.catch_warnings():  # about Ray's own use of its dependencies
        warnings.simplefilter("ignore")
        from ray.scripts.scripts import cli

    return cli


@cache
def _mlflow() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.cli import cli

        cli.list_commands(click.Context(cli))

    return cli


def ray_start_options() -> set[str]:
    """Returns the long options of `ray start`, without dashes."""
    return {option.removeprefix("--") for parameter in _ray().commands["start"].params for option in parameter.opts}
