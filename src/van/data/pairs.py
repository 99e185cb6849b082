"""Images and masks of the same names in folders: find them, pair them, read the masks."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions
from timm.utils import natural_key

from van.data.folders import SPLIT_FOLDERS, Split, files_below, refuse_special
from van.data.images import read_image
from van.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Self

_IMAGE_FOLDERS = ("images", "image", "imgs", "Imgs")
_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_LOSSY = ("JPEG", "MPO", "JPEG2000")


@dataclass(frozen=True)
class Folders:
    """Where the images and the masks of a split are.

    Attributes:
        images: Folder of the images.
        masks: Folder of the masks.
        whole: Whether the folders hold the whole data set instead of one split.
    """

    images: Path
    masks: Path
    whole: bool


@dataclass(frozen=True)
class Pairs:
    """Images, their masks in the same order, and files without a counterpart, with what is wrong."""

    images: list[Path]
    masks: list[Path]
    unpaired: list[tuple[Path, str]]


@dataclass(frozen=True)
class PairedSplit:
    """Images with a mask each, known by their place in the list.

    Attributes:
        images: Files of the images.
        masks: Their masks, in the same order.
    """

    images: list[Path]
    masks: list[Path]

    def __len__(self) -> int:
        return len(self.images)

    def paths(self) -> dict[int, Path]:
        """Return the files of the images by index."""
        return dict(enumerate(self.images))

    def load(self, index: int) -> Path:
        """Return the file of the image of an index."""
        return self.images[index]

    def image_name(self, index: int) -> str:
        """Return the path of the image of an index."""
        return str(self.images[index])

    def key(self, index: int) -> int:
        """Return what `without` takes for an index: itself."""
        return index

    def without(self, images: Collection[int], annotations: Collection[int] = ()) -> "Self":
        """Return the split without the pairs of some indices, and without unpaired files."""
        gone = set(images)
        keep = [i for i in range(len(self)) if i not in gone]
        kept: dict[str, Any] = {name: [getattr(self, name)[i] for i in keep] for name in ("images", "masks")}
        return replace(self, **kept, unpaired=[])


def find_folders(
    root: str | Path, split: Split, mask_folders: Sequence[str], more: Sequence[tuple[str, str]] = ()
) -> Folders:
    """Find the folders of a split.

    SPLIT is train or training, or val, valid, validation, test or testing, and MASKS one of mask_folders. These pairs
    of folders are looked for: images/SPLIT and MASKS/SPLIT, SPLIT/images and SPLIT/MASKS, SPLIT and MASKS/SPLIT. Where
    there are no splits, images (or image, imgs, Imgs) and MASKS hold the whole data set.

    Args:
        root: Folder of the data set.
        split: "train", "val", or "all" for data without splits.
        mask_folders: Names that the folder of the masks may have.
        more: Further pairs of folders, below the root, that hold this split.

    Raises:
        DataError: there are no such folders; the message lists what was looked for.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give the folder with the images and masks.")
    if found := _first(root, more):
        return Folders(*found, whole=False)
    for name in SPLIT_FOLDERS.get(split, ()):
        if found := _first(root, _of_split(name, mask_folders)):
            return Folders(*found, whole=False)
    flat = [(images, masks) for images in _IMAGE_FOLDERS for masks in mask_folders]
    splits = {
        other: pair
        for other, names in SPLIT_FOLDERS.items()
        if (pair := next((p for name in names if (p := _first(root, _of_split(name, mask_folders)))), None))
    }
    if not splits and (found := _first(root, flat)):
        return Folders(*found, whole=True)
    if split == "all" and splits:
        raise DataError(f"{root} has the splits {' and '.join(splits)}. Choose one of them.")
    names = SPLIT_FOLDERS.get(split, ("train",))
    looked = [f"{images} and {masks}" for images, masks in [*more, *_of_split(names[0], mask_folders[:1])]]
    also = f" (MASKS may also be called {', '.join(mask_folders[1:])})" if len(mask_folders) > 1 else ""
    if not splits:
        looked.append(f"images and {mask_folders[0]}")
    raise DataError(f"{root} has no images with masks for {split}. Looked for {'; '.join(looked)}{also}.")


def find_splits(
    root: str | Path, mask_folders: Sequence[str], more: Mapping[str, Sequence[tuple[str, str]]] | None = None
) -> list[Split]:
    """Return the splits of a data set, train before val, or "all" alone; see `find_folders`.

    Args:
        root: Folder of the data set.
        mask_folders: Names that the folder of the masks may have.
        more: Further pairs of folders by split.

    Raises:
        DataError: there is none.
    """
    splits: list[Split] = []
    for split in ("train", "val"):
        try:
            folders = find_folders(root, split, mask_folders, (more or {}).get(split, ()))
        except DataError:
            continue
        if folders.whole:
            return ["all"]
        splits.append(split)
    if not splits:
        find_folders(root, "train", mask_folders, (more or {}).get("train", ()))  # lists what was looked for
    return splits


def _of_split(name: str, mask_folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    for masks in mask_folders:
        yield f"images/{name}", f"{masks}/{name}"
        yield f"{name}/images", f"{name}/{masks}"
        yield name, f"{masks}/{name}"


def _first(root: Path, candidates: Sequence[tuple[str, str]] | Iterator[tuple[str, str]]) -> tuple[Path, Path] | None:
    found = ((root / images, root / masks) for images, masks in candidates)
    return next((pair for pair in found if all(folder.is_dir() for folder in pair)), None)


def _by_name(folder: Path, kind: str) -> tuple[dict[str, Path], list[tuple[Path, str]]]:
    """Return the image files below a folder by path without ending, and files whose name is taken."""
    known = get_img_extensions(as_set=True)
    found: dict[str, Path] = {}
    repeated: list[tuple[Path, str]] = []
    for path in map(Path, sorted(files_below(folder, known), key=natural_key)):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            repeated.append((path, f"another {kind} has the same name: {found[name].name}"))
        else:
            found[name] = path
    return found, repeated


def find_pairs(folders: Folders, split: Split) -> Pairs:
    """Pair images and masks with the same path below their folders, endings aside, in natural order.

    Raises:
        DataError: there is no pair, or the data has no splits and one is asked for.
    """
    if folders.whole and split != "all":
        raise DataError(f"{folders.images} and {folders.masks} have no splits, so there is no {split}. Choose all.")
    images, unpaired = _by_name(folders.images, "image")
    masks, repeated = _by_name(folders.masks, "mask")
    unpaired += repeated
    unpaired += [(path, f"it has no mask in {folders.masks}") for name, path in images.items() if name not in masks]
    unpaired += [(path, f"it has no image in {folders.images}") for name, path in masks.items() if name not in images]
    names = [name for name in images if name in masks]
    if not names:
        raise DataError(
            f"{folders.images} ({len(images)} images) and {folders.masks} ({len(masks)} masks) have no file name in "
            "common. An image and its mask must have the same name, endings aside: a.jpg and a.png."
        )
    return Pairs([images[name] for name in names], [masks[name] for name in names], unpaired)


def read_mask(path: str | Path, grey: bool = False) -> np.ndarray:
    """Read a mask as stored: nothing is scaled, converted or rotated.

    Args:
        path: The file: one channel of 8 or 16 bits, or a palette image, whose palette indices are the values.
        grey: Return brightness from 0 to 255 instead of stored values: black-and-white, 16-bit and palette images are
            converted.

    Returns:
        (H, W), uint8, or int32 for more than 8 bits; black-and-white images have the values 0 and 1.

    Raises:
        DataError: the file is missing or broken, is a color image, or a JPEG, which changes values.
    """
    refuse_special(path)
    try:
        with Image.open(path) as image:
            if image.format in _LOSSY:
                raise DataError(f"{path} is a JPEG, which changes pixel values. Save masks as PNG from their source.")
            if image.mode not in _LABEL_MODES:
                raise DataError(
                    f"{path} is an image of mode {image.mode}, expected a mask with one channel that holds "
                    f"{'brightness from 0 to 255' if grey else 'class numbers'}. Convert it and save it as PNG."
                )
            if grey and image.mode in ("1", "P"):
                image = image.convert("L")
            array = np.asarray(image)
    except DataError:
        raise
    except Exception as error:  # Pillow raises anything on broken files; read_image has the message
        read_image(path)
        raise DataError(f"{path} cannot be decoded ({error}). Remove or replace it.") from error
    if array.dtype in (np.bool_, np.uint8):
        return array.astype(np.uint8)
    return (array.astype(np.int64) // 257).clip(0, 255).astype(np.uint8) if grey else array.astype(np.int32)


def check_sizes(image: str | Path, mask: str | Path, image_size: Sequence[int], mask_size: Sequence[int]) -> None:
    """Raise DataError unless a mask has the height and width of its image."""
    if tuple(image_size) != tuple(mask_size):
        raise DataError(f"{mask} {sizes_differ(image, image_size, mask_size)}.")


def sizes_differ(image: str | Path, image_size: Sequence[int], mask_size: Sequence[int]) -> str:
    """Return the message that a mask (height, width) and its image differ in size."""
    turned = "; is the image rotated by its EXIF data?" if tuple(image_size)[::-1] == tuple(mask_size) else ""
    height, width = mask_size
    return f"has {width} x {height} pixels, its image {image} has {image_size[1]} x {image_size[0]}{turned}"
