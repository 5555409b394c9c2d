"""torchvision's classification datasets by name, downloaded where there is a network."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..core._torchvision import load_torchvision
from ..core.paths import local_path
from .images import ImageDataset, ImageSet, make_dataset
from .sources import Limit, Progress, Source, check_image_size, check_limit, hash_files, limit_of


@dataclass(frozen=True)
class TorchvisionSet(Source):
    """A torchvision dataset that has a training and a test part and yields `(PIL image, class)`.

    **Arguments:**

    - `name`: torchvision's class name: CIFAR10, CIFAR100, FashionMNIST, MNIST, SVHN, STL10, GTSRB,
        …
    - `root`: where the files are, or are downloaded to.
    - `download`: fetch what is missing.
    - `image_size`: resize (shorter side, then centre crop) to this many pixels; None requires
        images of one size.
    """

    name: str
    root: str = "data/torchvision"
    download: bool = False
    image_size: int | None = None

    def __post_init__(self) -> None:
        check_image_size(self.image_size)

    def _open(self, part: str) -> Any:
        datasets = load_torchvision().datasets
        allowed = [name for name in datasets.__all__ if _split_options(getattr(datasets, name)) is not None]
        if self.name not in allowed:
            near = difflib.get_close_matches(self.name.upper(), [name.upper() for name in allowed], n=1)
            hint = next((f"; did you mean {name!r}?" for name in allowed if [name.upper()] == near), "")
            raise ValueError(f"dataset.name: {self.name!r} is not allowed; allowed are {', '.join(allowed)}{hint}")
        kind = getattr(datasets, self.name)
        options = dict((_split_options(kind) or {})[part])
        if "download" in inspect.signature(kind).parameters:
            options["download"] = self.download
        try:
            return kind(str(local_path(self.root)), **options)
        except (RuntimeError, OSError, ImportError) as error:
            advice = "" if self.download else "; set dataset.download: true to fetch it"
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"dataset.root: {self.name} cannot be read from {self.root!r} ({reason}){advice}"
            ) from None

    def load(self, *, limit: Limit | None = None, on_progress: Progress | None = None) -> ImageDataset:
        """Reads and decodes.

        Raises `ValueError` with one line where files are missing or images differ in size.
        """
        opened = {part: self._open(part) for part in ("train", "test")}
        counts = {part: check_limit(limit_of(limit, part), len(opened[part]), part) for part in opened}
        total, done = sum(counts.values()), 0
        arrays: dict[str, np.ndarray] = {}
        labels: dict[str, np.ndarray] = {}
        for part, rows in opened.items():
            images = []
            targets = np.empty(counts[part], dtype=np.int64)
            for row in range(counts[part]):
                image, target = rows[row]
                images.append(self._pixels(image))
                if images[row].shape != images[0].shape:
                    raise ValueError(
                        f"{self.name} {part} row {row}: {images[row].shape[1]}x{images[row].shape[0]} pixels, "
                        f"others are {images[0].shape[1]}x{images[0].shape[0]}; set dataset.image_size to resize them"
                    )
                targets[row] = int(target)
                done += 1
                if on_progress is not None and (done % 1024 == 0 or done == total):
                    on_progress(done, total)
            arrays[part], labels[part] = np.stack(images), targets
        classes = getattr(opened["train"], "classes", None)
        names = tuple(str(name) for name in classes) if classes else None
        train, test = (ImageSet(arrays[part], labels[part]) for part in ("train", "test"))
        return make_dataset(self.name, train, test, names)

    def _pixels(self, image: Any) -> np.ndarray:
        image = image if image.mode == "L" else image.convert("RGB")
        if self.image_size is not None and image.size != (self.image_size, self.image_size):
            image = ImageOps.fit(image, (self.image_size, self.image_size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def fingerprint(self) -> str:
        """SHA-256 of the contents of the dataset's files (fetched first where `download` is set)
        and of the options.
        """
        opened = self._open("train")
        folder = getattr(opened, "base_folder", None) or type(opened).__name__
        base = local_path(self.root) / folder if isinstance(folder, str) else Path(folder)
        base = base if base.exists() else local_path(self.root)
        files = sorted(path for path in base.rglob("*") if path.is_file())
        return hash_files(files, self.name, self.image_size, [str(path.relative_to(base)) for path in files])


def _split_options(kind: Any) -> dict[str, dict[str, Any]] | None:
    """The arguments that choose the training and the test part, None where the class has no such
    parts.
    """
    if not inspect.isclass(kind):
        return None
    parameters = inspect.signature(kind).parameters
    if "root" not in parameters:
        return None
    if "train" in parameters and "split" not in parameters:
        return {"train": {"train": True}, "test": {"train": False}}
    if "split" in parameters and parameters["split"].default in ("train", "trainval"):
        return {"train": {"split": "train"}, "test": {"split": "test"}}
    return None
