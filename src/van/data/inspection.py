"""Looking at every image of a data set once: its file, what it shows, and what is labeled on it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from van.data.duplicates import THUMB, fingerprint
from van.data.folders import refuse_special
from van.data.images import one_mode
from van.data.loaders import as_is, loading_processes
from van.data.regions import GRID, Inspected, Regions, cover_of_boxes

_DEEP = ("I", "F")  # first letters of modes with more than 8 bits
_FEW = 256  # no progress bar for up to this many images


@dataclass(frozen=True)
class ImageFacts:
    """What the file of an image is like.

    Attributes:
        size: Width and height as the image is shown; zeros where it cannot be read.
        kind: What is special about its pixels: grey, transparent, 16-bit, rotated (by EXIF), several of them, or none.
        digest: Of the content of the file; empty where it was not read.
        code: 64 bits that are nearly the same for images that look the same; see van.data.duplicates.
        thumb: The image in THUMB x THUMB pixels, RGB.
    """

    size: tuple[int, int] = (0, 0)
    kind: tuple[str, ...] = ()
    digest: bytes = b""
    code: int = 0
    thumb: np.ndarray | None = None


def facts_of(source: Any, decode: bool = True) -> ImageFacts:
    """Return what an image is like.

    Args:
        source: Path, bytes, or decoded image.
        decode: Read all of it; otherwise only its header.
    """
    import io

    try:
        content = source
        if isinstance(source, str | Path):
            refuse_special(source)
            content = Path(source).read_bytes() if decode else source
        if isinstance(content, np.ndarray):
            content = Image.fromarray(content)
        opened = io.BytesIO(content) if isinstance(content, bytes) else content
        with opened if isinstance(opened, Image.Image) else Image.open(opened) as image:
            # a PNG without EXIF would be decoded completely to look for it
            turn = image.getexif().get(ExifTags.Base.Orientation, 1) if "exif" in image.info else 1
            size = image.size[::-1] if turn >= 5 else image.size
            found = {
                "grey": image.mode in ("1", "L", "LA", "La") or image.mode[0] in _DEEP,
                "transparent": image.has_transparency_data,
                "16-bit": image.mode[0] in _DEEP,
                "rotated": turn != 1,
            }
            kind = tuple(name for name, holds in found.items() if holds)
            if not decode:
                return ImageFacts(size, kind)
            image.draft("RGB", (4 * THUMB, 4 * THUMB))  # a JPEG is decoded at a fraction of its size
            shown = one_mode(ImageOps.exif_transpose(image), "RGB")
            whole = content if isinstance(content, bytes) else shown.tobytes() + repr(shown.size).encode()
            return ImageFacts(size, kind, hashlib.blake2b(whole, digest_size=16).digest(), *fingerprint(shown))
    except Exception:  # Pillow raises anything on broken files; the checks of each format have the message
        return ImageFacts()


class _Looks(Dataset):
    """Facts and regions of each image."""

    def __init__(self, split: Inspected, decode: bool, files: bool) -> None:
        self.split, self.decode, self.files = split, decode, files

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[ImageFacts, Regions]:
        facts = facts_of(self.split.load(index), self.decode) if self.files else ImageFacts()
        return facts, self.split.regions(index)


@dataclass(frozen=True)
class Inspection:
    """What all images of a split are like. N is the number of images, M that of regions.

    Attributes:
        split: The split.
        class_names: Names in the order of the labels.
        sizes: Width and height of each image as it is shown, zeros where it cannot be read, shape (N, 2).
        kinds: Indices of the images whose pixels are special, by how; see ImageFacts.
        digests: Of the contents of the files; empty where they were not read.
        codes: Perceptual hashes, shape (N,) uint64.
        thumbs: Shape (N, THUMB, THUMB, 3) uint8.
        images: Index of the image of each region, shape (M,).
        labels: Class of each region, shape (M,).
        boxes: x, y, width, height of the regions with a box, in pixels, shape (M, 4); (0, 4) where whole images are
            labeled.
        areas: Pixels of each, shape (M,).
        cover: How many regions of each class lie over each cell of the images, shape (classes, GRID, GRID); empty where
            whole images are labeled.
    """

    split: Inspected
    class_names: list[str]
    sizes: np.ndarray
    kinds: Mapping[str, np.ndarray]
    digests: list[bytes]
    codes: np.ndarray
    thumbs: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    cover: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def objects(self) -> np.ndarray:
        """Number of regions of each class, shape (classes,)."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    @property
    def per_image(self) -> np.ndarray:
        """Number of regions on each image, shape (N,)."""
        return np.bincount(self.images, minlength=len(self))


def inspect(split: Inspected, decode: bool = True, workers: int | None = None) -> Inspection:
    """Look at every image of a split and its labels.

    Args:
        split: Any split.
        decode: Read whole images, for duplicates; otherwise only their headers. Masks are read anyway.
        workers: Loading processes; None takes one per processor, at most 8, and none for few images.
    """
    count = len(split)
    loader = DataLoader(
        _Looks(split, decode, True), batch_size=None, num_workers=loading_processes(workers, count), collate_fn=as_is
    )
    looks = tqdm(loader, desc="Looking at images", unit=" images", disable=count <= _FEW or None, leave=False)
    classes = len(split.class_names)
    sizes, codes = np.zeros((count, 2), int), np.zeros(count, np.uint64)
    thumbs = np.zeros((count if decode else 0, THUMB, THUMB, 3), np.uint8)
    digests, kinds = [b""] * count, {name: [] for name in ("grey", "transparent", "16-bit", "rotated")}
    regions: list[Regions] = []
    covers = np.zeros((classes, GRID, GRID))
    scales: list[np.ndarray] = []
    for index, (facts, found) in enumerate(looks):
        sizes[index], codes[index], digests[index] = facts.size, facts.code, facts.digest
        if facts.thumb is not None:
            thumbs[index] = facts.thumb
        for name in facts.kind:
            kinds[name].append(index)
        size = found.size if found.size and all(found.size) else facts.size
        scales.append(np.tile(np.maximum(size, 1), (len(found.boxes), 1)))
        if found.cover is not None:
            np.add.at(covers, found.labels, found.cover)
        regions.append(Regions(found.labels, found.boxes, found.areas))  # without what is counted already
    labels = np.concatenate([np.zeros(0, int), *(one.labels for one in regions)])
    boxes = np.concatenate([np.zeros((0, 4)), *(one.boxes for one in regions)])
    scale = np.concatenate([np.zeros((0, 2)), *scales])
    if len(boxes) and not covers.any():
        for label in range(classes):
            covers[label] = cover_of_boxes(boxes[labels == label], scale[labels == label])
    return Inspection(
        split, list(split.class_names), sizes, {name: np.array(found, int) for name, found in kinds.items()},
        digests, codes, thumbs, np.repeat(np.arange(count), [len(one.labels) for one in regions]), labels, boxes,
        np.concatenate([np.zeros(0), *(one.areas for one in regions)]), covers if len(boxes) else covers[:0],
    )  # fmt: skip
