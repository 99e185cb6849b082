"""`van evaluate` for saliency: F, weighted F, S, E and mean absolute error."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from van.data.saliency import SaliencyPart
    from van.inference.pixels import SaliencyPredictor


def evaluate(
    *,
    weights: str,
    data: str = "shapes",
    data_root: str | None = None,
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
    """Measure trained weights: max, mean, adaptive and weighted F, S- and E-measure, mean absolute error.

    Args:
        weights: Weight file or run folder of van train --task saliency.
        data: shapes (built in), or a folder: DUTS's layout, or images with black-and-white masks.
        data_root: Where shapes is stored; by default the folder data.
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
    from van.cli.evaluate.pixels import looking
    from van.cli.run_folder import run_folder
    from van.data.detection import data_folder, loading_processes
    from van.data.pixel_checks import usable_pixels
    from van.data.saliency import find_saliency
    from van.inference.pixels import SaliencyPredictor

    predictor = SaliencyPredictor(weights, device, batch_size, **looking(slide, crop, stride, scales, flip))
    found = find_saliency(data_folder(data, data_root), split)
    part, notes = usable_pixels(found, on_problem, workers=workers, empty_classes=False)
    folder = run_folder(output, f"evaluate-{Path(data).name}")
    for note in notes:
        print(f"Note: {note}")
    files = measure(predictor, part, folder, f"{Path(weights).name} on {data} ({split})", loading_processes(workers))
    print(f"results: {folder}: {' '.join(files)}")
    return 0


def measure(
    predictor: "SaliencyPredictor",
    part: "SaliencyPart",
    folder: Path,
    title: str,
    workers: int,
    progress: bool = True,
) -> list[str]:
    """Measure weights on a part, print the figures and write them with a sheet of predictions.

    Args:
        predictor: The network.
        part: Images with masks.
        folder: An existing folder.
        title: What is measured, for people.
        workers: Loading processes.
        progress: Whether to show a progress bar.

    Returns:
        Names of the files.
    """
    from van.analysis.pixel_pictures import pixel_sheet, saliency_image
    from van.analysis.saliency_measures import SaliencyEvaluator
    from van.cli.evaluate import pixels
    from van.data.saliency import SaliencyDataset

    evaluator = SaliencyEvaluator()
    pixels.run_over(predictor, SaliencyDataset(part), workers, evaluator.update, progress)
    figures = evaluator.compute()
    curves = {name: [round(float(value), 6) for value in values] for name, values in evaluator.curves().items()}
    files = pixels.write_figures(folder, {"images": len(part), **figures, "curves": curves})

    groups = []
    for place in pixels.sheet_places(len(part)):
        image = pixels.picture_of(part.images[place])
        truth = part.salient(place).astype(float)
        groups.append([image, saliency_image(truth), saliency_image(predictor(image))])
    line = f"{title}: max F {figures['max_F']:.3f}, MAE {figures['MAE']:.3f}"
    pixel_sheet(groups, ("image", "truth", "found"), line).savefig(folder / "predictions.png", dpi=130)

    print(f"\n{title}: {len(part)} images, shares of 1")
    print("  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    return [*files, "predictions.png"]
