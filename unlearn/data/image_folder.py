"""Images in folders, one folder a class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.paths import local_path
from .images import ImageDataset, ImageSet, make_dataset
from .sources import (
    Decoder,
    Limit,
    Progress,
    Source,
    check_image_size,
    check_limit,
    class_folders,
    hash_files,
    image_files,
    limit_of,
    round_robin,
)


@dataclass(frozen=True)
class ImageFolder(Source):
    """`train/<class>/<image files>` and `test/<class>/<image files>`; classes are the sorted folder
    names.

    **Arguments:**

    - `train`, `test`: folders of class folders.
    - `image_size`: resize (shorter side, then centre crop) to this many pixels; None requires
        images of one size.
    - `id_column`: `file` names samples by `<class>/<file>`; None names them by row numbers.

    Rows go round the classes in file-name order, so the first n rows hold as many of each class as
    can be.
    """

    train: str
    test: str
    image_size: int | None = None
    id_column: str | None = None

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        if self.id_column not in (None, "file"):
            raise ValueError(f"dataset.id_column: {self.id_column!r} is not allowed; give file or null")

    def _files(self) -> tuple[list[str], dict[str, list[list[Path]]]]:
        names = [folder.name for folder in class_folders(local_path(self.train), "dataset.train")]
        groups: dict[str, list[list[Path]]] = {}
        for part in ("train", "test"):
            root = local_path(getattr(self, part))
            unknown = [folder.name for folder in class_folders(root, f"dataset.{part}") if folder.name not in names]
            if unknown:
                raise ValueError(f"dataset.{part}: class {unknown[0]!r} has no folder in {self.train!r}")
            groups[part] = [image_files(root / name) if (root / name).is_dir() else [] for name in names]
            if not any(groups[part]):
                raise ValueError(f"dataset.{part}: {str(root)!r} holds no image files")
            empty = [name for name, group in zip(names, groups[part], strict=True) if not group]
            if empty and part == "train":
                raise ValueError(
                    f"dataset.train: class {empty[0]!r} holds no image files; remove its folder, or fill it"
                )
        return names, groups

    def load(self, *, limit: Limit | None = None, on_progress: Progress | None = None) -> ImageDataset:
        """Reads and decodes.

        Raises `ValueError` with one line naming the folder or file that is wrong.
        """
        names, groups = self._files()
        rows: dict[str, tuple[list[Path], np.ndarray]] = {}
        for part, group in groups.items():
            files, labels = round_robin(group)
            count = check_limit(limit_of(limit, part), len(files), part)
            rows[part] = files[:count], labels[:count]
        return decode_files(
            local_path(self.train).resolve().parent.name or "images", tuple(names), rows, self.image_size, on_progress
        )

    def ids(self) -> str | None:
        """Returns `id_column`."""
        return self.id_column

    def column(self, name: str, *, limit: Limit | None = None) -> np.ndarray:
        """Returns `<class>/<file>` of each training row for the column `file`, the only one."""
        if name != "file":
            raise ValueError(f"dataset: an image folder has no column {name!r}; it has file")
        files, _ = round_robin(self._files()[1]["train"])
        root = local_path(self.train)
        return np.array([path.relative_to(root).as_posix() for path in files[: limit_of(limit, "train")]])

    def fingerprint(self) -> str:
        """SHA-256 of the names and contents of all image files and of the options."""
        names, groups = self._files()
        files = [path for part in groups.values() for group in part for path in group]
        roots = {part: local_path(getattr(self, part)) for part in groups}
        shown = [
            (part, path.relative_to(roots[part]).parent.as_posix(), path.name)
            for part, group in groups.items()
            for paths in group
            for path in paths
        ]
        return hash_files(files, names, shown, self.image_size)


def decode_files(
    name: str,
    class_names: tuple[str, ...],
    rows: dict[str, tuple[list[Path], np.ndarray]],
    image_size: int | None,
    on_progress: Progress | None,
) -> ImageDataset:
    """A dataset from image files and labels for each part, greyscale where every image is."""
    decoder = Decoder(image_size, on_progress, sum(len(files) for files, _ in rows.values()))
    images: dict[str, np.ndarray] = {}
    for part, (files, _) in rows.items():
        images[part] = decoder.decode(files, lambda row, files=files: str(files[row]))  # type: ignore[misc]
    if decoder.grey:
        images = {part: np.ascontiguousarray(array[..., :1]) for part, array in images.items()}
    train, test = (ImageSet(images[part], rows[part][1]) for part in ("train", "test"))
    return make_dataset(name, train, test, class_names)
