"""Hooks of the documentation site: pages that programs write, and files from outside of `docs/`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import reference

ROOT = Path(__file__).parents[2]
COPIED = ("CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "examples/*.py", "clusters/**/*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages, and copies of the files that pages link to."""
    for name, page in reference.PAGES.items():
        files.append(File.generated(config, name, content=page()))
    for path in sorted(path for pattern in COPIED for path in ROOT.glob(pattern) if path.is_file()):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".md":
            files.append(File.generated(config, name, content=_inside(path.read_text(encoding="utf-8"), name)))
        else:
            files.append(File.generated(config, name, content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns a page of `docs/` with its links to copied files as they are on the site. In a
    checkout they lead out of `docs/`."""
    up = "../" * page.file.src_uri.count("/")
    return re.sub(rf"\]\({re.escape(up)}\.\./(examples|clusters)/", rf"]({up}\1/", markdown)


def _inside(text: str, name: str) -> str:
    """Returns a page from outside of `docs/` with its links as they are inside."""
    up = "../" * name.count("/")
    return re.sub(rf"\]\({re.escape(up)}docs/", f"]({up}", text)
