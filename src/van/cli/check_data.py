"""`van check-data`: list what is wrong with data in COCO's format."""

from typing import Literal


def check_data(
    data: str,
    *,
    kind: Literal["instances", "person_keypoints"] = "instances",
    decode: bool = True,
    workers: int | None = None,
) -> int:
    """List what is wrong with data in COCO's format, with file and id; the exit status is 1 if anything is.

    Args:
        data: Folder of the data set: COCO's layout, with or without a year, or Roboflow's.
        kind: What to check: boxes and masks, or keypoints as well.
        decode: Decode all images. Without it only their headers are read.
        workers: Processes that read images; by default one per processor, at most 8.
    """
    from van.data.coco import CocoPart, find_parts
    from van.data.coco_checks import find_problems
    from van.errors import DataError

    if workers is not None and workers < 0:
        raise DataError(f"--workers is {workers}, expected 0 or more.")
    parts = [CocoPart(files, kind) for files in find_parts(data, kind).values()]
    problems = [problem for part in parts for problem in find_problems(part, decode, workers)]
    for problem in problems:
        print(problem)
    images = sum(len(part) for part in parts)
    annotations = sum(len(list(part.all_annotations())) for part in parts)
    files = " and ".join(str(part.files.annotations) for part in parts)
    count = {0: "no problems", 1: "1 problem"}.get(len(problems), f"{len(problems)} problems")
    print(f"{files}: {images} images, {annotations} annotations, {count}")
    return 1 if problems else 0
