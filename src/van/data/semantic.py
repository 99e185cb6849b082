"""Semantic segmentation: images and masks whose pixels are class numbers."""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data.readers.img_extensions import get_img_extensions
from timm.utils import natural_key
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from van.data.checks import Problem
from van.data.coco import CocoSplit, decode_masks
from van.data.folders import Split, files_below
from van.data.formats import IGNORED
from van.data.images import read_image
from van.data.pairs import Folders, PairedSplit, check_sizes, find_folders, find_pairs, find_splits, read_mask
from van.data.regions import Regions, regions_of_pixels
from van.errors import DataError

CLASS_FILE = "classes.txt"

_VOC_MASKS = "SegmentationClass"
_COLOR_FILE = "labelmap.txt"  # of CVAT
_ADE20K = "objectInfo150.txt"  # ADE20K's own class file
_MASK_FOLDERS = ("masks", "annotations", "semantic", "labels", "mask")
_MOST = 254  # 255 marks ignored pixels


@dataclass(frozen=True)
class SemanticSplit(PairedSplit):
    """The images and masks of a split; see `find_semantic`.

    Attributes:
        images: Files of the images.
        masks: Their masks, in the same order.
        class_names: Names in the order of the labels.
        reduce_zero_label: In the masks, 0 marks ignored pixels and the first class is 1.
        ignore_index: Value in the masks that marks ignored pixels, in addition to 255.
        unpaired: Files without a counterpart, with what is wrong.
        name: What to call the split: the folder of its masks.
    """

    class_names: list[str]
    reduce_zero_label: bool = False
    ignore_index: int = IGNORED
    unpaired: list[tuple[Path, str]] = field(default_factory=list)
    name: str = "The masks"

    def regions(self, index: int) -> Regions:
        """Return a region for each class that the image has; nothing where the mask cannot be read."""
        try:
            labels = self.look_up(self.numbers(index))
            return regions_of_pixels(np.where(labels < 0, IGNORED, labels), len(self.class_names))
        except DataError:
            return Regions(np.zeros(0, int))

    def table(self) -> np.ndarray:
        """Return the label of each value in the masks, (65536,) int16; -1 for values without a meaning."""
        table = np.full(65536, -1, np.int16)
        first = int(self.reduce_zero_label)
        table[first : first + len(self.class_names)] = np.arange(len(self.class_names))
        if first:
            table[0] = IGNORED
        table[[self.ignore_index, IGNORED]] = IGNORED
        return table

    def numbers(self, index: int) -> np.ndarray:
        """Read the mask of an index as `look_up` takes it, (H, W).

        Raises:
            DataError: the file is broken or not a mask.
        """
        return read_mask(self.masks[index])

    def labels(self, index: int) -> np.ndarray:
        """Read the mask of an index.

        Returns:
            (H, W) uint8: labels from 0, and 255 for ignored pixels.

        Raises:
            DataError: the file is broken or not a mask, or a value is not a class.
        """
        numbers = self.numbers(index)
        labels = self.look_up(numbers)
        if labels.min(initial=0) < 0:
            raise DataError(f"{self.masks[index]} {self.unknown(numbers)}. van check-data lists what is wrong.")
        return labels.astype(np.uint8)

    def look_up(self, numbers: np.ndarray) -> np.ndarray:
        """Return the labels (H, W) int16 of a mask from `read_mask`; -1 for values without a meaning."""
        table = self.table()
        if numbers.dtype == np.uint8:
            return table[numbers]
        known = (numbers >= 0) & (numbers < len(table))
        return np.where(known, table[numbers.clip(0, len(table) - 1)], np.int16(-1))

    def unknown(self, numbers: np.ndarray) -> str:
        """Return which values of a mask (H, W) are not classes, or an empty string."""
        found, counts = np.unique(numbers[self.look_up(numbers) < 0], return_counts=True)
        if not len(found):
            return ""
        first = int(self.reduce_zero_label)
        last = first + len(self.class_names) - 1
        shown = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
        hint = "" if first or found[0] != last + 1 else "; if 0 means no class, set reduce_zero_label"
        return (
            f"has {counts.sum()} pixels with {shown}, expected {first} to {last} for {len(self.class_names)} classes, "
            f"or {self.ignore_index} for ignored pixels{hint}"
        )


@dataclass(frozen=True)
class ColoredSplit(SemanticSplit):
    """Masks whose colors stand for classes, as CVAT exports them.

    Attributes:
        colors: Red, green and blue of each class.
    """

    colors: tuple[tuple[int, ...], ...] = ()

    def numbers(self, index: int) -> np.ndarray:
        """Return the class of each pixel, (H, W); see SemanticSplit."""
        pixels = np.asarray(read_image(self.masks[index]), np.int64)
        codes = pixels @ (65536, 256, 1)
        known = np.array([np.dot(color, (65536, 256, 1)) for color in self.colors])
        order = known.argsort(kind="stable")
        places = order[np.searchsorted(known, codes, sorter=order).clip(max=len(known) - 1)]
        if (known[places] != codes).any():
            color = tuple(map(int, pixels[known[places] != codes][0]))
            raise DataError(f"{self.masks[index]} has pixels of the color {color}, which {_COLOR_FILE} does not list.")
        return places.astype(np.uint8)


@dataclass(frozen=True)
class DrawnSplit(SemanticSplit):
    """Objects with masks or outlines, drawn into one map of classes in the order of the files.

    Pixels of no object are background, the first class; crowd regions are ignored.

    Attributes:
        objects: The annotations.
        ids: Id of each image in them.
    """

    objects: CocoSplit | None = None
    ids: tuple[int, ...] = ()

    def without(self, images: Collection[int], annotations: Collection[int] = ()) -> "DrawnSplit":
        """Return the split without the images of some indices."""
        kept: Any = super().without(images)
        gone = set(images)
        return replace(kept, ids=tuple(number for i, number in enumerate(self.ids) if i not in gone))

    def problems(self) -> list[Problem]:
        """Return what is wrong in the label files, with the indices of the images."""
        places = {number: index for index, number in enumerate(self.ids)}
        found = [p for p in self._objects.problems if p.image is None or p.image in places]
        return [replace(p, image=None if p.image is None else places[p.image]) for p in found]

    @property
    def _objects(self) -> CocoSplit:
        assert self.objects is not None  # noqa: S101 - a dataclass cannot have a field without a default here
        return self.objects

    def numbers(self, index: int) -> np.ndarray:
        """Draw the objects of an image, (H, W); see SemanticSplit."""
        image = next(image for image in self._objects.images if image["id"] == self.ids[index])
        height, width = image.get("height"), image.get("width")
        if not height or not width:
            raise DataError(f"{self.images[index]} has no size in {self.name}.")
        drawn = np.zeros((height, width), np.uint8)
        for annotation in self._objects.annotations(self.ids[index]):
            source = annotation.get("source") or f"{self.name}, annotation {annotation.get('id')}"
            number = self._objects.labels.get(annotation.get("category_id"))
            if number is None:
                raise DataError(f"{source}: its category {annotation.get('category_id')} is unknown.")
            try:
                mask = decode_masks([annotation.get("segmentation")], height, width)[0]
            except DataError as error:
                raise DataError(f"{source}: {error}.") from error
            label = self.class_names.index(self._objects.class_names[number])
            drawn[mask > 0] = IGNORED if annotation.get("iscrowd") else label
        return drawn


def _drawn(objects: CocoSplit, ignore_index: int) -> DrawnSplit:
    backgrounds = [name for name in objects.class_names if name.strip("_").lower() == "background"]
    names = [
        *(backgrounds[:1] or ["background"]),
        *(name for name in objects.class_names if name not in backgrounds[:1]),
    ]
    paths = [objects.image_path(image) for image in objects.images]
    ids = tuple(image["id"] for image in objects.images)
    common: dict[str, Any] = {"ignore_index": ignore_index, "name": objects.name}
    return DrawnSplit(paths, paths, names, objects=objects, ids=ids, **common)


def read_classes(path: str | Path) -> list[str]:
    """Read class names: one per line, or ADE20K's objectInfo150.txt, of which the first of several names is taken.

    Raises:
        DataError: the file cannot be read, a line is empty or occurs twice, or there are more than 254.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Give a text file with one class per line.") from error
    names = [line.strip() for line in lines]
    if path.name == _ADE20K:
        names = [line.split("\t")[-1].split(",")[0].strip() for line in lines[1:]]
        # ADE20K has two classes called screen, for example: their second name tells them apart
        repeated = {name for name, count in Counter(names).items() if count > 1}
        full = [line.split("\t")[-1].strip() for line in lines[1:]]
        names = [whole if name in repeated else name for name, whole in zip(names, full, strict=True)]
    if "" in names:
        where = names.index("") + 1
        raise DataError(f"{path} has no class in line {where}. Expected one class per line, the first for value 0.")
    if repeats := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path} has the class {repeats[0]!r} more than once. Give each class a name of its own.")
    if len(names) > _MOST:
        raise DataError(f"{path} has {len(names)} classes, expected at most {_MOST}: 255 marks ignored pixels.")
    return names


def _class_file(root: Path, folders: Folders) -> Path:
    looked = [root / CLASS_FILE, folders.masks / CLASS_FILE, folders.masks.parent / CLASS_FILE, root / _ADE20K]
    found = next((path for path in looked if path.is_file()), None)
    if found is None:
        files = ", ".join(str(path) for path in dict.fromkeys(looked))
        raise DataError(f"{root} has no class file. Looked for {files}: class names, one per line.")
    return found


def find_semantic(
    root: str | Path,
    split: Split,
    classes: str | Path | None = None,
    reduce_zero_label: bool | None = None,
    ignore_index: int = IGNORED,
) -> SemanticSplit:
    """Find images, masks and classes of a split; see `van.data.pairs.find_folders` for the layouts.

    The folder of the masks is called masks, annotations, semantic, labels or mask. ADE20K (images/training and
    annotations/training, objectInfo150.txt) and the built-in shapes (train and semantic/train) have such layouts.

    Args:
        root: Folder of the data set.
        split: "train" or "val", or "all" for data without splits.
        classes: File with the class names; by default classes.txt in the root or in or beside the folder of the masks,
            or ADE20K's objectInfo150.txt.
        reduce_zero_label: In the masks, 0 marks ignored pixels and the first class is 1; by default only for ADE20K's
            objectInfo150.txt.
        ignore_index: Value in the masks that marks ignored pixels, in addition to 255.

    Raises:
        DataError: there are no such files, or the class file is malformed.
    """
    if not 0 <= ignore_index <= 65535:
        raise DataError(f"format.ignore_index is {ignore_index}, expected a pixel value from 0 to 65535.")
    root = Path(root)
    folders = find_folders(root, split, _MASK_FOLDERS)
    file = Path(classes) if classes else _class_file(root, folders)
    pairs = find_pairs(folders, split)
    reduce = file.name == _ADE20K if reduce_zero_label is None else reduce_zero_label
    names = read_classes(file)
    return SemanticSplit(pairs.images, pairs.masks, names, reduce, ignore_index, pairs.unpaired, str(folders.masks))


def find_semantic_splits(
    root: str | Path,
    classes: str | Path | None = None,
    reduce_zero_label: bool | None = None,
    ignore_index: int = IGNORED,
) -> dict[Split, SemanticSplit]:
    """Return the splits of a data set, train before val, or "all" alone; see `recognize_semantic`."""
    return recognize_semantic(root, classes, reduce_zero_label, ignore_index)()


def recognize_semantic(
    root: str | Path,
    classes: str | Path | None = None,
    reduce_zero_label: bool | None = None,
    ignore_index: int = IGNORED,
) -> Callable[[], dict[Split, SemanticSplit]]:
    """Find masks of classes, Pascal VOC's or in folders, or else objects with masks in a format of van.data.labels.

    Args:
        root: Folder of the data set, or its label file.
        classes: See `find_semantic`, like the others.
        reduce_zero_label: For masks in folders only.
        ignore_index: Value in the masks that marks ignored pixels.

    Returns:
        What reads the splits.

    Raises:
        DataError: there are neither masks nor objects with masks.
    """
    from van.data.labels import find_labels

    root = Path(root)
    if (root / _VOC_MASKS).is_dir():
        return partial(_voc_splits, root, classes, ignore_index)
    reason: DataError | None = None
    if root.is_dir():
        try:
            splits = find_splits(root, _MASK_FOLDERS)
            masks = [find_folders(root, split, _MASK_FOLDERS).masks for split in splits]
        except DataError as error:
            reason = error
        else:
            known = get_img_extensions(as_set=True)
            if any(files_below(folder, known) for folder in masks):
                return lambda: {
                    split: find_semantic(root, split, classes, reduce_zero_label, ignore_index) for split in splits
                }
    try:
        labels = find_labels(root, "masks")
    except DataError as error:
        if reason is None:
            raise
        raise DataError(f"{reason}\n{error}") from error
    for option, value in (("classes", classes), ("reduce_zero_label", reduce_zero_label)):
        if value is not None:
            raise DataError(f"format.{option} is {value}, which {labels.format} does not use. Leave it out.")
    return lambda: {split: _drawn(objects, ignore_index) for split, objects in labels.read().items()}


def _voc_splits(root: Path, classes: str | Path | None, ignore_index: int) -> dict[Split, SemanticSplit]:
    """Return the splits of Pascal VOC's masks: those of ImageSets/Segmentation, or all masks."""
    from van.data.labels.base import ImageIndex
    from van.data.labels.voc import CLASSES, listed_splits

    folder, own = root / _VOC_MASKS, next((p for p in (root / CLASS_FILE, root / _COLOR_FILE) if p.is_file()), None)
    colors: tuple[tuple[int, ...], ...] = ()
    if classes is None and own is not None and own.name == _COLOR_FILE:
        names, colors = _read_colors(own)
    else:
        file = classes or own
        names = read_classes(file) if file else ["background", *CLASSES]
    index = ImageIndex(root / "JPEGImages", root / "images")
    masks = {path.stem: path for path in map(Path, sorted(files_below(folder, [".png"]), key=natural_key))}
    listed: dict[Split, list[str]] = {
        split: stems for split, (_, stems) in listed_splits(root, "Segmentation").items()
    } or {"all": list(masks)}
    splits: dict[Split, SemanticSplit] = {}
    for split, stems in listed.items():
        pairs = [(index.find(stem), masks.get(stem)) for stem in stems]
        unpaired = [
            (folder / f"{s}.png", "it does not exist") for s, (_, m) in zip(stems, pairs, strict=True) if m is None
        ]
        unpaired += [(m, "it has no image in JPEGImages") for i, m in pairs if i is None and m is not None]
        kept = [(i, m) for i, m in pairs if i is not None and m is not None]
        if not kept:
            raise DataError(f"{folder} has no mask for the images of {split}. Check ImageSets/Segmentation.")
        common: dict[str, Any] = {"ignore_index": ignore_index, "unpaired": unpaired, "name": str(folder)}
        images, own_masks = [i for i, _ in kept], [m for _, m in kept]
        if colors:
            splits[split] = ColoredSplit(images, own_masks, names, colors=colors, **common)
        else:
            splits[split] = SemanticSplit(images, own_masks, names, **common)
    return splits


def _read_colors(path: Path) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """Read names and colors of classes: a line name:red,green,blue:: for each.

    Raises:
        DataError: a line is malformed.
    """
    names, colors = [], []
    for place, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        color = rest.partition(":")[0].split(",")
        if not name or len(color) != 3 or not all(c.strip().isdecimal() and int(c) < 256 for c in color):
            raise DataError(f"{path}, line {place} is {line!r}, expected name:red,green,blue::. Correct it.")
        names.append(name)
        colors.append(tuple(map(int, color)))
    return names, tuple(colors)


class SemanticDataset(Dataset):
    """Images with their labels.

    An item is the image, a tv_tensors.Image (3, H, W) of uint8, and the labels, a tv_tensors.Mask (H, W) of uint8 in
    which 255 marks ignored pixels.

    Args:
        split: Images and masks.
        transform: Takes and returns image and labels, like torchvision's transforms v2.
    """

    def __init__(self, split: SemanticSplit, transform: Callable[[Any, Any], Any] | None = None) -> None:
        self.split = split
        self.transform = transform

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.split.images[index])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image: Any = tv_tensors.Image(functional.pil_to_tensor(read_image(self.split.images[index])))
        labels: Any = tv_tensors.Mask(torch.from_numpy(self.split.labels(index)))
        check_sizes(self.split.images[index], self.split.masks[index], image.shape[-2:], labels.shape)
        return (image, labels) if self.transform is None else self.transform(image, labels)
