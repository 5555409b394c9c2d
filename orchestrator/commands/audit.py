"""`orchestrator audit`: attacks on outputs that a user's own models produced. Nothing is trained here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import EXIT_OK, EXIT_UNITS_FAILED, UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "outputs", metavar="OUTPUTS.parquet", nargs="*", help="files, folders or globs in the outputs schema"
    )
    parser.add_argument(
        "--mapping", metavar="FILE", type=Path, help="YAML that names NumPy or CSV files of logits instead"
    )
    parser.add_argument("--attacks", metavar="a,b", default="xgboost", help="attacks to run, or all (default: xgboost)")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("runs/audit"), help="output folder (default: runs/audit)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of attacks and intervals (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON document")


def main(args: argparse.Namespace) -> int:
    from attack import ATTACKS
    from attack.audit import audit
    from attack.check import check

    tables = _tables(args)
    names = (
        list(ATTACKS) if args.attacks == "all" else [name.strip() for name in args.attacks.split(",") if name.strip()]
    )
    if args.attacks == "all":
        # Attacks that these outputs cannot feed are left out, and said so in the notes.
        names = [name for name in names if not any(problem.fatal for problem in check(tables, [name]))] or names
    problems = [problem for problem in check(tables, names) if problem.fatal]
    if problems:
        raise UserError("\n".join(f"audit: {problem}" for problem in problems))
    try:
        found = audit(tables, names, args.seed)
    except ValueError as error:
        raise UserError("\n".join(f"audit: {line}" for line in str(error).splitlines())) from None
    document = _write(args, names, tables, found)
    failed = sum(row["status"] == "failed" for row in document["rows"])
    if args.json:
        from ..cli import print_json

        print_json(document)
    else:
        from rich.console import Console

        from ..report import terminal_table

        Console(width=None if Console().is_terminal else 160).print(terminal_table(document))
        for note in found.notes:
            print(note)
        print(f"report: {args.output / 'report.html'}")
    return EXIT_UNITS_FAILED if failed else EXIT_OK


def _tables(args: argparse.Namespace) -> list[Any]:
    """Returns the outputs that the arguments name; raises `UserError` saying what is wrong with them."""
    from attack.readers import read_logits, read_outputs

    if bool(args.outputs) == bool(args.mapping):
        raise UserError(
            "OUTPUTS: give Parquet files in the outputs schema, or --mapping FILE for NumPy or CSV logits, one of the two"
        )
    try:
        if args.mapping is None:
            return list(read_outputs(args.outputs))
        import yaml

        mapping = yaml.safe_load(args.mapping.read_text(encoding="utf-8"))
        if not isinstance(mapping, dict):
            raise UserError(f"--mapping: {str(args.mapping)!r}: not a mapping with the key models")
        return [read_logits(mapping, args.mapping.parent)]
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"audit: {error.filename or args.mapping}: no such file") from None
    except ValueError as error:
        raise UserError("\n".join(f"audit: {line}" for line in str(error).splitlines())) from None
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            raise UserError(f"--mapping: {str(args.mapping)!r}: not readable as YAML") from None
        raise


def _write(args: argparse.Namespace, names: list[str], tables: list[Any], found: Any) -> dict[str, Any]:
    import json

    from ..folder import OutputFolder
    from ..report import write_report
    from ..results import SCHEMA_VERSION, finite, git_state, versions
    from ..store.local import write_synced

    folder = OutputFolder(args.output)
    folder.create()
    rows = sum(len(table) for table in tables)
    document = finite(
        {
            "schema": SCHEMA_VERSION,
            "recipe": {
                "name": args.output.name,
                "description": "Audit of given outputs; nothing was trained here.",
                "seed": args.seed,
                "attacks": [{"name": name} for name in names],
            },
            "rows": found.rows,
            "stages": {},
            "environment": {
                "work": {"units_executed": 0, "units_reused": 0},
                "versions": versions(),
                "git": git_state(),
                "notes": [*found.notes, f"{rows:,} rows of outputs in {len(tables)} tables"],
            },
        }
    )
    write_synced(folder.path / "curves.json", json.dumps(finite(found.curves)).encode())
    write_synced(folder.path / "results.json", json.dumps(document, indent=1).encode())
    write_report(folder.path)
    result: dict[str, Any] = document
    return result
