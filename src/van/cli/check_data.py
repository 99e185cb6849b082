"""`van check-data`: list what is wrong with a data set."""

from collections.abc import Sequence
from typing import Literal


def check_data(
    data: str,
    *,
    kind: Literal["instances", "person_keypoints", "semantic", "panoptic", "saliency"] = "instances",
    classes: str | None = None,
    reduce_zero_label: bool | None = None,
    ignore_index: int | None = None,
    decode: bool = True,
    workers: int | None = None,
) -> int:
    """List what is wrong with a data set, with file and id; the exit status is 1 if anything is.

    Args:
        data: Folder of the data set. For instances, person_keypoints and panoptic COCO's layout, with or without a
            year, or Roboflow's; for semantic and saliency images and masks of the same names, as in ADE20K or DUTS.
        kind: What to check: boxes and masks, keypoints as well, masks of classes, segments, or salient masks.
        classes: File with the names of the classes, one a line, for kind semantic; by default classes.txt is looked
            for, or ADE20K's objectInfo150.txt.
        reduce_zero_label: For kind semantic: 0 marks pixels that do not count, and the first class is 1. By default
            only where the classes are those of objectInfo150.txt.
        ignore_index: For kind semantic: the number that marks pixels that do not count, as 255 does.
        decode: Decode all images. Without it only their headers are read; masks are decoded anyway.
        workers: Processes that read images; by default one per processor, at most 8.
    """
    from van.errors import DataError

    if kind != "semantic" and (classes, reduce_zero_label, ignore_index) != (None, None, None):
        raise DataError("--classes, --reduce-zero-label and --ignore-index are for --kind semantic.")
    if kind in ("instances", "person_keypoints"):
        return _check_coco(data, kind, decode, workers)

    from van.data.panoptic import find_panoptic_parts
    from van.data.pixel_checks import PixelPart, find_pixel_problems
    from van.data.saliency import find_saliency_parts
    from van.data.semantic import IGNORED, find_semantic_parts

    parts: dict[str, PixelPart]
    if kind == "semantic":
        ignored = IGNORED if ignore_index is None else ignore_index
        parts = {**find_semantic_parts(data, classes, reduce_zero_label, ignored)}
    else:
        parts = {**(find_panoptic_parts(data) if kind == "panoptic" else find_saliency_parts(data))}
    problems = [
        problem
        for name, part in parts.items()
        for problem in find_pixel_problems(part, decode, workers, empty_classes=name != "val")
    ]
    images = sum(len(part) for part in parts.values())
    return _report(problems, f"{data}, {kind}, {' and '.join(parts)}: {images} images")


def _check_coco(data: str, kind: Literal["instances", "person_keypoints"], decode: bool, workers: int | None) -> int:
    from van.data.coco import CocoPart, find_parts
    from van.data.coco_checks import find_problems

    parts = [CocoPart(files, kind) for files in find_parts(data, kind).values()]
    problems = [problem for part in parts for problem in find_problems(part, decode, workers)]
    images = sum(len(part) for part in parts)
    annotations = sum(len(list(part.all_annotations())) for part in parts)
    files = " and ".join(str(part.files.annotations) for part in parts)
    return _report(problems, f"{files}: {images} images, {annotations} annotations")


def _report(problems: Sequence[object], what: str) -> int:
    for problem in problems:
        print(problem)
    count = {0: "no problems", 1: "1 problem"}.get(len(problems), f"{len(problems)} problems")
    print(f"{what}, {count}")
    return 1 if problems else 0
