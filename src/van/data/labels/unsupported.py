"""Label formats that are not read, to be called by their name."""

from itertools import islice
from pathlib import Path

from van.data.labels.base import read_text, split_folders
from van.data.labels.json_files import JsonFile
from van.errors import DataError

_JSON = {
    "VGG Image Annotator", "Datumaro", "Supervisely", "Cityscapes polygons", "Microsoft VoTT", "CreateML",
    "Label Studio JSON-MIN", "Labelbox",
}  # fmt: skip
_ENDINGS = {
    ".tfrecord": "TFRecord",
    ".tfrecords": "TFRecord",
    ".record": "TFRecord",
    ".mat": "MATLAB (as of Pascal Context, SBD or MPII)",
    ".manifest": "Amazon SageMaker's manifest",
    ".ndjson": "Labelbox NDJSON",
    ".parquet": "Parquet",
    ".lmdb": "LMDB",
    ".h5": "HDF5",
    ".rec": "MXNet RecordIO",
}
_KITTI = 15  # words of a line
_LOOKED_AT = 2000


def name_of(root: Path, jsons: list[JsonFile]) -> str:
    """Return the name of a format that is not read and the file that shows it, or an empty string."""
    for file in jsons:
        if file.kind in _JSON:
            return f"{file.kind} ({file.path})"
        if file.kind == "broken":
            return f"JSON that is broken ({file.path})"
    for place in [root, *split_folders(root).values()] if root.is_dir() else [root]:
        files = [place] if place.is_file() else islice(place.glob("*"), _LOOKED_AT)
        for path in files:
            if name := next(
                (
                    n
                    for ending, n in _ENDINGS.items()
                    if path.name.lower().endswith(ending) or f"{ending}-" in path.name.lower()
                ),
                "",
            ):
                return f"{name} ({path})"
    for folder in (
        root / "label_2",
        root / "training" / "label_2",
        root / "labels",
        *split_folders(root).values(),
        root,
    ):
        for path in islice(folder.glob("*.txt"), 5) if folder.is_dir() else ():
            try:
                words = read_text(path).split("\n", 1)[0].split()
            except DataError:
                continue
            if len(words) in (_KITTI, _KITTI + 1) and not words[0].isdecimal():
                return f"KITTI ({path})"
    if (root / "gt" / "gt.txt").is_file():
        return f"MOT ({root / 'gt' / 'gt.txt'})"
    return ""
