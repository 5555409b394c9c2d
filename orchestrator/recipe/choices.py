"""What a recipe names, with the options that it gives: a model, a source, a method, an attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unlearn import Method

from ..base.values import Json, Object, plain
from .options import settings_of


@dataclass(frozen=True)
class Choice:
    """A registered name and the options that the recipe gives for it, as plain JSON data."""

    name: str
    options: Object = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, object], key: str = "name") -> Choice:
        """Returns the choice that a section such as `{"name": "small_vgg", "width": 0.5}`
        describes."""
        return cls(str(settings[key]), {k: plain(v) for k, v in settings.items() if k != key})

    def to_json(self) -> dict[str, Json]:
        """Returns the section again."""
        return {"name": self.name, **self.options}


@dataclass(frozen=True)
class Point:
    """One setting of a method.

    **Arguments:**

    - `params`: what the recipe gives for it, in the types that the method declares.
    - `method`: the method with every default filled in. Points are equal where these are.
    - `written`: the values as the recipe spells them. They name models, as they always did.
    """

    name: str
    params: Object = field(compare=False)
    method: Method
    written: Object = field(compare=False)

    @classmethod
    def of(cls, name: str, method: Method, written: Object) -> Point:
        """Returns the setting that a recipe writes like this."""
        settings = settings_of(method)
        # A later option at its default is not among the settings.
        return cls(name, {key: settings.get(key, value) for key, value in written.items()}, method, written)
