"""`van evaluate` for detectors: COCO's figures on annotated images."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from van.data.coco import CocoPart
    from van.inference.detection import DetectionPredictor, Detections

_SHEET = 12  # pairs on the sheet of predictions
_ALL = 0.0  # threshold of the figures: every detection counts


def evaluate(
    *,
    weights: str,
    data: str = "shapes",
    data_root: str | None = None,
    split: Literal["train", "val"] = "val",
    on_problem: Literal["refuse", "skip"] = "refuse",
    threshold: float = 0.5,
    batch_size: int = 8,
    workers: int | None = None,
    device: str | None = None,
    output: str | None = None,
) -> int:
    """Measure a trained detector: COCO's twelve figures for boxes, and for masks where it has them.

    Args:
        weights: Weight file or run folder of van train --task detection or instances.
        data: shapes (built in), or a folder in COCO's format; its classes are matched by name.
        data_root: Where shapes is stored; by default the folder data.
        split: Part of the data.
        on_problem: What to do with annotations and images that cannot be used: refuse to go on, or skip them.
        threshold: Smallest score of what the sheet of predictions shows; the figures count everything.
        batch_size: Images per batch.
        workers: Processes that load images; by default one per processor, at most 8.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: New folder for the results; by default runs/evaluate-DATA, numbered.
    """
    from van.cli.run_folder import run_folder
    from van.data.detection import data_folder, loading_processes, usable_part
    from van.inference.detection import DetectionPredictor

    predictor = DetectionPredictor(weights, device, batch_size, threshold)
    part, notes = usable_part(
        data_folder(data, data_root), split, on_problem, predictor.model.has_masks, workers=workers
    )
    categories_for(predictor.class_names, part)  # classes that do not fit should show before anything is written
    folder = run_folder(output, f"evaluate-{Path(data).name}")
    for note in notes:
        print(f"Note: {note}")
    title = f"{Path(weights).name} on {data} ({split})"
    files = measure(predictor, part, folder, title, loading_processes(workers))
    print(f"results: {folder}: {' '.join(files)}")
    return 0


def categories_for(class_names: list[str], part: "CocoPart") -> list[int]:
    """Return the category id in the data of each class of a model, by its name; -1 for those that the data lacks.

    Args:
        class_names: The model's names.
        part: The data.

    Raises:
        DataError: the data has a class that the model does not know.
    """
    from van.errors import DataError

    if unknown := [name for name in part.class_names if name not in class_names]:
        annotated = {a.get("category_id") for a in part.all_annotations()}
        if unknown := [name for name in unknown if part.category_ids[part.class_names.index(name)] in annotated]:
            raise DataError(
                f"{part.files.annotations} has the class {unknown[0]!r}, which the model does not know. It knows "
                f"{', '.join(class_names[:10])}{', ...' if len(class_names) > 10 else ''}."
            )
    ids = dict(zip(part.class_names, part.category_ids, strict=True))
    return [ids.get(name, -1) for name in class_names]


def measure(
    predictor: "DetectionPredictor", part: "CocoPart", folder: Path, title: str, workers: int, progress: bool = True
) -> list[str]:
    """Run a detector over a part, print its figures and write figures, results and a sheet of predictions.

    Args:
        predictor: The detector.
        part: Annotated images.
        folder: An existing folder.
        title: What is measured, for people.
        workers: Loading processes.
        progress: Whether to show a progress bar.

    Returns:
        Names of the files.
    """
    import torch
    from tqdm import tqdm

    from van.analysis.coco import FIGURES, DetectionEvaluator
    from van.data.detection import evaluation_batches

    masks = predictor.model.has_masks
    evaluator = DetectionEvaluator(part, masks, categories_for(predictor.class_names, part))
    batches = evaluation_batches(part, predictor.batch_size, workers)
    with torch.inference_mode():
        for images, targets in tqdm(batches, desc="Evaluating", unit=" batches", disable=not progress):
            outputs: Any = predictor.model([image.to(predictor.device) for image in images])
            evaluator.update(outputs, targets)
    figures = evaluator.compute()
    rows = evaluator.per_category()

    kinds = {"box": "", "mask": "mask_"} if masks else {"box": ""}
    by_kind = {kind: {name: figures[prefix + name] for name in FIGURES["bbox"]} for kind, prefix in kinds.items()}
    content = {"images": len(part), **by_kind, "per_class": rows}
    (folder / "evaluation.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with (folder / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (evaluator.masks or evaluator.boxes).write_results(folder / "detections.json")
    save_sheet(folder / "predictions.png", predictor, part, title)
    _print(title, len(part), by_kind, rows)
    return ["evaluation.json", "per_class.csv", "detections.json", "predictions.png"]


def _print(title: str, images: int, by_kind: dict[str, dict[str, float]], rows: list[dict[str, Any]]) -> None:
    def percent(value: float | None) -> str:
        return "-" if value is None or value < 0 else f"{100 * value:.1f}"

    shown = [row for row in rows if row["objects"]]
    width = min(30, max([len(row["class"]) for row in shown] + [5]) + 2)
    keys = [key for key in rows[0] if "AP" in key]
    print(f"\n{'class':<{width}}{'objects':>8}" + "".join(f"{key.replace('_', ' '):>11}" for key in keys))
    for row in shown[:40]:
        name = row["class"] if len(row["class"]) < width else row["class"][: width - 2] + "…"
        print(f"{name:<{width}}{row['objects']:>8}" + "".join(f"{percent(row[key]):>11}" for key in keys))
    if len(shown) > 40:
        print(f"... and {len(shown) - 40} more classes in per_class.csv")
    print(f"\n{title}: {images} images, percent")
    for kind, figures in by_kind.items():
        print(f"{kind:<6}" + "  ".join(f"{name} {percent(value)}" for name, value in figures.items()))


def save_sheet(path: Path, predictor: "DetectionPredictor", part: "CocoPart", title: str) -> None:
    """Draw what is on some of the images beside what was found on them.

    Args:
        path: Of the picture.
        predictor: The detector.
        part: Annotated images, of which some with objects are taken at even distances.
        title: Line above.
    """
    import numpy as np

    from van.analysis.detection_pictures import detection_sheet
    from van.data.coco import CocoDetectionDataset
    from van.data.images import read_image

    dataset = CocoDetectionDataset(part, masks=predictor.model.has_masks, keep_empty=False)
    if not len(dataset):
        return
    chosen = np.unique(np.linspace(0, len(dataset) - 1, _SHEET).astype(int)).tolist()
    labels = [predictor.class_names.index(name) for name in part.class_names if name in predictor.class_names]
    truths = [_truth(dataset[i][1], labels) for i in chosen]
    files = [str(part.image_path(dataset.images[i])) for i in chosen]
    found: list[Detections] = predictor(files)
    figure = detection_sheet(
        [read_image(file) for file in files],
        truths,
        found,
        predictor.class_names,
        f"{title}: scores of {predictor.score_threshold:g} and more",
    )
    figure.savefig(path, dpi=130)


def _truth(target: dict[str, Any], labels: list[int]) -> "Detections":
    """Return annotations as if they had been found with certainty, in the model's labels."""
    import numpy as np

    from van.inference.detection import Detections

    own = np.asarray([labels[label] for label in target["labels"].tolist()], dtype=np.int64)
    masks = target["masks"].numpy().astype(bool) if "masks" in target else None
    return Detections(target["size"], target["boxes"].numpy(), own, np.ones(len(own)), masks)
