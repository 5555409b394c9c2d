"""Places that a recipe names: no secret may be part of one, and nothing is written where the
recipe's author likes.

A recipe may come from somebody else. What it names is read. Results are written below the output
folder and the current folder only. Whatever is stored or printed is free of credentials.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..base.errors import Fault
from ..base.text import holds_credentials, redact

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
SQLITE_ENDINGS = (".db", ".sqlite", ".sqlite3")
_SQLITE_MAGIC = b"SQLite format 3\x00"
_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|PRIVATE|(?:^|_)KEY(?:$|_)|APIKEY|PASS(?:$|_)|_PWD|AUTH(?:$|_)|WEBHOOK|DATABASE_URL",
    re.I,
)


def expand(text: str) -> str:
    """Returns `text` with ${NAME} replaced by what the environment says; unset names stay."""
    return VARIABLE.sub(lambda match: os.environ.get(match.group(1), match.group(0)), text)


def expand_section(section: object, where: str, found: list[Fault]) -> object:
    """Returns a section of places with ${NAME} replaced; adds to `found` what must not be part of a
    recipe.

    An address with credentials that a variable holds stays unexpanded: it is looked up when it is
    used, and never stored.
    """
    if isinstance(section, Mapping):
        return {k: expand_section(v, f"{where}.{k}", found) for k, v in section.items()}
    if isinstance(section, list):
        return [expand_section(v, f"{where}.{i}", found) for i, v in enumerate(section)]
    if not isinstance(section, str):
        return section
    faults = _variable_faults(section, where)
    found.extend(faults)
    if faults:
        return section
    expanded = expand(section)
    if not holds_credentials(expanded):
        return expanded
    if holds_credentials(section) or not where.startswith("tracking."):
        found.append(
            Fault(
                where,
                redact(expanded),
                "holds credentials, which would be stored with the results",
                _instead(where),
            )
        )
    return section


def _instead(where: str) -> str:
    if where.startswith("tracking."):
        return (
            "an address without them (export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN), "
            "or ${NAME} of an exported variable that holds the whole address"
        )
    return "an address without them; export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"


def _variable_faults(text: str, where: str) -> list[Fault]:
    found = []
    for name in VARIABLE.findall(text):
        if _SECRET_NAME.search(name):
            problem = f"the environment variable {name} may hold a secret, which would be stored with the results or sent away"
            found.append(Fault(where, text, problem, "variables that hold places, such as ${UNLEARN_DATA}"))
        elif name not in os.environ:
            problem = f"the environment variable {name} is not set"
            found.append(Fault(where, text, problem, f"export {name}=… first, or write a path"))
    return found


def store_faults(uri: str | None) -> list[Fault]:
    """Returns what is wrong with the address of a store before it is opened."""
    if uri and holds_credentials(uri):
        return [
            Fault("--store", redact(uri), "holds credentials, which would be stored with the results", _instead(""))
        ]
    return []


def tracking_faults(uri: str | None) -> list[Fault]:
    """Returns why a tracking URI must not be used: an sqlite file that is not one, or lies above
    the current folder."""
    uri = expand(uri or "")
    if not uri.startswith("sqlite:"):
        return []
    shown = redact(uri)
    path = sqlite_path(uri)
    if path is None:
        return [Fault("tracking.uri", shown, "not an sqlite file", "sqlite:///mlflow.db")]
    if path.suffix not in SQLITE_ENDINGS:
        return [
            Fault(
                "tracking.uri", shown, "not the name of a database", f"a name that ends in {', '.join(SQLITE_ENDINGS)}"
            )
        ]
    if ".." in Path(uri.removeprefix("sqlite:///")).parts:
        return [Fault("tracking.uri", shown, "leads out of its folder", "a path without '..'")]
    try:
        with path.open("rb") as file:
            start = file.read(len(_SQLITE_MAGIC))
    except OSError:
        return []  # not there yet, or not to be read: opening it says so
    if start and start != _SQLITE_MAGIC:
        return [Fault("tracking.uri", shown, "this file is no sqlite database", "another name")]
    return []


def sqlite_path(uri: str) -> Path | None:
    """Returns the absolute file of an `sqlite:///…` URI, relative ones from the current folder;
    None for others."""
    if not uri.startswith("sqlite:///"):
        return None
    name = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path.cwd() / name if name else None
