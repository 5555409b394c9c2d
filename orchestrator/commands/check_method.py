"""`orchestrator check-method`: the conformance suite on anyone's unlearning method."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from unlearn import METHODS, Method
from unlearn.testing import CHECKS, examine

from ..base.errors import UserError
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    cls = METHODS[args.method] if args.method in METHODS else _imported(args.method)
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise UserError(f"{args.method}: it is no unlearn.Method; derive the class from it")
    findings = examine(cls)
    failed = [finding for finding in findings if finding.holds is False]
    if args.json:
        print_json(
            {
                "method": args.method,
                "conforms": not failed,
                "checks": [
                    {"check": f.check, "what": CHECKS[f.check], "holds": f.holds, "why": f.why} for f in findings
                ],
            }
        )
    else:
        words = {True: "holds", False: "FAILS", None: "does not apply"}
        for finding in findings:
            why = f": {finding.why}" if finding.why else ""
            print(f"{finding.check:<4} {words[finding.holds]:<15} {CHECKS[finding.check]}{why}")
        print(f"{args.method} {'conforms' if not failed else f'does not conform: {len(failed)} checks fail'}")
    return 1 if failed else 0


def _imported(target: str) -> object:
    """Returns what `package.module:Class` names, the working folder being importable."""
    module, _, name = target.partition(":")
    if not module or not name:
        raise UserError(f"{target}: no such method; give package.module:Class or a name of `orchestrator methods`")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that nothing here hides a package that is installed
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"{target}: it cannot be imported ({why}); give package.module:Class") from None
