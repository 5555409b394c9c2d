"""Text that people read: file names, printable values, and addresses without credentials."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

# scheme://user:password@… and scheme://token@…; a bucket or a host alone holds no '@'.
_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://)(?P<user>[^/?#\s@:]*)(?P<colon>:?)(?P<password>[^/?#\s]*)@")


_QUERY = re.compile(
    r"(?P<name>[?&][^=&#\s]*(?:token|secret|password|passwd|signature|credential|access_key)[^=&#\s]*=)[^&#\s]+", re.I
)


def redact(text: str) -> str:
    """Returns `text` with the credentials of every address in it replaced by `***`."""
    text = _USER.sub(lambda found: f"{found['scheme']}***@", text)
    return _QUERY.sub(lambda found: f"{found['name']}***", text)


def holds_credentials(text: str) -> bool:
    """Whether an address carries a user, a password or a token."""
    return bool(_USER.search(text) or _QUERY.search(text))


def is_address(text: str) -> bool:
    """Whether a text is meant as an address, such as `s3://x` or `gs:/x`. As a path it would make a
    folder of that name.
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text) is not None


def file_name(text: str) -> str:
    """Returns `text` as the name of one file or folder, whatever a recipe says: no separators, no
    leading dot.
    """
    return re.sub(r"[^A-Za-z0-9_.\-]+", "_", text).lstrip(".")[:100] or "_"


def printable(text: str) -> str:
    """Returns `text` without control characters, which could rewrite what a terminal shows."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def varying_names(params: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """Returns the names of parameters that are not the same in all of `params`."""
    names = dict.fromkeys(name for each in params for name in each)
    texts = {name: {json.dumps(each.get(name), sort_keys=True, default=str) for each in params} for name in names}
    return tuple(name for name in names if len(texts[name]) > 1)


def first_of(texts: Sequence[str]) -> str:
    """Returns the first text, and how many more there are."""
    return texts[0] + (f" (and {len(texts) - 1} more)" if len(texts) > 1 else "")
