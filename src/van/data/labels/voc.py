"""Pascal VOC: an XML per image, lists of the splits, and masks of classes and objects."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from van.data.coco import CocoSplit
from van.data.folders import SPLIT_FOLDERS, Split
from van.data.labels.base import (
    Element,
    ImageIndex,
    Need,
    Objects,
    image_beside,
    in_order,
    number,
    read_text,
    read_xml,
    run_lengths,
    split_folders,
    splits_of,
)
from van.data.labels.json_files import JsonFile
from van.data.pairs import read_mask
from van.errors import DataError

if TYPE_CHECKING:
    from van.data.labels.convert import Target

HOW = "Annotations/*.xml with JPEGImages and ImageSets/Main/SPLIT.txt, or XML files beside their images"

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of Pascal VOC in the order of its masks, after the background."""
_OFFICIAL = re.compile("VOC ?20")  # The VOC2007 Database


def find(root: Path, need: Need, jsons: list[JsonFile]) -> list[Path]:
    """Return a file that shows the format: an XML with the root element annotation."""
    if need == "keypoints" or not root.is_dir():
        return []
    for folder in _folders(root).values():
        for path in in_order(folder.glob("*.xml"))[:5]:
            try:
                if read_xml(path, only_root=True).tag == "annotation":
                    return [path]
            except DataError:
                if path.parent.name == "Annotations":  # reading it says what is wrong
                    return [path]
    return []


def _folders(root: Path) -> dict[Split, Path]:
    """Return the folders of XML files."""
    whole = root / "Annotations"
    if whole.is_dir():
        return split_folders(whole)
    return split_folders(root)


def listed_splits(root: Path, kind: str) -> dict[Split, tuple[Path, list[str]]]:
    """Return the lists of images of the splits below ImageSets: their files and the names in them.

    Args:
        root: Folder of the data set.
        kind: Folder of the lists: Main or Segmentation.
    """
    folder = root / "ImageSets" / kind
    lists: dict[Split, tuple[Path, list[str]]] = {}
    known: dict[Split, tuple[str, ...]] = {
        "train": SPLIT_FOLDERS["train"],
        "val": SPLIT_FOLDERS["val"],
        "all": ("trainval", "default"),
    }
    for split, names in known.items():
        file = next((folder / f"{name}.txt" for name in names if (folder / f"{name}.txt").is_file()), None)
        if file:
            lists[split] = file, [words[0] for line in read_text(file).splitlines() if (words := line.split())]
    if "train" in lists and "val" in lists:
        lists.pop("all", None)
        return lists
    return {"all": lists.get("all") or next(iter(lists.values()))} if lists else {}


def read(root: Path, found: list[Path], need: Need) -> dict[Split, CocoSplit]:
    """Read all splits; with masks those of ImageSets/Segmentation. Images without an XML are left out."""
    folders = _folders(root)
    masks = need == "masks"
    lists = listed_splits(root, "Segmentation" if masks else "Main") if set(folders) == {"all"} else {}
    parts: dict[Split, Objects] = {}
    below = "Annotations" if (root / "Annotations").is_dir() else ""
    index = ImageIndex(root / "JPEGImages", root / "images") if below else ImageIndex(*folders.values())
    if lists:
        folder = folders["all"]
        for split, (file, names) in lists.items():
            part = parts[split] = Objects(str(file))
            for place, name in enumerate(names, 1):
                xml = folder / f"{name}.xml"
                if not xml.is_file():
                    part.problem(f"{file}, line {place}", f"{xml} does not exist", _unread(part, xml, index))
                    continue
                _read_file(part, xml, index, root, masks)
    else:
        for split, folder in folders.items():
            part = parts[split] = Objects(str(folder))
            for xml in in_order(folder.glob("**/*.xml")):
                _read_file(part, xml, index, root, masks)
    return splits_of({split: part for split, part in parts.items() if part.images}, need)


def _unread(part: Objects, xml: Path, index: ImageIndex) -> dict[str, Any] | None:
    """Return the image of a file that cannot be read, so that it can be left out."""
    path = image_beside(xml) or index.find(xml.stem)
    return part.image(path) if path else None


def _read_file(part: Objects, xml: Path, index: ImageIndex, root: Path, masks: bool) -> None:
    try:
        top = read_xml(xml)
    except DataError as error:
        part.problem(xml, str(error).removeprefix(str(xml)).lstrip(":, ").rstrip("."), _unread(part, xml, index))
        return
    name = top.findtext("filename")
    path = image_beside(xml) or index.find(name, xml.stem)
    size = top.find("size")
    try:
        stated: Any = None if size is None else tuple(int(number(size.findtext(k), k)) for k in ("width", "height"))
    except ValueError:
        stated = None
    image = part.image(path or xml.with_name(name or f"{xml.stem}.jpg"), stated if stated and all(stated) else None)
    if path is None:
        part.problem(xml, f"there is no image {name or xml.stem}", image)
        return
    records = []
    official = _OFFICIAL.search(top.findtext("source/database") or "") is not None
    for place, element in enumerate(top.findall("object"), 1):
        source = f"{xml}, line {getattr(element, 'line', 0)}"
        try:
            label = (element.findtext("name") or "").strip()
            if not label:
                raise ValueError("the object has no name")
            more: dict[str, Any] = (
                {"difficult": 1, "iscrowd": 1} if (element.findtext("difficult") or "0").strip() == "1" else {}
            )
            records.append((place, part.add(image, label, source, box=_box(element, official), **more)))
        except ValueError as error:
            part.problem(source, str(error), image)
    objects = root / "SegmentationObject" / f"{xml.stem}.png"
    if masks and objects.is_file():
        _add_masks(part, objects, image, records)


def _box(element: Element | Any, official: bool) -> list[float]:
    """Return x, y, width, height.

    Args:
        element: The object.
        official: Whether the file is of Pascal VOC itself, which numbers pixels from 1 on, and includes both corners;
            the files of labeling tools have positions from 0 on.
    """
    box = element.find("bndbox")
    if box is None:
        raise ValueError(f"the object {element.findtext('name')!r} has no bndbox")
    x0, y0, x1, y1 = (number(box.findtext(key), key) for key in ("xmin", "ymin", "xmax", "ymax"))
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"the box {x0:g}, {y0:g}, {x1:g}, {y1:g} has no area: xmax and ymax must be larger")
    return [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1] if official else [x0, y0, x1 - x0, y1 - y0]


def _add_masks(part: Objects, file: Path, image: dict[str, Any], records: list[tuple[int, dict[str, Any]]]) -> None:
    """Give each object the pixels with its number in the PNG."""
    try:
        pixels = read_mask(file)
    except DataError as error:
        part.problem(file, str(error).removeprefix(f"{file} ").rstrip("."), image)
        return
    for place, record in records:
        own = pixels == place
        if own.any():
            record["segmentation"] = run_lengths(own)
            record["area"] = float(np.count_nonzero(own))


# ---------------------------------------------------------------------------------------------------- writing

_MOST = 254  # objects of an image and classes: 255 marks what is ignored


def write(target: "Target") -> tuple[int, list[str]]:
    """Write Pascal VOC's layout; masks as SegmentationObject and SegmentationClass, crowd regions as difficult.

    Returns:
        How many objects were written, and sentences about what was left out: nothing is, but of overlapping masks the
        later one covers the earlier.

    Raises:
        VanError: keypoints are to be written.
        DataError: an image has too many objects for masks, or there are too many classes.
    """
    from van.data.labels.convert import refuse_keypoints

    refuse_keypoints(target.need, "Pascal VOC")
    masks, names = target.need == "masks", target.first.class_names
    if masks and len(names) >= _MOST:
        raise DataError(f"{target.first.name} has {len(names)} classes, masks of Pascal VOC hold at most {_MOST - 1}.")
    folders = {name: target.folder / name for name in ("Annotations", "JPEGImages")}
    folders |= {name: target.folder / name for name in ("SegmentationObject", "SegmentationClass") if masks}
    for folder in folders.values():
        folder.mkdir()
    written = 0
    for split, content in target.splits.items():
        target.copy(split, folders["JPEGImages"])
        for image, name in target.images(split):
            annotations = content.annotations(image["id"])
            top = _annotation(image, name, [(names[content.labels[a["category_id"]]], a) for a in annotations], masks)
            ElementTree.indent(top)
            path = (folders["Annotations"] / name).with_suffix(".xml")
            ElementTree.ElementTree(top).write(path, encoding="utf-8")
            if masks:
                _write_masks(folders, name, image, annotations, content)
            written += len(annotations)
        stems = [Path(name).stem for _, name in target.images(split)]
        for kind in ("Main", "Segmentation") if masks else ("Main",):
            lists = target.folder / "ImageSets" / kind
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{'trainval' if split == 'all' else split}.txt").write_text("".join(f"{s}\n" for s in stems))
    if masks:
        (target.folder / "classes.txt").write_text("\n".join(["background", *names]) + "\n", encoding="utf-8")
    return written, []


def _annotation(
    image: dict[str, Any], name: str, objects: list[tuple[str, dict[str, Any]]], masks: bool
) -> ElementTree.Element:
    top = ElementTree.Element("annotation")
    _add(top, folder="JPEGImages", filename=name)
    _add(ElementTree.SubElement(top, "size"), width=image["width"], height=image["height"], depth=3)
    _add(top, segmented=int(masks))
    for label, annotation in objects:
        element = ElementTree.SubElement(top, "object")
        _add(element, name=label, difficult=int(bool(annotation.get("iscrowd"))))
        x, y, w, h = annotation["bbox"]
        corners = {"xmin": x, "ymin": y, "xmax": x + w, "ymax": y + h}
        texts = {key: f"{value:.2f}".rstrip("0").rstrip(".") for key, value in corners.items()}
        _add(ElementTree.SubElement(element, "bndbox"), **texts)
    return top


def _add(parent: ElementTree.Element, **texts: Any) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)


def _write_masks(
    folders: dict[str, Path], name: str, image: dict[str, Any], annotations: list[dict[str, Any]], split: CocoSplit
) -> None:
    from van.data.labels.convert import mask_of

    if len(annotations) > _MOST:
        raise DataError(f"{split.image_path(image)} has {len(annotations)} objects, masks hold at most {_MOST}.")
    objects = np.zeros((image["height"], image["width"]), np.uint8)
    classes = objects.copy()
    for place, annotation in enumerate(annotations, 1):
        mask = mask_of(annotation, image)
        objects[mask], classes[mask] = place, split.labels[annotation["category_id"]] + 1
    for kind, pixels in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        picture = Image.fromarray(pixels)
        picture.putpalette(_palette())
        picture.save((folders[kind] / name).with_suffix(".png"))


def _palette() -> list[int]:
    """Return Pascal VOC's colors: the bits of a number in turn make those of red, green and blue."""
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(3):
        for channel in range(3):
            colors[:, channel] |= (((np.arange(256) >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colors.ravel().tolist()
