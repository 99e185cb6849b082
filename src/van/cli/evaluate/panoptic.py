"""`van evaluate` for panoptic segmentation: panoptic, segmentation and recognition quality."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from van.data.panoptic import PanopticPart
    from van.inference.pixels import PanopticPredictor


def evaluate(
    *,
    weights: str,
    data: str = "shapes",
    data_root: str | None = None,
    split: Literal["train", "val"] = "val",
    on_problem: Literal["refuse", "skip"] = "refuse",
    object_threshold: float | None = None,
    overlap_threshold: float | None = None,
    size: tuple[int, int] | None = None,
    batch_size: int = 4,
    workers: int | None = None,
    device: str | None = None,
    output: str | None = None,
) -> int:
    """Measure trained weights: PQ, SQ and RQ of all classes, of things, of stuff, and of each class.

    Args:
        weights: Weight file or run folder of van train --task panoptic.
        data: shapes (built in), or a folder in COCO's panoptic format; classes are matched by name.
        data_root: Where shapes is stored; by default the folder data.
        split: Part of the data.
        on_problem: What to do with images and segments that cannot be used: refuse to go on, or skip them.
        object_threshold: Segments that are less certain are left out; by default as in training.
        overlap_threshold: Masks of which others leave a smaller share are left out; by default as in training.
        size: Short and long edge in pixels that images are scaled to fit into, results have their own size; by default
            as in training. A large image at its own size takes gigabytes.
        batch_size: Images of one size that are looked at together.
        workers: Processes that load images; by default one per processor, at most 8.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: New folder for the results; by default runs/evaluate-DATA, numbered.
    """
    from van.cli.evaluate.pixels import labels_for
    from van.cli.run_folder import run_folder
    from van.data.detection import data_folder, loading_processes
    from van.data.panoptic import find_panoptic
    from van.data.pixel_checks import usable_pixels
    from van.inference.pixels import PanopticPredictor

    predictor = PanopticPredictor(weights, device, batch_size, **looking(object_threshold, overlap_threshold, size))
    found = find_panoptic(data_folder(data, data_root), split)
    labels_for(predictor.class_names, found.class_names, str(found.coco.files.annotations))  # before the long check
    part, notes = usable_pixels(found, on_problem, workers=workers, empty_classes=False)
    folder = run_folder(output, f"evaluate-{Path(data).name}")
    for note in notes:
        print(f"Note: {note}")
    files = measure(predictor, part, folder, f"{Path(weights).name} on {data} ({split})", loading_processes(workers))
    print(f"results: {folder}: {' '.join(files)}")
    return 0


def looking(
    object_threshold: float | None, overlap_threshold: float | None, size: tuple[int, int] | None
) -> dict[str, Any]:
    """Return the options of PanopticInference that a command changes, by their names."""
    given = {"object_threshold": object_threshold, "overlap_threshold": overlap_threshold, "size": size}
    return {name: value for name, value in given.items() if value is not None}


def measure(
    predictor: "PanopticPredictor",
    part: "PanopticPart",
    folder: Path,
    title: str,
    workers: int,
    progress: bool = True,
) -> list[str]:
    """Measure weights on a part, print the figures and write them, all segments, and a sheet of predictions.

    Args:
        predictor: The network.
        part: Images with segments.
        folder: An existing folder.
        title: What is measured, for people.
        workers: Loading processes.
        progress: Whether to show a progress bar.

    Returns:
        Names of the files.
    """
    from van.analysis.panoptic_quality import PanopticEvaluator
    from van.analysis.pixel_pictures import draw_segments, palette, pixel_sheet
    from van.cli.evaluate import pixels
    from van.data.panoptic import PanopticDataset, PanopticWriter, panoptic_categories

    names = predictor.class_names
    own = pixels.labels_for(names, part.class_names, str(part.coco.files.annotations))
    # the ids of the data, so that its own programs can read the results
    ids = dict(zip(own, part.category_ids, strict=True))
    free = iter(range(max([*ids.values(), 0]) + 1, max([*ids.values(), 0]) + len(names) + 1))
    categories = panoptic_categories(names, [ids[i] if i in ids else next(free) for i in range(len(names))],
                                     predictor.isthing)  # fmt: skip
    evaluator = PanopticEvaluator(names, predictor.things)
    files_of = {image["id"]: image["file_name"] for image in part.images}

    def relabelled(segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**segment, "label": own[segment["label"]]} for segment in segments]

    with PanopticWriter(folder / "panoptic.json", categories) as writer:

        def update(found: list[Any], targets: list[Any]) -> None:
            evaluator.update(found, [{**target, "segments": relabelled(target["segments"])} for target in targets])
            for one, target in zip(found, targets, strict=True):
                number = target["image_id"]
                writer.add(number, files_of[number], one["segmentation"], one["segments"])

        pixels.run_over(predictor, PanopticDataset(part, masks=False), workers, update, progress)
    figures, rows = evaluator.compute(), evaluator.per_class()
    files = pixels.write_figures(folder, {"images": len(part), **figures}, rows)

    groups = []
    for place in pixels.sheet_places(len(part)):
        image = pixels.picture_of(part.image_path(part.images[place]))
        numbers, segments = part.truth(part.images[place])
        found = predictor(image)
        truth = draw_segments(image, numbers, relabelled(segments), names, legend=False)
        groups.append([image, truth, draw_segments(image, found.segmentation, found.segments, names, legend=False)])
    legend = list(zip(names, palette(len(names)).tolist(), strict=True))
    figure = pixel_sheet(groups, ("image", "truth", "found"), f"{title}: PQ {figures['PQ']:.1%}", legend)
    figure.savefig(folder / "predictions.png", dpi=130)

    pixels.print_classes(rows, "segments", ("PQ", "SQ", "RQ"))
    print(f"\n{title}: {len(part)} images, percent")
    for what, suffix in (("all", ""), ("things", "_things"), ("stuff", "_stuff")):
        print(f"{what:<8}" + "  ".join(f"{n} {pixels.percent(figures[n + suffix])}" for n in ("PQ", "SQ", "RQ")))
    return [*files, "panoptic.json", "panoptic", "predictions.png"]
