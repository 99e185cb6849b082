"""What readers of label files share: collecting objects in COCO's terms, and reading XML and JSON safely."""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
from timm.data.readers.img_extensions import get_img_extensions
from timm.utils import natural_key

from van.data.checks import Problem, header_size, listed
from van.data.coco import CocoFiles, CocoSplit
from van.data.folders import SPLIT_FOLDERS, Split, files_below
from van.errors import DataError

Need = Literal["boxes", "masks", "keypoints"]
"""What a task learns from."""

_ELLIPSE = 64  # corners of the polygon in place of an ellipse


@dataclass
class Objects:
    """Images and objects of a split, collected in COCO's terms.

    Args:
        name: What to call the split: its label file or folder.

    Attributes:
        images: Records of the images; file_name is a path.
        annotations: Records of the objects; category_id is a number, or the name of a class until `splits_of` numbers
            it, and source says where in a file the object stands.
        problems: What is wrong in the label files.
    """

    name: str
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def image(self, path: Path, size: tuple[Any, Any] | None = None) -> dict[str, Any]:
        """Add an image, and return its record.

        Args:
            path: Its file.
            size: Width and height as the label file states them; None reads the header of the image, whose EXIF
                rotation counts.
        """
        size = size or header_size(str(path)) or (None, None)
        record = {"id": len(self.images) + 1, "file_name": str(path), "width": size[0], "height": size[1]}
        self.images.append(record)
        return record

    def problem(self, file: str | Path, what: str, image: dict[str, Any] | None = None) -> None:
        """Note what is wrong in a label file; without the problem's image the rest can be used."""
        self.problems.append(Problem(str(file), what, image["id"] if image else None))

    def add(
        self,
        image: dict[str, Any],
        category: Any,
        source: str,
        box: Sequence[float] | None = None,
        polygons: Sequence[Sequence[float]] = (),
        mask: tuple[np.ndarray, float, float] | None = None,
        keypoints: Sequence[float] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Add an object, and return its record.

        Args:
            image: Record of its image.
            category: Name or number of its class.
            source: Where it stands, such as "a.txt, line 3".
            box: x, y, width, height; by default that of the polygons, the mask or the labeled keypoints.
            polygons: Outlines x, y, x, y, ... in pixels, whose union is the object.
            mask: Pixels (h, w) of the object, and their left and top in the image.
            keypoints: x, y, visibility of each.
            **more: Further entries of the record.
        """
        record: dict[str, Any] = {"id": len(self.annotations) + 1, "image_id": image["id"], "category_id": category}
        if polygons:
            record["segmentation"] = [[float(v) for v in polygon] for polygon in polygons]
            box = box or box_around([v for polygon in polygons for v in polygon])
        if mask is not None and image["width"] and image["height"]:
            whole = placed(*mask, image["width"], image["height"])
            record["segmentation"] = run_lengths(whole)
            box = box or mask_box(whole)
        if keypoints is not None:
            record["keypoints"] = [float(v) for v in keypoints]
            record["num_keypoints"] = sum(v > 0 for v in keypoints[2::3])
            seen = [v for x, y, s in zip(*[iter(record["keypoints"])] * 3, strict=True) if s > 0 for v in (x, y)]
            box = box or box_around(seen)
        record["bbox"] = [float(v) for v in box or (0, 0, 0, 0)]
        record["area"] = record["bbox"][2] * record["bbox"][3]
        record |= {"iscrowd": 0, "source": source, **more}
        self.annotations.append(record)
        return record


def splits_of(
    parts: dict[Split, Objects],
    need: Need,
    categories: Sequence[str] | None = None,
    first_id: int = 1,
    **pose: Any,
) -> dict[Split, CocoSplit]:
    """Number classes and build the splits.

    Args:
        parts: Objects by split.
        need: What is learned.
        categories: Class names in order; None takes the names that occur, sorted.
        first_id: Category id of the first class.
        **pose: Entries of all categories, such as keypoints.

    Raises:
        DataError: there is no class, or no keypoints where they are needed.
    """
    used = {a["category_id"] for part in parts.values() for a in part.annotations}
    named = [name for name in used if isinstance(name, str)]
    if categories is None:
        categories = sorted(named, key=natural_key)
    ids = {name: first_id + i for i, name in enumerate(categories)}
    name = next(iter(parts.values())).name if parts else "The data"
    if not ids:
        wrong = [problem for part in parts.values() for problem in part.problems]
        raise DataError("\n".join([f"{name} has no labeled object that can be used.", *filter(None, [listed(wrong)])]))
    records: list[dict[str, Any]] = [{"id": number, "name": name, **pose} for name, number in ids.items()]
    if need == "keypoints":
        if not pose.get("keypoints"):
            raise DataError(f"{name} has no keypoints. Pose estimation needs objects with keypoints.")
        posed = {a["category_id"] for part in parts.values() for a in part.annotations if a.get("keypoints")}
        posed = {ids.get(c, c) for c in posed}
        records = [c if c["id"] in posed else {"id": c["id"], "name": c["name"]} for c in records]
    splits = {}
    for split, part in parts.items():
        for annotation in part.annotations:
            category = annotation["category_id"]
            annotation["category_id"] = ids.get(category, category)
        content = {"images": part.images, "annotations": part.annotations, "categories": records}
        kind = "person_keypoints" if need == "keypoints" else "instances"
        splits[split] = CocoSplit(CocoFiles(Path(), Path(part.name)), kind, content, part.problems)
    return splits


# ---------------------------------------------------------------------------------------------------- geometry


def box_around(values: Sequence[float]) -> list[float]:
    """Return the box x, y, width, height around points x, y, x, y, ...; zeros if there are none."""
    if len(values) < 2:
        return [0.0, 0.0, 0.0, 0.0]
    xs, ys = values[0::2], values[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def rectangle(x: float, y: float, width: float, height: float, angle: float, center: bool) -> list[float]:
    """Return the corners of a rectangle that is rotated clockwise.

    Args:
        x: Left edge before the rotation.
        y: Top edge before the rotation.
        width: In pixels.
        height: In pixels.
        angle: In degrees.
        center: Rotate around the center instead of the top left corner.
    """
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    about = (x + width / 2, y + height / 2) if center else (x, y)
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    moved = [(px - about[0], py - about[1]) for px, py in corners]
    return [v for px, py in moved for v in (about[0] + cos * px - sin * py, about[1] + sin * px + cos * py)]


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> list[float]:
    """Return a polygon in place of an ellipse that is rotated clockwise around its center, by an angle in degrees."""
    turns = np.linspace(0, 2 * math.pi, _ELLIPSE, endpoint=False)
    x, y = rx * np.cos(turns), ry * np.sin(turns)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.stack([cx + cos * x - sin * y, cy + sin * x + cos * y], 1).ravel().round(3).tolist()


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return COCO's uncompressed RLE of a mask (h, w): run lengths in column-major order, zeros first."""
    flat = np.concatenate([[False], mask.astype(bool).ravel(order="F")])
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]), [mask.size]])
    return {"counts": np.diff(edges).tolist(), "size": list(mask.shape)}


def mask_box(mask: np.ndarray) -> list[float]:
    """Return the box x, y, width, height around a mask (h, w); zeros where it is empty."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(xs):
        return [0.0, 0.0, 0.0, 0.0]
    return [float(v) for v in (xs[0], ys[0], xs[-1] - xs[0] + 1, ys[-1] - ys[0] + 1)]


def placed(mask: np.ndarray, left: float, top: float, width: int, height: int) -> np.ndarray:
    """Return a mask on a canvas of the image's size; what lies outside is cut off."""
    canvas = np.zeros((height, width), bool)
    left, top = round(left), round(top)
    rows = slice(max(0, top), max(0, min(height, top + mask.shape[0])))
    columns = slice(max(0, left), max(0, min(width, left + mask.shape[1])))
    canvas[rows, columns] = mask[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]  # fmt: skip
    return canvas


# ---------------------------------------------------------------------------------------------------- files


class ImageIndex:
    """The images below some folders, to be found by name.

    Args:
        folders: Where to look; of several images with one name the first counts.
    """

    def __init__(self, *folders: Path) -> None:
        known = get_img_extensions(as_set=True)
        self._paths: dict[str, Path] = {}
        self._stems: dict[str, Path] = {}
        for folder in folders:
            for path in map(Path, files_below(folder, known) if folder.is_dir() else ()):
                self._paths.setdefault(path.name, path)
                self._stems.setdefault(path.stem, path)

    def find(self, *names: str | None) -> Path | None:
        """Return the image that has one of these names, else one of them without its ending."""
        plain = [PurePosixPath(PureWindowsPath(name).as_posix()) for name in names if name]
        found = next((self._paths[name.name] for name in plain if name.name in self._paths), None)
        return found or next((self._stems[name.stem] for name in plain if name.stem in self._stems), None)


def image_beside(file: Path) -> Path | None:
    """Return the image that has the name of a label file and lies beside it."""
    endings = sorted(get_img_extensions(as_set=True))
    tries = (file.with_suffix(ending) for name in endings for ending in (name, name.upper()))
    return next((path for path in tries if path.is_file()), None)


def split_folders(root: Path) -> dict[Split, Path]:
    """Return the folders of the splits below a folder, or the folder itself as "all"."""
    found: dict[Split, Path] = {}
    for split in ("train", "val"):
        if folder := next((root / name for name in SPLIT_FOLDERS[split] if (root / name).is_dir()), None):
            found[split] = folder
    return found or {"all": root}


def split_of(name: str) -> Split | None:
    """Return the split that a word such as "Train", "valid" or "default" means."""
    words: dict[str, Split] = {n: split for split in ("train", "val") for n in SPLIT_FOLDERS[split]}
    return words.get(name.lower())


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Return paths in natural order."""
    return sorted(paths, key=lambda path: natural_key(str(path)))


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error}). Save it as UTF-8.") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it cannot be read, or is not JSON; the message says in which line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: this is not JSON ({error.msg}). Export it again.") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply for a label file. Export it again.") from error


class Element(ElementTree.Element):
    """An XML element that knows its line."""

    line = 0


def read_xml(path: Path, only_root: bool = False) -> Element:
    """Read an XML file. Entities and external definitions are refused: a small file could fill the memory with them.

    Args:
        path: The file.
        only_root: Stop after the start of the root element, to see its name.

    Raises:
        DataError: it cannot be read, or is not XML; the message says in which line.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    builder = ElementTree.TreeBuilder(Element)
    roots: list[Element] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        element: Any = builder.start(tag, attributes)
        element.line = parser.CurrentLineNumber
        roots.append(element) if not roots else None

    def refuse(*_: Any) -> None:
        line = parser.CurrentLineNumber
        raise DataError(f"{path}, line {line}: XML entities are refused, label files have none. Remove them.")

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 16):
                parser.Parse(block)
                if only_root and roots:
                    return roots[0]
            parser.Parse(b"", True)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check the path.") from error
    except expat.ExpatError as error:
        what = expat.ErrorString(error.code)
        raise DataError(f"{path}, line {error.lineno}: this is not XML ({what}). Export it again.") from error
    return roots[0]


def number(text: Any, what: str) -> float:
    """Return a finite number.

    Args:
        text: What should be one.
        what: What to call it in the message.

    Raises:
        ValueError: it is none.
    """
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what} is {text!r}, expected a number")
    return value


def known_class(name: str, names: Collection[str], place: str) -> str:
    """Return a class name that is among the names.

    Raises:
        ValueError: it is not.
    """
    if name not in names:
        raise ValueError(f"the class {name!r} is not in {place}")
    return name
