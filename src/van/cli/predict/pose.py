"""`van predict` for poses: keypoints of persons on images, as pictures and JSON."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from van.inference.pose import Pose, PosePredictor


def predict(
    images: list[str],
    *,
    weights: str,
    boxes: str | None = None,
    detector: str | None = None,
    min_score: float = 0.3,
    keypoint_score: float = 0.2,
    duplicates: float = 0.9,
    flip_test: bool = True,
    batch_size: int = 32,
    device: str | None = None,
    output: str | None = None,
) -> int:
    """Find the keypoints of persons on images; without boxes and detector each image is taken as one person.

    Args:
        images: Image files, and folders whose images are taken in natural order of their paths.
        weights: Weight file or run folder of van train --task pose.
        boxes: Where the persons are: predictions.json of van predict with a detector, or COCO's results JSON for
            images whose names are their numbers, as COCO's are.
        detector: Weights of van train --task detection or instances, which then look for the persons.
        min_score: Boxes with a lower score are left out.
        keypoint_score: Keypoints with a lower confidence are not drawn.
        duplicates: A person more similar than this to a better one is left out; 1 keeps all.
        flip_test: Average the heat maps with those of the mirrored crop.
        batch_size: Persons per batch.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: New folder for predictions.json and the pictures; by default runs/predict-pose, numbered.
    """
    import sys

    from tqdm import tqdm

    from van.analysis.pose_pictures import draw_poses
    from van.cli.run_folder import picture_name, run_folder
    from van.data.images import list_images, read_image
    from van.errors import DataError, VanError
    from van.inference.pose import PosePredictor

    if boxes is not None and detector is not None:
        raise VanError("--boxes and --detector both say where persons are. Give one of them.")
    for name, value in (("min_score", min_score), ("keypoint_score", keypoint_score), ("duplicates", duplicates)):
        if not 0 <= value <= 1:
            raise VanError(f"{name} is {value}, expected a number from 0 to 1.")
    paths = list_images(images)
    predictor = PosePredictor(weights, device, batch_size, flip_test)
    known = None if boxes is None else read_boxes(boxes, paths, predictor, min_score)
    look = None if detector is None else _detector(detector, predictor, device, min_score)
    folder = run_folder(output, "predict-pose")
    entries: list[dict[str, Any]] = []
    persons, broken = 0, 0
    taken: set[str] = set()
    for path in tqdm(paths, unit=" images", desc="Predicting"):
        picture = picture_name(Path(path).stem, taken)
        try:
            image = read_image(path)
        except DataError as error:
            broken += 1
            tqdm.write(f"van predict: {error}", file=sys.stderr)
            entries.append({"image": path, "error": str(error)})
            continue
        found, scores = known[path] if known else look(image) if look else (None, None)
        poses = predictor(image, found, scores, duplicates)
        persons += len(poses)
        drawn = draw_poses(
            image,
            [pose.keypoints for pose in poses],
            predictor.keypoint_names,
            predictor.skeleton,
            [f"{predictor.class_name} {pose.score:.2f}" for pose in poses],
            keypoint_score,
        )
        drawn.save(folder / picture, quality=92)
        size = {"height": image.height, "width": image.width}
        entries.append(
            {"image": path, "picture": picture, **size, "persons": [_entry(pose, predictor) for pose in poses]}
        )
    (folder / "predictions.json").write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{persons} persons on {len(paths) - broken} images: {folder}: predictions.json and the pictures")
    if broken:
        print(f"van predict: {broken} of {len(paths)} images could not be read, see above.", file=sys.stderr)
    return 1 if broken else 0


def _entry(pose: "Pose", predictor: "PosePredictor") -> dict[str, Any]:
    points = zip(predictor.keypoint_names, pose.keypoints.tolist(), strict=True)
    return {
        "score": round(pose.score, 5),
        "bbox": [round(value, 2) for value in pose.box],
        "keypoints": {name: [round(x, 2), round(y, 2), round(v, 4)] for name, (x, y, v) in points},
    }


def read_boxes(
    path: str, images: list[str], predictor: "PosePredictor", min_score: float
) -> dict[str, tuple[list[list[float]], list[float]]]:
    """Return the boxes (x, y, width, height) of persons and their scores, for each image.

    Args:
        path: JSON of a detector; see predict.
        images: Paths of the images.
        predictor: Says what counts as a person.
        min_score: Boxes with a lower score are left out.

    Raises:
        DataError: the file cannot be read, is of another form, or is about none of the images.
    """
    from van.errors import DataError

    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check the path.") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). Give the detections of these images.") from error
    by_key: dict[Any, list[str]] = {}
    for image in images:
        stem = Path(image).stem
        for key in {str(Path(image).resolve()), Path(image).name, *([int(stem)] if stem.isdecimal() else [])}:
            by_key.setdefault(key, []).append(image)
    boxes: dict[str, tuple[list[list[float]], list[float]]] = {image: ([], []) for image in images}
    matched = False
    for number, entry in enumerate(content if isinstance(content, list) else [content]):
        try:
            if "image_id" in entry:
                of, detections = by_key.get(entry["image_id"], []), [entry]
            else:
                name = Path(entry["image"])
                of = by_key.get(str(name.resolve())) or by_key.get(name.name, [])
                detections = entry.get("objects", [])  # none where the image could not be read
            found = [_checked(d) for d in detections if _is_person(d, predictor)]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: entry {number} is {json.dumps(entry)[:80]} ({type(error).__name__}: {error}). Expected "
                "predictions.json of van predict with a detector, or COCO's results with image_id, category_id, bbox "
                "and score."
            ) from error
        matched = matched or bool(of)
        for image in of:
            for box, score in found:
                if score >= min_score:
                    boxes[image][0].append(box)
                    boxes[image][1].append(score)
    if not matched:
        raise DataError(f"{path} is about none of these {len(images)} images. Compare the names.")
    return boxes


def _is_person(detection: dict[str, Any], predictor: "PosePredictor") -> bool:
    if "class" in detection:
        return detection["class"] == predictor.class_name
    return detection["category_id"] in predictor.category_ids


def _checked(detection: dict[str, Any]) -> tuple[list[float], float]:
    """Return box and score of a detection; a ValueError says what is wrong with them."""
    import math

    box, score = [float(value) for value in detection["bbox"]], float(detection["score"])
    if len(box) != 4 or not all(map(math.isfinite, (*box, score))) or min(box[2:]) <= 0:
        raise ValueError(f"box {box} with score {score}")
    return box, score


def _detector(weights: str, predictor: "PosePredictor", device: str | None, min_score: float) -> Any:
    """Return a function that finds the boxes of persons, and their scores, on an image."""
    from van.errors import VanError
    from van.inference.detection import DetectionPredictor

    detect = DetectionPredictor(weights, device, 1, min_score)
    if predictor.class_name not in detect.class_names:
        raise VanError(
            f"The detector {weights} knows {', '.join(detect.class_names)}, but the poses are those of "
            f"{predictor.class_name!r}. Give a detector that finds these."
        )
    wanted = detect.class_names.index(predictor.class_name)

    def look(image: Any) -> tuple[list[list[float]], list[float]]:
        found = detect(image)
        chosen = found.labels == wanted
        boxes = found.boxes[chosen].astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        return boxes.tolist(), found.scores[chosen].tolist()

    return look
