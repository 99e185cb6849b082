"""Data in COCO's format: find the files, read them, and give images with boxes and masks to a model."""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from van.data.checks import Problem
from van.data.folders import Split
from van.data.images import read_image
from van.data.regions import Regions, regions_of_boxes
from van.errors import DataError, VanError

CocoKind = Literal["instances", "person_keypoints", "panoptic"]
"""What is annotated: the first word in the name of a COCO annotation file."""

_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation")}
ROBOFLOW = "_annotations.coco.json"


@dataclass(frozen=True)
class CocoFiles:
    """The folder of the images of a split, and its annotation file (JSON).

    The PNG files of panoptic data are in a folder named like the JSON, without its ending.
    """

    images: Path
    annotations: Path


def find_split(root: str | Path, split: Split, kind: CocoKind = "instances") -> CocoFiles:
    """Find the files of a split in COCO's layout, with or without a year, or in Roboflow's.

    COCO's layout is annotations/KIND_SPLIT2017.json (any year, of which the latest is taken, or none) and images in
    SPLIT2017, images/SPLIT2017 or either without the year. Roboflow's is SPLIT/_annotations.coco.json with the images
    beside it. The val split may also be called valid or validation.

    Args:
        root: Folder of the data set.
        split: "train" or "val".
        kind: What is annotated.

    Raises:
        DataError: there is no such file, or no folder of images; the message lists what was looked for.
    """
    if split == "all":
        raise DataError(f"{root} is data in COCO's layout, which has the splits train and val. Choose one of them.")
    found = look_for(Path(root), split, kind)
    if found is None:
        names = _SPLIT_FOLDERS[split]
        roboflow = "" if kind == "panoptic" else f" and {' or '.join(f'{name}/{ROBOFLOW}' for name in names)}"
        raise DataError(
            f"{root} has no {kind} annotations for {split}. Looked for annotations/{kind}_{split}2017.json (or another "
            f"year, or none){roboflow}."
        )
    return found


def find_splits(root: str | Path, kind: CocoKind = "instances") -> dict[Split, CocoFiles]:
    """Return the splits with annotations, train before val; see `find_split`.

    Args:
        root: Folder of the data set.
        kind: What is annotated.

    Raises:
        DataError: there is none, or one has no folder of images.
    """
    splits: tuple[Split, ...] = ("train", "val")
    found: dict[Split, CocoFiles] = {split: files for split in splits if (files := look_for(Path(root), split, kind))}
    return found or {"train": find_split(root, "train", kind)}


def look_for(root: Path, split: Split, kind: CocoKind) -> CocoFiles | None:
    """Return the files of a split; None if there are none. See `find_split`.

    Raises:
        DataError: the root is not a folder, or annotations have no folder of images.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give the folder with the annotations and images.")
    names = _SPLIT_FOLDERS[split]
    pattern = re.compile(rf"{kind}_({'|'.join(names)})(\d{{4}})?\.json")
    found = [m for path in sorted(root.glob("annotations/*.json")) if (m := pattern.fullmatch(path.name))]
    if found:
        # prefer the latest year, then no year; val before valid
        match = max(found, key=lambda m: (m[2] or "", -names.index(m[1])))
        stem = match[1] + (match[2] or "")
        folders = [root / name for name in (stem, f"images/{stem}", match[1], f"images/{match[1]}")]
        images = next((folder for folder in folders if folder.is_dir()), None)
        if images is None:
            looked = ", ".join(map(str, dict.fromkeys(folders)))
            raise DataError(f"{root / 'annotations' / match[0]} has no images: none of {looked} is a folder.")
        return CocoFiles(images, root / "annotations" / match[0])
    folders = [] if kind == "panoptic" else [root / name for name in names]
    folder = next((folder for folder in folders if (folder / ROBOFLOW).is_file()), None)
    return CocoFiles(folder, folder / ROBOFLOW) if folder else None


def is_box(box: Any) -> bool:
    """Whether something is a list of four finite numbers of which the last two are above 0."""
    if not isinstance(box, list) or len(box) != 4:
        return False
    try:
        return all(map(math.isfinite, box)) and min(box[2:]) > 0
    except TypeError:
        return False


def _records(content: dict[str, Any], key: str, file: Path) -> list[dict[str, Any]]:
    records = content.get(key, [])
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{file}: {key!r} is not a list of objects, so this is not a COCO annotation file.")
    return records


class ImageRecords:
    """Images with a record each in a JSON, known by their ids."""

    images: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.images)

    def image_path(self, image: dict[str, Any]) -> Path:
        """Return the file of a record of `images`."""
        raise NotImplementedError

    def paths(self) -> dict[int, Path]:
        """Return the files of the images by id."""
        return {image["id"]: self.image_path(image) for image in self.images}

    def load(self, index: int) -> Path:
        """Return the file of the image of an index."""
        return self.image_path(self.images[index])

    def image_name(self, index: int) -> str:
        """Return the path of the image of an index."""
        return str(self.load(index))

    def key(self, index: int) -> int:
        """Return the id of the image of an index."""
        return self.images[index]["id"]


class CocoSplit(ImageRecords):
    """The annotations of a split.

    Single records are not checked here; see `van.data.coco_checks`.

    Args:
        files: Images and annotations; see `find_split`.
        kind: What is annotated; "person_keypoints" needs a category with keypoints.
        content: What the annotation file would hold, where the annotations come from files of another format; see
            van.data.labels.
        problems: What is wrong in these files.

    Attributes:
        name: What to call the split: its annotation file.
        problems: What is wrong in the files that the annotations come from.
        images: Records of the images, sorted by id.
        class_names: Names in the order of the category ids: the position in this list is the label.
        category_ids: Category id of each label.
        labels: Label of each category id.
        posed_ids: Ids of the categories with keypoints.
        keypoint_names: Names of the keypoints; empty where there are none.
        skeleton: Pairs of keypoints to draw a line between, counted from 0.
        flip_pairs: Pairs (left, right) of keypoints that a flip swaps, counted from 0.

    Raises:
        DataError: the file is missing or not a COCO annotation file.
    """

    def __init__(
        self,
        files: CocoFiles,
        kind: CocoKind = "instances",
        content: dict[str, Any] | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:
        self.files = files
        self.name = str(files.annotations)
        self.kind: CocoKind = kind
        self.problems = list(problems)
        if content is not None:
            self._take(content)
            return
        try:
            content = json.loads(files.annotations.read_bytes())
        except OSError as error:
            raise DataError(f"{files.annotations} cannot be read ({error.strerror}). Check the path.") from error
        except ValueError as error:  # also for text that is not Unicode
            raise DataError(f"{files.annotations} is not JSON ({error}). Export or download it again.") from error
        if not isinstance(content, dict) or "images" not in content or not content.get("categories"):
            raise DataError(
                f"{files.annotations} is not a COCO annotation file: it needs the lists 'images', 'annotations' and "
                "'categories'."
            )
        self._take(content)

    def _take(self, content: dict[str, Any]) -> None:
        file = self.files.annotations
        self._content = content
        images = _records(content, "images", file)
        for image in images:
            if not isinstance(image.get("id"), int) or not isinstance(image.get("file_name"), str):
                raise DataError(f"{file}: an image has no integer 'id' or no 'file_name': {json.dumps(image)[:100]}.")
        self.images = sorted(images, key=lambda image: image["id"])
        self._annotations: dict[Any, list[dict[str, Any]]] = {}
        for annotation in _records(content, "annotations", file):
            image_id = annotation.get("image_id")
            self._annotations.setdefault(image_id if isinstance(image_id, int) else None, []).append(annotation)
        categories = _records(content, "categories", file)
        for category in categories:
            if not isinstance(category.get("id"), int) or not isinstance(category.get("name"), str):
                raise DataError(f"{file}: a category has no integer 'id' or no 'name': {json.dumps(category)[:100]}.")
        self.categories = sorted(categories, key=lambda category: category["id"])
        self.class_names = [category["name"] for category in self.categories]
        self.category_ids = [category["id"] for category in self.categories]
        self.labels = {number: label for label, number in enumerate(self.category_ids)}
        posed = next((c for c in self.categories if c.get("keypoints")), {}) if self.kind == "person_keypoints" else {}
        if self.kind == "person_keypoints" and not posed:
            raise DataError(f"{file}: no category has keypoints. A category needs the names of its 'keypoints'.")
        self.posed_ids = [c["id"] for c in self.categories if c.get("keypoints")]
        self.keypoint_names: list[str] = list(posed.get("keypoints", ()))
        self.skeleton = [(int(a) - 1, int(b) - 1) for a, b in posed.get("skeleton", ())]
        places = {name: i for i, name in enumerate(self.keypoint_names)}
        mirrored = [(i, name.replace("left", "right")) for name, i in places.items() if "left" in name]
        self.flip_pairs = [(i, places[name]) for i, name in mirrored if name in places]
        if order := posed.get("flip_idx"):
            self.flip_pairs = [(i, j) for i, j in enumerate(order) if i < j]

    @property
    def content(self) -> dict[str, Any]:
        """The whole content of the annotation file, which evaluators take as ground truth."""
        return self._content

    def annotations(self, image_id: int) -> list[dict[str, Any]]:
        """Return the records of an image, crowd regions included."""
        return self._annotations.get(image_id, [])

    def all_annotations(self) -> Iterator[dict[str, Any]]:
        """Iterate over all records, including those of images that are not listed."""
        yield from self._content.get("annotations", ())

    def label_of(self, annotation: Mapping[str, Any]) -> int | None:
        """Return the label of a record; None where its category is unknown."""
        number = annotation.get("category_id")
        return self.labels.get(number) if isinstance(number, int) else None

    def image_path(self, image: dict[str, Any]) -> Path:
        """Return the file of a record of `images`."""
        return self.files.images / image["file_name"]

    def regions(self, index: int) -> Regions:
        """Return the boxes of an image, but for crowd regions and what is malformed."""
        image = self.images[index]
        size: Any = (image.get("width") or 0, image.get("height") or 0)
        objects = [a for a in self.annotations(image["id"]) if not a.get("iscrowd") and is_box(a.get("bbox"))]
        known = [(label, a) for a in objects if (label := self.label_of(a)) is not None]
        return regions_of_boxes([label for label, _ in known], [a["bbox"] for _, a in known], size)

    def without(self, images: Collection[int] = (), annotations: Collection[int] = ()) -> "CocoSplit":
        """Return the split without the images of some ids, with all their annotations, and without some annotations."""
        drop, gone = set(annotations), set(images)
        problems = [problem for problem in self.problems if problem.image is None or problem.image not in gone]
        content = {
            **self._content,
            "images": [image for image in self._content["images"] if image["id"] not in gone],
            "annotations": [
                annotation
                for annotation in self.all_annotations()
                if annotation.get("id") not in drop and annotation.get("image_id") not in gone
            ],
        }
        return self._with(content, problems)

    def with_annotations(self, annotations: Sequence[dict[str, Any]]) -> "CocoSplit":
        """Return the split with other annotations."""
        return self._with({**self._content, "annotations": list(annotations)}, self.problems)

    def _with(self, content: dict[str, Any], problems: Sequence[Problem]) -> "CocoSplit":
        split = object.__new__(CocoSplit)
        split.files, split.name, split.kind, split.problems = self.files, self.name, self.kind, list(problems)
        split._take(content)
        return split


def read_splits(found: Mapping[Split, CocoFiles], kind: CocoKind = "instances") -> dict[Split, CocoSplit]:
    """Read the annotations of the splits that find_splits has found."""
    return {split: CocoSplit(files, kind) for split, files in found.items()}


def mask_functions() -> Any:
    """Return faster-coco-eval's mask functions.

    Raises:
        VanError: the package is not installed.
    """
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise VanError(
            "Masks need the package faster-coco-eval: pip install 'visual-attention-network[detection]'"
        ) from error
    return mask


def segmentation_error(segmentation: Any, height: int, width: int) -> str:
    """Return what is wrong with COCO's "segmentation" of an object, or an empty string.

    Compressed RLE is only checked where faster-coco-eval is installed.
    """
    if not segmentation:
        return "it has no mask"
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(size, list | tuple) or list(size) != [height, width]:
            return f"the size of the RLE mask is {size}, expected {[height, width]}"
        if isinstance(counts, list):
            if not all(isinstance(n, int) and n >= 0 for n in counts) or sum(counts) != height * width:
                return f"the runs of the RLE mask do not add up to {height} x {width} pixels"
        elif not isinstance(counts, str | bytes):
            return "the RLE mask has no counts"
        else:
            try:
                mask_functions().decode({"size": [height, width], "counts": counts})
            except VanError:
                pass
            except (TypeError, ValueError, RuntimeError) as error:
                return f"the RLE mask is broken ({error})"
        return ""
    if not isinstance(segmentation, list):
        return "the mask is neither polygons nor RLE"
    far = 10 * max(height, width)  # the library draws outlines step by step, and never finishes with NaN
    for polygon in segmentation:
        if not isinstance(polygon, list):
            return "the mask is not a list of polygons [x, y, x, y, ...]"
        if len(polygon) % 2:
            return f"a polygon has {len(polygon)} numbers, expected an even count"
        if len(polygon) < 6:
            return f"a polygon has {len(polygon) // 2} points, expected at least 3"
        try:  # COCO has 860,000 of these masks: avoid Python loops
            total, low, high = sum(polygon), min(polygon), max(polygon)
        except TypeError:
            return "a polygon has values that are not numbers"
        if not (math.isfinite(total) and -far <= low and high <= far):
            return "a polygon has a corner that is not finite or far outside the image"
    return ""


def decode_masks(segmentations: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Return masks (N, height, width) of 0 and 1 from polygons and RLE, compressed or not.

    Args:
        segmentations: COCO's "segmentation" of each object.
        height: Of the image in pixels.
        width: Of the image in pixels.

    Raises:
        DataError: a mask is missing, malformed, or of another size.
        VanError: faster-coco-eval is not installed.
    """
    functions = mask_functions()
    masks = np.zeros((len(segmentations), height, width), np.uint8)
    for i, segmentation in enumerate(segmentations):
        if wrong := segmentation_error(segmentation, height, width):
            raise DataError(wrong)
        masks[i] = functions.decode(functions.segmToRle(segmentation, width, height))
    return masks


class CocoDetectionDataset(Dataset):
    """Images with their boxes, labels and masks.

    An item is the image, a tv_tensors.Image (3, H, W) of uint8, and a dictionary: boxes, tv_tensors.BoundingBoxes
    (N, 4) XYXY float32 inside the image; labels (N,) int64 from 0; masks, tv_tensors.Mask (N, H, W) uint8, where
    requested; image_id; size, (H, W) of the file. Crowd regions are left out.

    Args:
        split: The annotations.
        transform: Takes and returns image and target, like torchvision's transforms v2.
        masks: Decode masks; every object must have one.
        keep_empty: Keep images without objects.

    Attributes:
        images: Records of the images, in order.
        ratios: Width divided by height of each image.
    """

    def __init__(
        self,
        split: CocoSplit,
        transform: Callable[[Any, Any], Any] | None = None,
        masks: bool = False,
        keep_empty: bool = True,
    ) -> None:
        if masks:
            mask_functions()  # raises now if the package is not installed
        self.split = split
        self.transform = transform
        self.masks = masks
        self.images = [image for image in split.images if keep_empty or self.objects(image["id"])]
        self.ratios = [(image.get("width") or 1) / (image.get("height") or 1) for image in self.images]

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.split.image_path(self.images[index]))

    def __len__(self) -> int:
        return len(self.images)

    def objects(self, image_id: int) -> list[dict[str, Any]]:
        """Return the records of an image that a model learns from: all but crowd regions."""
        return [a for a in self.split.annotations(image_id) if not a.get("iscrowd")]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        record = self.images[index]
        path = str(self.split.image_path(record))
        image: Any = tv_tensors.Image(functional.pil_to_tensor(read_image(path)))
        height, width = image.shape[-2:]
        objects = self.objects(record["id"])
        masks = None
        try:
            boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).reshape(len(objects), 4)
            boxes[:, 2:] += boxes[:, :2]
            boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
            boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
            if not (boxes[:, 2:] > boxes[:, :2]).all():  # nor NaN
                raise DataError("a box has no area inside the image")
            labels = torch.tensor([self.split.labels[a["category_id"]] for a in objects], dtype=torch.int64)
            if self.masks:
                masks = torch.from_numpy(decode_masks([a.get("segmentation") for a in objects], height, width))
        except (KeyError, TypeError, ValueError, RuntimeError, DataError) as error:
            what = f"{error} is missing or unknown" if isinstance(error, KeyError) else error
            raise DataError(
                f"{path}, image {record['id']} of {self.split.files.annotations}: an annotation is malformed ({what}). "
                "van check-data lists what is wrong."
            ) from error
        target: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),  # type: ignore[call-overload]
            "labels": labels,
            "image_id": record["id"],
            "size": (height, width),
        }
        if masks is not None:
            target["masks"] = tv_tensors.Mask(masks)
        if self.transform is not None:
            image, target = self.transform(image, target)
        return image, target
