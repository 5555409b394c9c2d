"""What every data source shares:

the protocol, file lists, the limit, and decoding images on all cores.
"""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..core.checked import check_integer
from .images import ImageDataset
from .pixels import to_rgb

Progress = Callable[[int, int], None]
Limit = int | Mapping[str, int]
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
_CHUNK = 256  # images a thread decodes between two progress reports


@dataclass(frozen=True)
class Source(ABC):
    """A data source: a frozen dataclass whose fields are its options and recipe keys."""

    @abstractmethod
    def load(self, *, limit: Limit | None = None, on_progress: Progress | None = None) -> ImageDataset:
        """Reads and decodes the data; `limit` keeps the first n of `train` and `test`."""

    def fingerprint(self) -> str:
        """Identifies the input:

        equal fingerprints mean equal data. A source that can do so without decoding does.
        """
        return self.load().digest

    def column(self, name: str, *, limit: Limit | None = None) -> np.ndarray:
        """Returns a column of the training data, `(n,)`, texts or numbers, in the order of rows.

        Raises `ValueError` where the source has no such column.
        """
        raise ValueError(f"dataset: source {type(self).__name__} has no column {name!r}, only images and labels")

    def ids(self) -> str | None:
        """Returns the column that holds sample ids; None: ids are row numbers."""
        return None


def limit_of(limit: Limit | None, part: str) -> int | None:
    """The limit of one part, None where there is none; a bare number limits `train`.

    Raises `ValueError` for unknown parts and numbers below 1.
    """
    parts = limit if isinstance(limit, Mapping) else {} if limit is None else {"train": limit}
    for key, value in parts.items():
        if key not in ("train", "test"):
            raise ValueError(f"dataset.limit: {key!r} is not allowed; allowed are train and test")
        check_integer(f"dataset.limit.{key}", value, 1, optional=True)
    return parts.get(part)


def check_limit(limit: int | None, available: int, part: str) -> int:
    """How many rows to take. Raises `ValueError` where `limit` asks for more than there are."""
    if limit is not None and limit > available:
        raise ValueError(f"dataset.limit.{part}: {limit} is more than the {available} images there are")
    return available if limit is None else limit


def check_image_size(image_size: int | None) -> None:
    """Raises `ValueError` unless `image_size` is None or a positive integer."""
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1):
        raise ValueError(f"dataset.image_size: {image_size!r} is not allowed; give pixels, an integer of 1 or more")


def hash_files(paths: Iterable[str | os.PathLike[str]], *extra: Any) -> str:
    """SHA-256 over the contents of local files, in order, and over whatever else the result depends
    on.
    """
    sha = hashlib.sha256(repr(extra).encode())
    for path in paths:
        with open(path, "rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()


def class_folders(root: Path, field: str) -> list[Path]:
    """The class folders of `root`, sorted by name.

    Raises `ValueError` where there is no such folder or none in it.
    """
    if not root.is_dir():
        raise ValueError(f"{field}: {str(root)!r} is no folder")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise ValueError(f"{field}: {str(root)!r} holds no class folders; expected {root.name}/<class>/<image files>")
    return folders


def image_files(folder: Path) -> list[Path]:
    """The image files of `folder` and of the folders inside it, in the order of torchvision's
    ImageFolder.

    What is hidden is left out.
    """
    found = []
    for root, _, names in sorted(os.walk(folder, followlinks=True)):
        if any(part.startswith(".") for part in Path(root).relative_to(folder).parts):
            continue
        found += [Path(root) / name for name in sorted(names) if not name.startswith(".")]
    return [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES]


def round_robin(groups: Sequence[Sequence[Path]]) -> tuple[list[Path], np.ndarray]:
    """Files and labels going round the classes, so that the first n rows hold as many of each class
    as can be.
    """
    rows = [(row, label) for label, group in enumerate(groups) for row in range(len(group))]
    rows.sort()
    labels = np.array([label for _, label in rows], dtype=np.int64)
    return [groups[label][row] for row, label in rows], labels


class Decoder:
    """Decodes encoded images with one thread for each core; Pillow lets go of the interpreter while
    it decodes.

    **Arguments:**

    - `image_size`: resize (shorter side, then centre crop) to this many pixels; None requires
        images of one size.
    - `on_progress`: called with (images done, images in all) from the calling thread.
    - `total`: images in all, over several calls.
    """

    def __init__(self, image_size: int | None, on_progress: Progress | None, total: int) -> None:
        check_image_size(image_size)
        self.image_size, self.on_progress, self.total = image_size, on_progress, total
        self.done = 0
        self.grey = True  # whether every image so far was greyscale
        self.shape: tuple[int, int] | None = None

    def _open(self, encoded: bytes | Path, where: str) -> tuple[np.ndarray, bool]:
        try:
            with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
                rgb, grey = to_rgb(image)
        except UnidentifiedImageError:
            raise ValueError(f"{where}: cannot be decoded as an image (no format that Pillow knows)") from None
        except MemoryError:
            raise
        except Exception as error:
            # Pillow's readers raise whatever a damaged file makes them run into.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"{where}: cannot be decoded as an image ({lines[0]})") from None
        if self.image_size is not None and rgb.size != (self.image_size, self.image_size):
            rgb = ImageOps.fit(rgb, (self.image_size, self.image_size), Image.Resampling.BILINEAR)
        return np.asarray(rgb), grey

    def decode(self, encoded: Sequence[bytes | Path], where: Callable[[int], str]) -> np.ndarray:
        """RGB images uint8 `(n, h, w, 3)`.

        `where(i)` names image i in the `ValueError` for a bad one.
        """
        if not encoded:
            return np.zeros((0, *(self.shape or (1, 1)), 3), dtype=np.uint8)
        first, grey = self._open(encoded[0], where(0))
        shape = self.shape = self.shape or (first.shape[0], first.shape[1])
        images = np.empty((len(encoded), *shape, 3), dtype=np.uint8)

        def work(start: int) -> tuple[int, bool]:
            grey = True
            stop = min(start + _CHUNK, len(encoded))
            for row in range(start, stop):
                pixels, is_grey = self._open(encoded[row], where(row))
                if pixels.shape[:2] != shape:
                    raise ValueError(
                        f"{where(row)}: {pixels.shape[1]}x{pixels.shape[0]} pixels, others are {shape[1]}x{shape[0]}; "
                        "set dataset.image_size to resize them"
                    )
                images[row] = pixels
                grey = grey and is_grey
            return stop - start, grey

        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            futures = [pool.submit(work, start) for start in range(0, len(encoded), _CHUNK)]
            try:
                for future in as_completed(futures):
                    count, grey = future.result()
                    self.grey = self.grey and grey
                    self.done += count
                    if self.on_progress is not None:
                        self.on_progress(self.done, self.total)
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
        return images
