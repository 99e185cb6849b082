"""COCO's JSON: COCO's own layout, Roboflow's, or a JSON beside its images."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.data.coco import ROBOFLOW, CocoFiles, CocoKind, CocoSplit, look_for
from van.data.folders import SPLIT_FOLDERS, Split
from van.data.labels.base import Need, read_json
from van.data.labels.json_files import JsonFile
from van.errors import DataError

if TYPE_CHECKING:
    from van.data.labels.convert import Target

HOW = "annotations/instances_SPLIT.json (person_keypoints_SPLIT.json for pose), SPLIT/_annotations.coco.json, or a JSON with 'images' and 'categories' beside its images"  # noqa: E501


def find(root: Path, need: Need, jsons: list[JsonFile]) -> list[Path]:
    """Return the annotation files."""
    kind = _kind(need)
    if root.is_dir():
        splits: tuple[Split, ...] = ("train", "val")
        found = [files.annotations for split in splits if (files := look_for(root, split, kind))]
        if found:
            return found
    flat = [file.path for file in jsons if file.kind == "COCO" and file.path.name != ROBOFLOW]
    if len(flat) > 1 and (chosen := [path for path in flat if kind in path.name]):
        flat = chosen  # instances.json and person_keypoints.json may lie side by side
    return flat


def read(root: Path, found: list[Path], need: Need) -> dict[Split, CocoSplit]:
    """Read the annotations by split.

    Raises:
        DataError: a file is not one of COCO's, or has no folder of images.
    """
    kind = _kind(need)
    if root.is_dir():
        names: tuple[Split, ...] = ("train", "val")
        layout: dict[Split, CocoFiles] = {split: files for split in names if (files := look_for(root, split, kind))}
        if layout:
            splits: dict[Split, CocoSplit] = {split: CocoSplit(files, kind) for split, files in layout.items()}
            return splits if "train" not in splits or "val" in splits else {"all": splits["train"]}
    if len(found) == 1:
        return {"all": CocoSplit(CocoFiles(_images_of(found[0], None), found[0]), kind)}
    splits = {}
    for path in found:
        split = _split_named(path)
        if split is None or split in splits:
            listed = ", ".join(map(str, found))
            raise DataError(
                f"{root} has several COCO files ({listed}), whose names do not say which is train and which is val. "
                "Give the path of one of them, or rename them to train.json and val.json."
            )
        splits[split] = CocoSplit(CocoFiles(_images_of(path, split), path), kind)
    return {split: splits[split] for split in ("train", "val") if split in splits}


def _kind(need: Need) -> CocoKind:
    return "person_keypoints" if need == "keypoints" else "instances"


def _split_named(path: Path) -> Split | None:
    """Return the split in the name of a file or of its folder."""
    words = [*path.stem.lower().replace("-", "_").split("_"), path.parent.name.lower()]
    splits: tuple[Split, ...] = ("train", "val")
    return next(
        (split for word in words for split in splits if word.rstrip("0123456789") in SPLIT_FOLDERS[split]), None
    )


def _images_of(file: Path, split: Split | None) -> Path:
    """Return the folder in which the images of a JSON are."""
    content: Any = read_json(file)
    records = content.get("images") if isinstance(content, dict) else None
    first = (
        records[0].get("file_name") if isinstance(records, list) and records and isinstance(records[0], dict) else None
    )
    parents = [file.parent, file.parent.parent] if file.parent.name == "annotations" else [file.parent]
    names = [
        f"{images}{name}" for images in ("", "images/", "data/") for name in ("", *SPLIT_FOLDERS.get(split or "", ()))
    ]
    folders = [parent / name for parent in parents for name in names]
    if not isinstance(first, str):
        return file.parent
    chosen = next((folder for folder in folders if (folder / first).is_file()), None)
    if chosen is None:
        looked = ", ".join(map(str, [folder for folder in folders if folder.is_dir()]))
        raise DataError(f"{file}: its first image {first} is in none of {looked}. Put the images beside the JSON.")
    return chosen


def write(target: "Target") -> tuple[int, list[str]]:
    """Write COCO's layout, or one JSON beside the folder images for data without splits.

    Returns:
        How many objects were written, and sentences about what was left out: nothing is.
    """
    kind, written = _kind(target.need), 0
    for split, content in target.splits.items():
        target.copy(split, target.folder / ("images" if split == "all" else split))
        images = [{**image, "file_name": name} for image, name in target.images(split)]
        annotations = [_without(a, "source", "difficult") for a in content.all_annotations()]
        if target.need == "boxes":
            annotations = [_without(a, "segmentation", "keypoints", "num_keypoints") for a in annotations]
        text = json.dumps({"images": images, "annotations": annotations, "categories": content.categories})
        name = f"{kind}.json" if split == "all" else f"annotations/{kind}_{split}.json"
        (target.folder / name).parent.mkdir(exist_ok=True)
        (target.folder / name).write_text(text + "\n", encoding="utf-8")
        written += len(annotations)
    return written, []


def _without(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}
