"""Writing labels of one format in another."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from van.data.coco import CocoSplit, decode_masks
from van.data.coco_checks import usable_split
from van.data.folders import OnBadImage, Split
from van.data.labels import find_labels, module_of
from van.data.labels.base import Need, run_lengths
from van.errors import DataError, VanError
from van.files import new_folder_at

WRITTEN = {"coco": "COCO", "yolo": "YOLO", "voc": "Pascal VOC"}
"""Names of the formats that can be written."""


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        source: Name of the format that was read.
        images: Number of images by split.
        objects: Number of objects.
        left_out: Sentences about what the new format cannot hold, or what could not be used.
    """

    source: str
    images: dict[Split, int]
    objects: int
    left_out: list[str]


@dataclass(frozen=True)
class Target:
    """Where a writer puts images and labels.

    Attributes:
        folder: Of the new data set.
        need: What is written: boxes, masks or keypoints.
        splits: The annotations.
        names: File name of each image, by split and id.
    """

    folder: Path
    need: Need
    splits: dict[Split, CocoSplit]
    names: dict[tuple[Split, int], str]

    def images(self, split: Split) -> Iterator[tuple[dict[str, Any], str]]:
        """Yield the record of each image of a split and its new file name."""
        for image in self.splits[split].images:
            yield image, self.names[split, image["id"]]

    def copy(self, split: Split, folder: Path) -> None:
        """Copy the images of a split into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        images = tqdm(
            self.images(split), desc="Copying images", total=len(self.splits[split]), leave=False, disable=None
        )
        for image, name in images:
            shutil.copyfile(self.splits[split].image_path(image), folder / name)

    @property
    def first(self) -> CocoSplit:
        """A split, for what all have in common."""
        return next(iter(self.splits.values()))


def convert_labels(
    src: str | Path,
    dst: str | Path,
    to: str,
    need: Need | None = None,
    on_bad_image: OnBadImage = "error",
    data_root: str | None = None,
) -> Converted:
    """Write a data set in another format, images included.

    Args:
        src: Data set in any format that is read; see van.data.labels.
        dst: Folder to write; missing or empty.
        to: coco, yolo or voc.
        need: What to write; by default masks where all objects have one, else boxes.
        on_bad_image: What to do about images and annotations that cannot be used: error refuses them, skip leaves
            them out.
        data_root: Where the built-in shapes are stored.

    Raises:
        DataError: the data cannot be read, or the format cannot hold it.
        VanError: dst is a folder with files.
    """
    labels = find_labels(src, need or "masks", data_root)
    splits = labels.read()
    if need is None:
        need = most_of(splits)
        if need == "boxes":  # the splits of Pascal VOC depend on it
            splits = find_labels(src, need, data_root).read()
    left_out: list[str] = []
    kept: dict[Split, CocoSplit] = {}
    for name, split in splits.items():
        kept[name], notes = usable_split(split, on_bad_image, masks=need == "masks")
        left_out += notes
    with new_folder_at(dst) as folder:
        written, notes = write_labels(kept, folder, to, need)
    sizes: dict[Split, int] = {name: len(split) for name, split in kept.items()}
    return Converted(labels.format, sizes, written, left_out + notes)


def most_of(splits: Mapping[Split, CocoSplit]) -> Need:
    """Return masks where all objects of a data set have one, else boxes."""
    objects = [a for split in splits.values() for a in split.all_annotations()]
    return "masks" if objects and all(a.get("segmentation") for a in objects) else "boxes"


def write_labels(splits: dict[Split, CocoSplit], folder: Path, to: str, need: Need) -> tuple[int, list[str]]:
    """Write labels in COCO's terms, with copies of their images, in another format.

    Args:
        splits: What to write.
        folder: An empty folder.
        to: coco, yolo or voc.
        need: What to write: boxes, masks or keypoints.

    Returns:
        How many objects were written, and sentences about what the format cannot hold.

    Raises:
        DataError: the format cannot hold it.
    """
    taken: set[str] = set()
    names: dict[tuple[Split, int], str] = {
        (split, image["id"]): free_name(content.image_path(image), f"{split}_{image['id']}", taken)
        for split, content in splits.items()
        for image in content.images
    }
    return module_of(WRITTEN[to]).write(Target(folder, need, splits, names))


def free_name(path: Path, number: str, taken: set[str]) -> str:
    """Return a file name that no other image has; the folder comes before the name where it must.

    Args:
        path: The image.
        number: Comes before the name where the folder does not help.
        taken: Names without endings of other images; the new one is added.

    Raises:
        DataError: there is none.
    """
    tries = [path.name, f"{path.parent.name}_{path.name}", f"{number}_{path.name}"]
    name = next((name for name in tries if Path(name).stem not in taken), None)
    if name is None:
        raise DataError(f"{path} has the name of another image. Rename one of them.")
    taken.add(Path(name).stem)
    return name


def mask_of(annotation: dict[str, Any], image: dict[str, Any]) -> np.ndarray:
    """Return the mask of an object, (H, W) of bool."""
    return decode_masks([annotation["segmentation"]], image["height"], image["width"])[0].astype(bool)


def as_runs(annotation: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
    """Return the mask of an object as uncompressed RLE."""
    return run_lengths(mask_of(annotation, image))


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outlines of a mask along the edges of its pixels, holes included.

    Args:
        mask: (H, W) of bool.

    Returns:
        Closed outlines (N, 2) of x, y: clockwise around the object, counterclockwise around holes.
    """
    padded = np.pad(mask.astype(bool), 1)
    follow: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # an edge has the object on its right: to the right along upper edges, down along right ones, and so on
    edges = (
        (padded[1:, :] & ~padded[:-1, :], (0, 0), (1, 0)),
        (padded[:-1, :] & ~padded[1:, :], (1, 0), (0, 0)),
    )
    for found, start, end in edges:
        for y, x in np.argwhere(found):
            follow.setdefault((int(x) - 1 + start[0], int(y)), []).append((int(x) - 1 + end[0], int(y)))
    edges = (
        (padded[:, :-1] & ~padded[:, 1:], (0, 0), (0, 1)),
        (padded[:, 1:] & ~padded[:, :-1], (0, 1), (0, 0)),
    )
    for found, start, end in edges:
        for y, x in np.argwhere(found):
            follow.setdefault((int(x), int(y) - 1 + start[1]), []).append((int(x), int(y) - 1 + end[1]))
    loops = []
    while follow:
        place = first = next(iter(follow))
        loop, direction = [first], (0, 0)
        while True:
            ends = follow[place]
            # where two pixels touch at a corner, turning right keeps them apart
            right = (place[0] - direction[1], place[1] + direction[0])
            after = right if right in ends else ends[0]
            ends.remove(after)
            if not ends:
                del follow[place]
            direction = (after[0] - place[0], after[1] - place[1])
            place = after
            if place == first:
                break
            loop.append(place)
        points = np.array(loop)
        turns = np.any(np.roll(points, 1, 0) + np.roll(points, -1, 0) != 2 * points, axis=1)
        loops.append(points[turns])
    return loops


def one_outline(parts: list[np.ndarray]) -> list[float]:
    """Join outlines (N, 2) to one by lines without width, there and back; filled by the even-odd rule."""
    joined = [*parts[0], parts[0][0]] if len(parts) > 1 else list(parts[0])
    for part in parts[1:]:
        joined += [*part, part[0], parts[0][0]]
    return [float(v) for point in joined for v in point]


def refuse_keypoints(need: Need, name: str) -> None:
    """Raise VanError where keypoints are to be written in a format that has none."""
    if need == "keypoints":
        raise VanError(f"{name} has no keypoints. Convert to coco or yolo.")
