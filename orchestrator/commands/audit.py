"""`orchestrator audit`: attacks on outputs that a user's own models produced. Nothing is trained
here."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from attack import ATTACKS
from attack.attacks.device import best_device
from attack.audit.audit import Audit, audit
from attack.audit.check import Examination
from attack.audit.population import population_problems
from attack.audit.runner import InProcess, Runner
from attack.outputs.mapping import read_logits
from attack.outputs.readers import find_files
from attack.outputs.sets import FORGET, by_set, halves
from attack.outputs.sources import ParquetFiles, Source, Tables

from ..base.documents import Environment, Results
from ..base.errors import EXIT_OK, EXIT_UNITS_FAILED, UserError
from ..base.files import write_synced
from ..base.processes import usable_cpus
from ..base.provenance import git_state, versions
from ..base.values import Json, finite
from ..base.yaml_text import YamlFault, load
from ..engine.start import attacks_on_ray, ray_session
from ..experiments.results import SCHEMA_VERSION
from ..recipe.options import canonical_options, option_faults
from ..records.folder import OutputFolder
from ..records.ownership import Owner
from ..report.show import terminal_table
from ..report.write import write_report
from . import printing
from .arguments import VALUES_PER_ROW
from .ending import print_json

GIB = 2**30
LOOKS = 8  # threads that look at pieces: one reads them, no faster than that; each holds 45 MB
Settings: TypeAlias = dict[str, dict[str, Json]]  # attack → option → value


def main(args: argparse.Namespace) -> int:
    settings = _settings(args.overrides)
    source = _source(args)
    folder = OutputFolder(args.output)
    given = [args.mapping] if args.mapping else args.outputs
    folder.take(
        Owner.of_audit([str(path) if "://" in str(path) else str(Path(path).resolve()) for path in given]), args.force
    )
    try:
        return _audit(args, source, settings, folder)
    except UserError:
        folder.abandon()
        raise
    finally:
        folder.unlock()


def _audit(args: argparse.Namespace, source: Source, settings: Settings, folder: OutputFolder) -> int:
    started = time.perf_counter()
    with _told():
        sets = by_set(source)
        if FORGET not in sets:
            raise ValueError(f"set: there are outputs of {', '.join(sets)} only; give those of forget samples too")
        source = sets[FORGET]
        examined = Examination.of_sets(sets, args.num_classes, min(usable_cpus(), LOOKS))
        names, left_out = _names(args.attacks, examined)
        values = 0 if examined.survey is None else examined.survey.feature_values()
        population = None if args.population is None else _population(args, examined, names)
    read = time.perf_counter()
    with _told(), _runner(args, source, names, values) as (runner, where):
        found = audit(
            source,
            names,
            args.seed,
            settings=settings,
            num_classes=args.num_classes,
            population=population,
            unseen=halves(sets),
            examined=examined,
            runner=runner,
        )
    found.notes += [*left_out, *where]
    stages = {"read": read - started, "attack": time.perf_counter() - read}
    document = _write(folder, args.seed, names, source, found, stages)
    failed = sum(row["status"] == "failed" for row in document["rows"])
    with printing.shown():
        if args.json:
            print_json(document)
        else:
            console = printing.console(120, highlight=False)
            for question in found.questions:
                console.print(question, style="bold yellow", markup=False, soft_wrap=True)
            console.print(terminal_table(document))
            for note in found.notes:
                console.print(note, style="dim", markup=False)
            print(f"report: {args.output / 'report.html'}")
    return EXIT_UNITS_FAILED if failed else EXIT_OK


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turns what the attack package says is wrong into the user's one line for each."""
    try:
        yield
    except ValueError as error:
        raise UserError("\n".join(f"audit: {line}" for line in str(error).splitlines())) from None


def _names(text: str, examined: Examination) -> tuple[list[str], list[str]]:
    """Returns the attacks to run, and notes on those that `all` left out.

    **Raises:** `UserError` naming every problem that stands in their way.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    left_out: list[str] = []
    if text == "all":
        # Attacks that these outputs cannot feed are left out, and that is said; what is wrong for
        # all of them is not.
        names = list(ATTACKS)
        reasons = {name: [p for p in examined.problems([name]) if p.fatal] for name in names}
        if not all(reasons.values()):
            left_out = [f"{name}: left out: {reasons[name][0]}" for name in names if reasons[name]]
            names = [name for name in names if not reasons[name]]
    problems = [problem for problem in examined.problems(list(dict.fromkeys(names))) if problem.fatal]
    if problems:
        raise UserError("\n".join(f"audit: {problem}" for problem in problems))
    return list(dict.fromkeys(names)), left_out


def _population(args: argparse.Namespace, examined: Examination, names: Sequence[str]) -> Examination:
    """Returns what is in the population samples; raises `UserError` where they do not fit the
    outputs."""
    found = Examination.of(_files(args.population), args.num_classes, threads=min(usable_cpus(), LOOKS))
    problems = population_problems(examined, found, names)
    if problems:
        raise UserError("\n".join(f"audit: {problem}" for problem in problems))
    return found


def _settings(overrides: Sequence[str]) -> Settings:
    """Returns the attacks' options that `--set` gives; what is wrong with a value, the attack
    itself says."""
    found: Settings = {}
    for text in overrides:
        path, equals, value = text.partition("=")
        attack, dot, option = path.partition(".")
        if not equals or not dot:
            raise UserError(f"--set: {text!r} is not allowed; give ATTACK.OPTION=VALUE, for example rmia.gamma=2")
        if attack not in ATTACKS:
            raise UserError(f"--set: {attack!r} is no attack; known are {', '.join(ATTACKS)}")
        allowed = sorted(field.name for field in dataclasses.fields(ATTACKS[attack]))
        if option not in allowed:
            raise UserError(f"--set: {path!r}: {attack} has no such option; it has {', '.join(allowed) or 'none'}")
        try:
            found.setdefault(attack, {})[option] = load(value)
        except YamlFault as error:
            raise UserError(f"--set: {text!r}: {error}") from None
    faults = [fault for attack, options in found.items() for fault in option_faults(ATTACKS[attack], options, attack)]
    if faults:
        raise UserError("\n".join(f"--set: {fault}" for fault in faults))
    return {attack: canonical_options(ATTACKS[attack], options) for attack, options in found.items()}


def _source(args: argparse.Namespace) -> Source:
    """Returns the outputs that the arguments name; raises `UserError` saying what is wrong with
    them."""
    if bool(args.outputs) == bool(args.mapping):
        raise UserError(
            "OUTPUTS: give Parquet files in the outputs schema, or --mapping FILE for NumPy or CSV logits, one of the two"
        )
    if args.mapping is None:
        logits = [path for path in args.outputs if Path(path).suffix.lower() in (".npy", ".npz", ".csv")]
        if logits:
            raise UserError(
                f"OUTPUTS: {logits[0]!r}: not a Parquet file; give --mapping FILE, a YAML file that names each model's "
                "NumPy or CSV logits, as in docs/tutorials/audit-your-models.md"
            )
        return _files(args.outputs)
    return Tables((_mapped(args.mapping),))


def _files(given: Sequence[str]) -> ParquetFiles:
    with _told():
        return ParquetFiles(*find_files(given))


def _mapped(path: Path) -> pa.Table:
    try:
        mapping = load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--mapping: {str(path)!r}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"--mapping: {str(path)!r}: is a folder; give a YAML file with the key models") from None
    except UnicodeDecodeError:
        raise UserError(f"--mapping: {str(path)!r}: not UTF-8 text") from None
    except YamlFault as error:
        raise UserError(f"--mapping: {str(path)!r}: {error}") from None
    if not isinstance(mapping, dict):
        raise UserError(f"--mapping: {str(path)!r}: not a mapping with the key models")
    with _told():
        return read_logits(mapping, path.parent)


@contextlib.contextmanager
def _runner(
    args: argparse.Namespace, source: Source, names: Sequence[str], values: int
) -> Iterator[tuple[Runner, list[str]]]:
    """Yields where attacks that read logits run, and a note that says so where it is Ray.

    **Arguments:** `values`: how many numbers the shadow attack would hold in this process.
    """
    here = InProcess(threads=usable_cpus(), device=best_device())
    rows = source.rows()
    if "xgboost" not in names or values < args.distributed_rows * VALUES_PER_ROW:
        yield here, []
        return
    if not isinstance(source, ParquetFiles):
        yield here, [f"xgboost: {rows:,} rows were fitted in this process: only Parquet files can be streamed to Ray"]
        return
    session = ray_session(args.address)
    try:
        memory = None if args.worker_memory is None else args.worker_memory * GIB
        there = attacks_on_ray(session, source, args.scratch, memory, args.worker_rows, here)
        workers = there.workers
        yield (
            there,
            [
                f"xgboost: fitted and scored on Ray, {workers} worker{'s' if workers > 1 else ''}: {rows:,} rows of "
                f"{values // max(1, rows):,} values are not under the {args.distributed_rows:,} of {VALUES_PER_ROW} that "
                "--distributed-rows allows"
            ],
        )
    finally:
        session.close()


def _write(
    folder: OutputFolder, seed: int, names: list[str], source: Source, found: Audit, stages: dict[str, float]
) -> Results:
    facts: Environment = {
        "work": {"units_executed": 0, "units_reused": 0},
        "versions": versions(),
        "git": git_state(),
        "notes": [*found.notes, f"{source.rows():,} rows of outputs"],
    }
    if found.questions:
        facts["questions"] = found.questions
    document: Results = {
        "schema": SCHEMA_VERSION,
        "recipe": {
            "name": folder.path.resolve().name,
            "description": "Audit of given outputs; nothing was trained here.",
            "seed": seed,
            "attacks": [{"name": name} for name in names],
        },
        "rows": [row.to_json() for row in found.rows],
        "stages": stages,
        "environment": facts,
    }
    document = finite(document)
    write_synced(folder.path / "curves.json", json.dumps(finite(found.curves)).encode())
    write_synced(folder.path / "results.json", json.dumps(document, indent=1).encode())
    folder.seal_report(write_report(folder.path))
    return document
