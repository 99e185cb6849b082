"""`van evaluate` for poses: COCO's ten figures for keypoints."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from van.data.pose import PoseDataset
    from van.inference.pose import PosePredictor


def evaluate(
    *,
    weights: str,
    data: str = "shapes",
    data_root: str | None = None,
    split: Literal["train", "val"] = "val",
    boxes: str | None = None,
    min_score: float = 0.0,
    duplicates: float = 0.9,
    flip_test: bool = True,
    batch_size: int = 64,
    workers: int | None = None,
    device: str | None = None,
    on_problem: Literal["refuse", "skip"] = "refuse",
    output: str | None = None,
) -> int:
    """Measure a pose network: COCO's ten figures for keypoints, from annotated boxes or those of a detector.

    Args:
        weights: Weight file or run folder of van train --task pose.
        data: shapes (built in), or a folder in COCO's format with person_keypoints annotations.
        data_root: Where shapes is stored; by default the folder data.
        split: Part of the data.
        boxes: Results JSON of a detector on these images; by default the annotated boxes.
        min_score: Boxes of the detector with a lower score are left out.
        duplicates: From the detector's boxes: a person more similar than this to a better one is left out.
        flip_test: Average the heat maps with those of the mirrored crop.
        batch_size: Persons per batch.
        workers: Processes that load images; by default one per processor, at most 8.
        device: cpu, cuda, ...; by default a GPU if there is one.
        on_problem: What to do about annotations and images that cannot be used.
        output: New folder for the results; by default runs/evaluate-pose-DATA, numbered.
    """
    import os

    from van.cli.run_folder import run_folder
    from van.data.pose import open_persons, pose_folder
    from van.errors import DataError, VanError
    from van.inference.pose import PosePredictor

    if not 0 <= duplicates <= 1:
        raise VanError(f"duplicates is {duplicates}, expected a similarity from 0 to 1.")
    predictor = PosePredictor(weights, device, batch_size, flip_test)
    persons, notes = open_persons(
        pose_folder(data, data_root), split, predictor.size, None, on_problem, boxes, min_score
    )
    if persons.names != predictor.keypoint_names:
        raise DataError(
            f"{data} has {len(persons.names)} keypoints ({', '.join(persons.names[:3])}, ...), {weights} was trained "
            f"on {len(predictor.keypoint_names)} ({', '.join(predictor.keypoint_names[:3])}, ...). Give such data."
        )
    folder = run_folder(output, f"evaluate-pose-{Path(data).name or 'data'}")
    for note in notes:
        print(f"Note: {note}")
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    title = f"{Path(weights).name} on {data} ({split}), {'detected' if boxes else 'annotated'} boxes"
    measure(predictor, persons, folder, title, workers, boxes=boxes, duplicates=duplicates)
    print(f"results: {folder}: evaluation.json keypoint_results.json predictions.png")
    return 0


def measure(
    predictor: "PosePredictor",
    persons: "PoseDataset",
    folder: Path,
    title: str,
    workers: int,
    boxes: str | None = None,
    duplicates: float = 0.9,
) -> dict[str, float]:
    """Predict persons, write and print COCO's figures, the results and a sheet of pictures.

    Args:
        predictor: A trained network.
        persons: Crops without random changes.
        folder: Where evaluation.json, keypoint_results.json and predictions.png go.
        title: What is measured, for the pictures.
        workers: Loading processes.
        boxes: Where the boxes are from, if not from the annotations.
        duplicates: From a detector's boxes: a person more similar than this to a better one is left out.

    Returns:
        The figures.
    """
    import json

    import numpy as np
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    from van.analysis.coco import CocoEvaluator
    from van.inference.pose import keypoint_sigmas, suppress

    evaluator = CocoEvaluator(persons.part, "keypoints", sigmas=keypoint_sigmas(len(persons.names)))
    loader = DataLoader(persons, predictor.batch_size, num_workers=workers)
    results = list(predictor.results(tqdm(loader, desc="Evaluating", leave=False)))
    if boxes is not None:
        by_image: dict[Any, list[int]] = {}
        for number, result in enumerate(results):
            by_image.setdefault(result["image_id"], []).append(number)
        kept = []
        for numbers in by_image.values():
            points = np.array([results[i]["keypoints"] for i in numbers]).reshape(len(numbers), -1, 3)
            scores = np.array([results[i]["score"] for i in numbers])
            areas = np.array([persons.persons[i].box[2] * persons.persons[i].box[3] for i in numbers])
            kept += [results[numbers[i]] for i in suppress(points, scores, areas, duplicates)]
        results = kept
    evaluator.update(results)
    figures = evaluator.compute()
    evaluator.write_results(folder / "keypoint_results.json")
    about = {
        "keypoints": {name: round(value, 6) for name, value in figures.items()},
        "persons": len(results),
        "images": len(persons.part),
        "boxes": boxes or "annotated",
        "flip_test": predictor.flip_test,
    }
    (folder / "evaluation.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    _save_sheet(folder / "predictions.png", predictor, persons, results, f"{title}: AP {figures['AP']:.1%}")

    print(f"\n{title}: {len(results)} persons on {len(persons.part)} images")
    for name, value in figures.items():
        print(f"  {name:<5} {value:>7.1%}" if value >= 0 else f"  {name:<5}       -  (no such persons)")
    return figures


def _save_sheet(
    path: Path, predictor: "PosePredictor", persons: "PoseDataset", results: list[dict[str, Any]], title: str
) -> None:
    """Draw up to 12 images with annotated and predicted poses, spread evenly over all."""
    import numpy as np

    from van.analysis.pose_pictures import draw_poses, pose_sheet
    from van.data.images import read_image
    from van.data.pose import annotated_persons

    truth: dict[int, list[np.ndarray]] = {}
    for person in annotated_persons(persons.part):
        truth.setdefault(person.image_id, []).append(person.keypoints)
    found: dict[int, list[np.ndarray]] = {}
    for result in results:
        found.setdefault(result["image_id"], []).append(np.array(result["keypoints"]).reshape(-1, 3))
    both = sorted(truth)
    chosen = [both[i] for i in np.unique(np.linspace(0, len(both) - 1, min(12, len(both))).astype(int))]
    images, annotated, predicted = [], [], []
    for image_id in chosen:
        image = read_image(persons.paths[image_id])
        width, height = image.size
        image.thumbnail((960, 960))
        scale = np.array([image.width / width, image.height / height, 1.0])
        images.append(image)
        for pictures, poses, threshold in ((annotated, truth, 0.5), (predicted, found, 0.2)):
            scaled = [pose * scale for pose in poses.get(image_id, [])]
            pictures.append(
                draw_poses(image, scaled, predictor.keypoint_names, predictor.skeleton, threshold=threshold)
            )
    pose_sheet(images, annotated, predicted, title).savefig(path, dpi=110)
