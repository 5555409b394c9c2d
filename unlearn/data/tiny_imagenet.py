"""TinyImageNet in its published directory layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.paths import local_path
from .image_folder import decode_files
from .images import ImageDataset
from .sources import Limit, Progress, Source, check_limit, class_folders, hash_files, image_files, limit_of, round_robin


@dataclass(frozen=True)
class TinyImageNet(Source):
    """`train/<wnid>/images/*.JPEG`, `val/images/*.JPEG` and `val/val_annotations.txt`; the
    published `val` is `test` here.

    **Arguments:**

    - `root`: the folder that holds `train` and `val`.

    Labels are places in the sorted list of WordNet ids. Rows go round the classes in file-name
    order.
    """

    root: str

    def _files(self) -> tuple[tuple[str, ...], dict[str, tuple[list[Path], np.ndarray]]]:
        root = local_path(self.root)
        folders = class_folders(root / "train", "dataset.root")
        names = tuple(folder.name for folder in folders)
        groups = [image_files(folder / "images") if (folder / "images").is_dir() else [] for folder in folders]
        for name, group in zip(names, groups, strict=True):
            if not group:
                raise ValueError(f"dataset.root: {str(root / 'train' / name / 'images')!r} holds no image files")
        annotations = root / "val" / "val_annotations.txt"
        if not annotations.is_file():
            raise ValueError(
                f"dataset.root: {str(annotations)!r} is missing; expected the published TinyImageNet directory"
            )
        number = {name: label for label, name in enumerate(names)}
        files, labels = [], []
        for line_number, line in enumerate(annotations.read_text().splitlines(), start=1):
            fields = line.split("\t")
            if len(fields) < 2 or fields[1] not in number:
                raise ValueError(
                    f"{annotations}: line {line_number}: expected a file name and one of the {len(names)} WordNet ids"
                )
            path = root / "val" / "images" / fields[0]
            if not path.is_file():
                raise ValueError(f"{annotations}: line {line_number}: {str(path)!r} is missing")
            files.append(path)
            labels.append(number[fields[1]])
        val = [[path for path, label in zip(files, labels, strict=True) if label == c] for c in range(len(names))]
        return names, {"train": round_robin(groups), "test": round_robin(val)}

    def load(self, *, limit: Limit | None = None, on_progress: Progress | None = None) -> ImageDataset:
        """Reads and decodes.

        Raises `ValueError` with one line naming the folder, file or line that is wrong.
        """
        names, rows = self._files()
        for part, (files, labels) in rows.items():
            count = check_limit(limit_of(limit, part), len(files), part)
            rows[part] = files[:count], labels[:count]
        return decode_files("tiny-imagenet", names, rows, None, on_progress)

    def fingerprint(self) -> str:
        """SHA-256 of the names, labels and contents of all image files."""
        _, rows = self._files()
        files = [path for paths, _ in rows.values() for path in paths]
        return hash_files(files, [path.name for path in files], [labels.tolist() for _, labels in rows.values()])
