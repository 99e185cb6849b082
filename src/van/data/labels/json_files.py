"""Telling JSON label files apart by what they hold."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from van.data.labels.base import in_order, read_json, split_folders
from van.errors import DataError

_LOOKED_AT = 20  # files of a folder; formats with a file per image have thousands


@dataclass(frozen=True)
class JsonFile:
    """A JSON file and the format that it has; an empty string if that is unknown."""

    path: Path
    kind: str


def json_files(root: Path) -> list[JsonFile]:
    """Return JSON files of a data set with their formats: the file itself, or some of those in its folders.

    Args:
        root: A JSON file or a folder: its own files count, and those of its folders of splits and labels.
    """
    if root.is_file():
        return [JsonFile(root, _kind(root))] if root.suffix.lower() == ".json" else []
    places = [root, *split_folders(root).values(), root / "annotations", root / "labels"]
    files = []
    for folder in dict.fromkeys(place for place in places if place.is_dir()):
        files += islice(in_order(folder.glob("*.json")), _LOOKED_AT)
    return [JsonFile(path, kind) for path in files if (kind := _kind(path))]


def _kind(path: Path) -> str:
    try:
        content = read_json(path)
    except DataError:
        return "broken"
    return kind_of(content)


def kind_of(content: Any) -> str:
    """Return the format of the content of a JSON file; an empty string if it is no label format."""
    if isinstance(content, dict):
        keys = set(content)
        if {"images", "categories"} <= keys:
            segments = content.get("annotations") or [{}]
            return "COCO panoptic" if isinstance(segments[0], dict) and "segments_info" in segments[0] else "COCO"
        if "shapes" in keys and keys & {"imagePath", "imageHeight", "imageData"}:
            return "LabelMe"
        if "_via_img_metadata" in keys or any(isinstance(v, dict) and "regions" in v for v in content.values()):
            return "VGG Image Annotator"
        if {"items", "categories"} <= keys:
            return "Datumaro"
        if {"objects", "size"} <= keys:
            return "Supervisely"
        if {"imgHeight", "objects"} <= keys:
            return "Cityscapes polygons"
        return "Microsoft VoTT" if {"asset", "regions"} <= keys else ""
    if isinstance(content, list) and content and isinstance(content[0], dict):
        first = content[0]
        if "data" in first and ("annotations" in first or "completions" in first):
            return "Label Studio"
        if "image" in first and isinstance(first.get("annotations"), list):
            return "CreateML"
        if "image" in first and ("annotator" in first or "annotation_id" in first):
            return "Label Studio JSON-MIN"
        return "Labelbox" if "data_row" in first else ""
    return ""
