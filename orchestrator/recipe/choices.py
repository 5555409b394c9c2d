"""What a recipe names, with the options that it gives: a model, a data source, a method, an
attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..base.values import Json, Object, plain


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
