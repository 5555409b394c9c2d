"""`orchestrator completion`: a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse

import shtab

from .cli import build_parser


def main(args: argparse.Namespace) -> int:
    print(shtab.complete(build_parser(), shell=args.shell))
    return 0
