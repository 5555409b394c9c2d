"""HTML pages from templates: one frame, one style sheet, every text escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .colours import DARK_SERIES


def render(name: str, values: Mapping[str, object], filters: Mapping[str, Callable[..., object]] | None = None) -> str:
    """Returns the page of the template `name` of this folder: one file that loads nothing else.

    `values` are the template's variables. One that it uses and that is missing is an error. All
    texts but `Markup` are escaped. `filters` are functions that the template applies to values.
    """
    environment = Environment(
        loader=PackageLoader("orchestrator", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    dark = "".join(f"--series-{i}: {colour}; " for i, colour in enumerate(DARK_SERIES, start=1))
    css = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    css = Markup(css.replace("/* dark series */", dark))
    return environment.get_template(name).render(values, css=css).rstrip("\n") + "\n"
