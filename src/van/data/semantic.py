"""Semantic segmentation: images and masks whose pixels are class numbers."""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from van.data.folders import Split
from van.data.formats import IGNORED
from van.data.images import read_image
from van.data.pairs import Folders, check_sizes, find_folders, find_pairs, find_splits, read_mask
from van.errors import DataError

CLASS_FILE = "classes.txt"

_ADE20K = "objectInfo150.txt"  # ADE20K's own class file
_MASK_FOLDERS = ("masks", "annotations", "semantic", "labels", "mask")
_MOST = 254  # 255 marks ignored pixels


@dataclass(frozen=True)
class SemanticSplit:
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

    images: list[Path]
    masks: list[Path]
    class_names: list[str]
    reduce_zero_label: bool = False
    ignore_index: int = IGNORED
    unpaired: list[tuple[Path, str]] = field(default_factory=list)
    name: str = "The masks"

    def __len__(self) -> int:
        return len(self.images)

    def without(self, images: Collection[int], annotations: Collection[int] = ()) -> "SemanticSplit":
        """Return the split without the pairs of some indices, and without unpaired files."""
        gone = set(images)
        keep = [i for i in range(len(self)) if i not in gone]
        return replace(self, images=[self.images[i] for i in keep], masks=[self.masks[i] for i in keep], unpaired=[])

    def table(self) -> np.ndarray:
        """Return the label of each value in the masks, (65536,) int16; -1 for values without a meaning."""
        table = np.full(65536, -1, np.int16)
        first = int(self.reduce_zero_label)
        table[first : first + len(self.class_names)] = np.arange(len(self.class_names))
        if first:
            table[0] = IGNORED
        table[[self.ignore_index, IGNORED]] = IGNORED
        return table

    def labels(self, index: int) -> np.ndarray:
        """Read the mask of an index.

        Returns:
            (H, W) uint8: labels from 0, and 255 for ignored pixels.

        Raises:
            DataError: the file is broken or not a mask, or a value is not a class.
        """
        numbers = read_mask(self.masks[index])
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
        split: "train", "val" or "all"; without splits, "val" is every fifth pair.
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
    """Return the splits of a data set, train before val, or "all" alone; see `find_semantic`."""
    splits = find_splits(root, _MASK_FOLDERS)
    return {split: find_semantic(root, split, classes, reduce_zero_label, ignore_index) for split in splits}


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
