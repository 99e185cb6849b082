"""`van evaluate` for semantic segmentation: mIoU and accuracies on labelled images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from van.data.pixels import SemanticFormat

if TYPE_CHECKING:
    from van.data.semantic import SemanticPart
    from van.inference.pixels import SemanticPredictor


def evaluate(
    *,
    weights: str,
    data: str = "shapes",
    data_root: str | None = None,
    format: SemanticFormat = SemanticFormat(),  # noqa: B008 - the options and their defaults
    split: Literal["train", "val", "all"] = "val",
    on_problem: Literal["refuse", "skip"] = "refuse",
    slide: bool = False,
    crop: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    scales: list[float] | None = None,
    flip: bool = False,
    batch_size: int = 4,
    workers: int | None = None,
    device: str | None = None,
    output: str | None = None,
) -> int:
    """Measure trained weights: mIoU, mean accuracy, accuracy of all pixels, and both for each class.

    Args:
        weights: Weight file or run folder of van train --task semantic.
        data: shapes (built in), or a folder: ADE20K's layout, or images with masks and a class file; classes are
            matched by name.
        data_root: Where shapes is stored; by default the folder data.
        format: How the files of the data are meant.
        split: Part of the data; all for a folder without parts.
        on_problem: What to do with images and masks that cannot be used: refuse to go on, or skip them.
        slide: Slide a window over the images and average where windows overlap, also if training did not validate so.
        crop: Height and width of that window; by default that of the weights, 512 x 512 unless they say otherwise.
        stride: Pixels from one window to the next, down and to the right; by default two thirds of crop.
        scales: Look at each image, or window, in these sizes and average, such as 0.75 1.0 1.25.
        flip: Look at the mirror images too.
        batch_size: Images of one size that are looked at together.
        workers: Processes that load images; by default one per processor, at most 8.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: New folder for the results; by default runs/evaluate-DATA, numbered.
    """
    from van.cli.evaluate.pixels import labels_for, looking
    from van.cli.run_folder import run_folder
    from van.data.detection import data_folder, loading_processes
    from van.data.pixel_checks import usable_pixels
    from van.inference.pixels import SemanticPredictor

    predictor = SemanticPredictor(weights, device, batch_size, **looking(slide, crop, stride, scales, flip))
    found = format.find(data_folder(data, data_root), split)
    labels_for(predictor.class_names, found.class_names, found.name)  # before the long check
    part, notes = usable_pixels(found, on_problem, workers=workers, empty_classes=False)
    folder = run_folder(output, f"evaluate-{Path(data).name}")
    for note in notes:
        print(f"Note: {note}")
    files = measure(predictor, part, folder, f"{Path(weights).name} on {data} ({split})", loading_processes(workers))
    print(f"results: {folder}: {' '.join(files)}")
    return 0


def measure(
    predictor: "SemanticPredictor",
    part: "SemanticPart",
    folder: Path,
    title: str,
    workers: int,
    progress: bool = True,
) -> list[str]:
    """Measure weights on a part, print the figures and write them with a sheet of predictions.

    Args:
        predictor: The network.
        part: Labelled images.
        folder: An existing folder.
        title: What is measured, for people.
        workers: Loading processes.
        progress: Whether to show a progress bar.

    Returns:
        Names of the files.
    """
    import torch

    from van.analysis.pixel_pictures import draw_labels, palette, pixel_sheet
    from van.analysis.semantic_measures import SemanticEvaluator
    from van.cli.evaluate import pixels
    from van.data.semantic import IGNORED, SemanticDataset

    evaluator = SemanticEvaluator(predictor.class_names)
    table = torch.full((256,), IGNORED, dtype=torch.uint8)
    own = pixels.labels_for(predictor.class_names, part.class_names, part.name)
    table[: len(own)] = torch.tensor(own, dtype=torch.uint8)

    def update(found: list[Any], targets: list[Any]) -> None:
        evaluator.update(found, [table[target.long()] for target in targets])

    pixels.run_over(predictor, SemanticDataset(part), workers, update, progress)
    figures, rows = evaluator.compute(), evaluator.per_class()
    files = pixels.write_figures(folder, {"images": len(part), **figures}, rows)

    groups = []
    for place in pixels.sheet_places(len(part)):
        image = pixels.picture_of(part.images[place])
        truth = table.numpy()[part.labels(place)]
        both = (draw_labels(image, labels, predictor.class_names, legend=False) for labels in (truth, predictor(image)))
        groups.append([image, *both])
    names = list(zip(predictor.class_names, palette(len(predictor.class_names)).tolist(), strict=True))
    figure = pixel_sheet(groups, ("image", "truth", "found"), f"{title}: mIoU {figures['mIoU']:.1%}", names)
    figure.savefig(folder / "predictions.png", dpi=130)

    pixels.print_classes(rows, "pixels", ("IoU", "accuracy"))
    print(f"\n{title}: {len(part)} images, percent")
    print("  ".join(f"{name} {pixels.percent(value)}" for name, value in figures.items()))
    return [*files, "predictions.png"]
