"""`van convert-data`."""

from typing import Literal

from van.cli.selecting import call


def convert_data(
    src: str,
    dst: str,
    *,
    to: Literal["coco", "yolo", "voc"],
    task: Literal["detection", "instances", "pose"] | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
    data_root: str | None = None,
) -> None:
    """Write labels of objects in another format, with copies of the images.

    Args:
        src: Data set in any format that training takes, which is recognized, or shapes.
        dst: Folder to write; missing or empty.
        to: The format: coco, yolo or voc (Pascal VOC).
        task: What to write: boxes for detection, masks for instances, keypoints for pose; by default masks where all
            objects have one, else boxes.
        on_bad_image: What to do about images and annotations that cannot be used: error stops with what is wrong, skip
            leaves them out.
        data_root: Where the built-in shapes are stored; by default the folder data.
    """
    from van.data.labels.convert import WRITTEN, convert_labels

    needs = {"detection": "boxes", "instances": "masks", "pose": "keypoints"}
    done = convert_labels(src, dst, to, needs[task] if task else None, on_bad_image, data_root)  # pyright: ignore[reportArgumentType]
    counts = " and ".join(f"{count} {split}" for split, count in done.images.items())
    print(f"{src} ({done.source}) -> {dst} ({WRITTEN[to]}): {counts} images, {done.objects} objects")
    for note in done.left_out:
        print(f"left out: {note}")


def run(arguments: list[str]) -> None:
    """Convert a data set."""
    call(convert_data, arguments, "convert-data")
