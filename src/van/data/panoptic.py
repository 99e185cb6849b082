"""Panoptic segmentation in COCO's format: a PNG of segment ids per image, and a JSON that describes the segments."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from van.data.coco import CocoFiles, CocoSplit, ImageRecords, find_split, find_splits
from van.data.folders import Split, refuse_special
from van.data.formats import IGNORED
from van.data.images import read_image
from van.data.pairs import check_sizes
from van.data.regions import Regions, regions_of_pixels
from van.errors import DataError

_BYTES = (1, 256, 65536)  # an id is R + 256 G + 65536 B


def decode_ids(colors: np.ndarray) -> np.ndarray:
    """Return the segment ids (H, W) int32 of the colors (H, W, 3) uint8 of a panoptic PNG: R + 256 G + 65536 B."""
    return colors.astype(np.int32) @ np.array(_BYTES, np.int32)


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """Return the colors (H, W, 3) uint8 of segment ids (H, W) from 0 to 16777215."""
    return (np.asarray(ids, np.int64)[..., None] // np.array(_BYTES) % 256).astype(np.uint8)


def read_ids(path: str | Path) -> np.ndarray:
    """Read the segment ids (H, W) int32 of a panoptic PNG; 0 is no segment.

    Raises:
        DataError: the file is missing or broken, or not an RGB PNG: other formats change ids.
    """
    refuse_special(path)
    try:
        with Image.open(path) as image:
            if image.format != "PNG" or image.mode != "RGB":
                raise DataError(
                    f"{path} is a {image.format} of mode {image.mode}, expected a PNG of mode RGB whose colors are "
                    "segment ids."
                )
            return decode_ids(np.asarray(image))
    except DataError:
        raise
    except Exception as error:  # Pillow raises anything on broken files; read_image has the message
        read_image(path)
        raise DataError(f"{path} cannot be decoded ({error}). Remove or replace it.") from error


class PanopticSplit(ImageRecords):
    """The annotations of a split; see `find_panoptic`.

    Args:
        coco: The JSON.
        drop_images: Ids of images to leave out.

    Attributes:
        coco: The JSON.
        name: What to call the split: its JSON.
        folder: Folder of the PNG files: named like the JSON, without its ending.
        images: Records of the images that have segments, sorted by id.
        class_names: Names in the order of the category ids: the position in this list is the label.
        category_ids: Category id of each label.
        labels: Label of each category id.
        isthing: Whether each label is a thing (countable); the others are stuff.
        things: Labels of the things.

    Raises:
        DataError: a category has no isthing, or there are too many categories.
    """

    def __init__(self, coco: CocoSplit, drop_images: Collection[int] = ()) -> None:
        self.coco = coco
        self.name = coco.name
        file = coco.files.annotations
        self.folder = file.with_suffix("")
        for category in coco.categories:
            if category.get("isthing") not in (0, 1):
                raise DataError(f"{file}: category {category['name']} has no 'isthing', expected 0 or 1.")
        if len(coco.categories) >= IGNORED:
            raise DataError(f"{file} has {len(coco.categories)} categories, expected at most {IGNORED - 1}.")
        self.isthing = [bool(category["isthing"]) for category in coco.categories]
        self.things = {label for label, thing in enumerate(self.isthing) if thing}
        self.class_names, self.category_ids, self.labels = coco.class_names, coco.category_ids, coco.labels
        self.records = {a["image_id"]: a for a in coco.all_annotations() if isinstance(a.get("image_id"), int)}
        gone = set(drop_images)
        self.images = [image for image in coco.images if image["id"] in self.records and image["id"] not in gone]

    def regions(self, index: int) -> Regions:
        """Return the segments of an image, but for crowd regions; nothing where they cannot be read."""
        try:
            numbers, segments = self.truth(self.images[index])
        except DataError:
            return Regions(np.zeros(0, int))
        found = regions_of_pixels(np.where(numbers == 0, len(segments), numbers - 1), len(segments))
        labels = np.array([segment["label"] for segment in segments], int)[found.labels]
        kept = np.array([not segments[i]["iscrowd"] for i in found.labels], bool)
        return replace(
            found,
            labels=labels[kept], boxes=found.boxes[kept], areas=found.areas[kept], cover=cast(Any, found.cover)[kept],
        )  # fmt: skip

    def without(self, images: Collection[int], annotations: Collection[int] = ()) -> "PanopticSplit":
        """Return the split without the images of some ids."""
        gone = {image["id"] for image in self.coco.images} - {image["id"] for image in self.images}
        return PanopticSplit(self.coco, gone | set(images))

    def image_path(self, image: Mapping[str, Any]) -> Path:
        """Return the file of a record of `images`."""
        return self.coco.files.images / image["file_name"]

    def png_path(self, image: Mapping[str, Any]) -> Path:
        """Return the PNG that belongs to a record of `images`."""
        name = self.records[image["id"]].get("file_name")
        if not isinstance(name, str) or not name:
            name = Path(image["file_name"]).with_suffix(".png").name
        return self.folder / name

    def segments(self, image: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the records of the segments of an image."""
        segments = self.records[image["id"]].get("segments_info")
        if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
            raise DataError(
                f"{self.coco.files.annotations}, image {image['id']}: 'segments_info' is not a list of objects."
            )
        return segments

    def truth(self, image: Mapping[str, Any]) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Read the segments of an image.

        Returns:
            (H, W) int32, 0 where there is no segment; and for each segment a dictionary with id (1, 2, ... as in the
            map), label, isthing, and iscrowd.

        Raises:
            DataError: the PNG is missing or broken, or JSON and PNG do not match.
        """
        path = self.png_path(image)
        ids, records = read_ids(path), self.segments(image)
        try:
            known = np.array([0] + [segment["id"] for segment in records], np.int64)
            segments = [
                {
                    "id": number,
                    "label": (label := self.labels[segment["category_id"]]),
                    "isthing": self.isthing[label],
                    "iscrowd": bool(segment.get("iscrowd")),
                }
                for number, segment in enumerate(records, 1)
            ]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{self.coco.files.annotations}, image {image['id']}: a segment lacks an id or category ({error}). "
                "van check-data lists what is wrong."
            ) from error
        order = known.argsort(kind="stable")
        places = np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)
        numbers = order[places].astype(np.int32)
        if not np.array_equal(known[numbers], ids):
            lost = int(ids[known[numbers] != ids][0])
            raise DataError(
                f"{path} has pixels of segment {lost}, which {self.coco.files.annotations} does not list for image "
                f"{image['id']}. van check-data lists what is wrong."
            )
        return numbers, segments


def find_panoptic(root: str | Path, split: Split) -> PanopticSplit:
    """Find and read the panoptic annotations of a split, "train" or "val"; see `van.data.coco.find_split`.

    The PNG files are in annotations/panoptic_SPLIT2017 (any year, or none), beside the JSON of that name.

    Raises:
        DataError: there are none, or they are malformed.
    """
    return _read(find_split(root, split, "panoptic"))


def find_panoptic_splits(root: str | Path) -> dict[Split, PanopticSplit]:
    """Return the splits of a data set, train before val; see `find_panoptic`."""
    return {split: _read(files) for split, files in find_splits(root, "panoptic").items()}


def _read(files: CocoFiles) -> PanopticSplit:
    split = PanopticSplit(CocoSplit(files, "panoptic"))
    if not split.folder.is_dir():
        raise DataError(
            f"{files.annotations} needs the folder {split.folder} with its PNG files, which does not exist."
        )
    return split


class PanopticDataset(Dataset):
    """Images with their segments.

    An item is an image, a tv_tensors.Image (3, H, W) of uint8, and a dictionary: segmentation, a tv_tensors.Mask (H, W)
    of int32, the number of the segment or 0; segments, dictionaries with id (that number), label, isthing and iscrowd;
    image_id, and size, (H, W) of the file.

    Args:
        split: The annotations.
    """

    def __init__(self, split: PanopticSplit) -> None:
        self.split = split

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.split.image_path(self.split.images[index]))

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        record = self.split.images[index]
        path = self.split.image_path(record)
        image: Any = tv_tensors.Image(functional.pil_to_tensor(read_image(path)))
        numbers, segments = self.split.truth(record)
        size = tuple(image.shape[-2:])
        check_sizes(path, self.split.png_path(record), size, numbers.shape)
        segmentation = tv_tensors.Mask(torch.from_numpy(numbers.astype(np.int32)))
        return image, {"segmentation": segmentation, "segments": segments, "image_id": record["id"], "size": size}


class SegmentsToLearn:
    """Changes an image and its segments, and adds what a network learns from.

    That is labels (N,) int64 and masks (N, H, W) bool of the segments that are visible, without crowd regions.

    Args:
        transform: Takes and returns the image and a map of segment numbers (H, W), like torchvision's transforms v2.
            Where it pads the map with 255 there is no segment. None changes nothing.
    """

    def __init__(self, transform: Callable[[Any, Any], Any] | None = None) -> None:
        self.transform = transform

    def __call__(self, image: Any, target: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the image and the target; see PanopticDataset.

        Args:
            image: (3, H, W).
            target: What PanopticDataset gives; the ids of its segments count from 1 in their order.
        """
        numbers: Any = target["segmentation"].as_subclass(torch.Tensor).clone()
        segments = [{**segment, "id": segment["id"] + (segment["id"] >= IGNORED)} for segment in target["segments"]]
        numbers += numbers >= IGNORED  # padding is 255
        if self.transform is not None:
            # one map instead of N masks, of bytes where they suffice: transforms are fastest on them
            few = max((segment["id"] for segment in segments), default=0) < IGNORED
            image, chosen = self.transform(image, tv_tensors.Mask(numbers.to(torch.uint8) if few else numbers))
            numbers = chosen.as_subclass(torch.Tensor).to(torch.int32)
            numbers[numbers == IGNORED] = 0
        found = {**target, "segmentation": tv_tensors.Mask(numbers), "segments": segments}
        return image, {**found, **_learned(numbers, segments)}


def _learned(segmentation: torch.Tensor, segments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    last = max((segment["id"] for segment in segments), default=0)
    visible = torch.bincount(segmentation.flatten(), minlength=last + 1) > 0
    kept = [segment for segment in segments if not segment["iscrowd"] and visible[segment["id"]]]
    ids = torch.tensor([segment["id"] for segment in kept], dtype=torch.int32)
    return {
        "labels": torch.tensor([segment["label"] for segment in kept], dtype=torch.int64),
        "masks": tv_tensors.Mask(segmentation == ids[:, None, None]),
    }


def panoptic_record(
    image_id: int,
    file_name: str,
    segmentation: np.ndarray | torch.Tensor,
    segments: Sequence[Mapping[str, Any]],
    category_ids: Sequence[int],
) -> dict[str, Any]:
    """Return the JSON record of an image in COCO's format.

    Args:
        image_id: Of the image.
        file_name: Of its PNG, which holds the ids of the segments; see `encode_ids`.
        segmentation: (H, W), the number of the segment, 0 where there is none.
        segments: Dictionaries with id (that number), label, and a score if there is one.
        category_ids: Category id of each label.

    Returns:
        image_id, file_name and segments_info: id, category_id, area, bbox (x, y, width, height), iscrowd and, if there
        is one, the score of each segment that has pixels.

    Raises:
        DataError: pixels belong to a segment that is not listed.
    """
    numbers = np.asarray(segmentation)
    found = np.unique(numbers)
    if unknown := set(found.tolist()) - {0} - {int(segment["id"]) for segment in segments}:
        raise DataError(f"{file_name} has pixels of segment {min(unknown)}, which is not among its segments.")
    infos = []
    for segment in (s for s in segments if s["id"] in found):
        mask = numbers == segment["id"]
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        info = {
            "id": int(segment["id"]),
            "category_id": category_ids[segment["label"]],
            "area": int(mask.sum()),
            "bbox": [int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)],
            "iscrowd": 0,
        }
        infos.append(info | ({"score": segment["score"]} if "score" in segment else {}))
    return {"image_id": image_id, "file_name": file_name, "segments_info": infos}


def panoptic_categories(
    class_names: Sequence[str], category_ids: Sequence[int], isthing: Sequence[bool]
) -> list[dict[str, Any]]:
    """Return COCO's categories for a list of labels."""
    rows = zip(class_names, category_ids, isthing, strict=True)
    return [{"id": number, "name": name, "isthing": int(thing)} for name, number, thing in rows]


class PanopticWriter:
    """Writes segments in COCO's format: FOLDER.json and FOLDER/*.png.

    The PNG of an image is written when it is added, the JSON by `close`, which also runs at the end of a with block,
    even after an error.

    Args:
        json_file: The JSON; the PNG files go to a folder of that name without its ending, which is created.
        categories: See `panoptic_categories`.
    """

    def __init__(self, json_file: str | Path, categories: Sequence[Mapping[str, Any]]) -> None:
        self.json_file = Path(json_file)
        self.folder = self.json_file.with_suffix("")
        if self.folder == self.json_file:
            raise DataError(f"{json_file} is not a name for panoptic annotations, expected one that ends in .json.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.categories = [dict(category) for category in categories]
        self._ids = [category["id"] for category in self.categories]
        self._images: list[dict[str, Any]] = []
        self._records: list[dict[str, Any]] = []
        self._names: set[str] = set()

    def add(
        self,
        image_id: int,
        image_name: str,
        segmentation: np.ndarray | torch.Tensor,
        segments: Sequence[Mapping[str, Any]],
    ) -> Path:
        """Write the PNG of an image and keep its record; see `panoptic_record`.

        Args:
            image_id: Of the image.
            image_name: File name of the image; the PNG is called after it.
            segmentation: (H, W), the number of the segment, 0 where there is none.
            segments: Dictionaries with id, label, and a score if there is one; label is a place in the categories.

        Returns:
            Path of the PNG. If an image from another folder or of another format has the same name, the image id is
            appended.
        """
        name = Path(image_name).stem
        name = f"{name}.png" if name not in self._names else f"{name}_{image_id}.png"
        self._names.add(name.removesuffix(".png"))
        numbers = np.asarray(segmentation.cpu() if isinstance(segmentation, torch.Tensor) else segmentation)
        record = panoptic_record(image_id, name, numbers, segments, self._ids)
        Image.fromarray(encode_ids(numbers)).save(self.folder / name)
        height, width = numbers.shape
        self._images.append({"id": image_id, "file_name": image_name, "height": height, "width": width})
        self._records.append(record)
        return self.folder / name

    def close(self) -> Path:
        """Write the JSON for all added images, and return its path."""
        content = {"images": self._images, "annotations": self._records, "categories": self.categories}
        self.json_file.write_text(json.dumps(content) + "\n", encoding="utf-8")
        return self.json_file

    def __enter__(self) -> "PanopticWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
