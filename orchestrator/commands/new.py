"""`orchestrator new`: a working method, attack, source or model of your own, with its test."""

from __future__ import annotations

import argparse
import keyword
from importlib import resources
from pathlib import Path

from ..base.errors import EnvironmentFault, UserError
from ..base.files import write_synced

SECTION = {
    "method": "methods: [{{name: {target}}}]",
    "attack": "attacks: [{{name: xgboost}}, {{name: {target}}}]",
    "source": "dataset: {{source: {target}}}",
    "model": "model: {{name: {target}}}",
}
RUN = "orchestrator run mine.yaml --allow-code"


def main(args: argparse.Namespace) -> int:
    name = args.name.replace("-", "_")
    if not name.isidentifier() or keyword.iskeyword(name) or name.lower() != name:
        raise UserError(f"NAME: {args.name!r} is not allowed; give small letters, digits and '_', such as my_method")
    # A function is called in small letters, a class is not.
    called = f"build_{name}" if args.kind == "model" else "".join(part.capitalize() for part in name.split("_"))
    files = {args.folder / f"{name}.py": f"{args.kind}.txt", args.folder / f"test_{name}.py": f"test_{args.kind}.txt"}
    taken = [path for path in files if path.exists()]
    if taken:
        raise UserError(f"NAME: {str(taken[0])!r} exists; give another name, or another folder with --folder")
    templates = resources.files(__package__) / "templates"
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
        for path, template in files.items():
            text = (templates / template).read_text(encoding="utf-8")
            write_synced(path, text.replace("CLASS", called).replace("NAME", name).encode())
    except OSError as error:
        raise EnvironmentFault(f"--folder: {str(args.folder)!r}: cannot be written ({error.strerror})") from None
    print("\n".join([f"wrote {path}" for path in files] + _next(args.kind, args.folder, f"{name}:{called}")))
    return 0


def _next(kind: str, folder: Path, target: str) -> list[str]:
    """Returns what to do with the files."""
    where = "" if folder == Path() else f"cd {folder} && "
    name = target.partition(":")[0]
    lines = [f"try it:    {where}python -m pytest test_{name}.py"]
    if kind == "method":
        lines.append(f"check it:  {where}orchestrator check-method {target}")
    quoted = SECTION[kind].format(target=f'"{target}"')
    recipe = [f"           {line}" for line in ("extends: demo", "name: mine", quoted)]
    return [*lines, "use it:    in a recipe, such as mine.yaml:", *recipe, f"run it:    {where}{RUN}"]
