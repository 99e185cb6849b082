"""`van predict` for detectors: pictures with what was found, and a JSON file."""

import json
import sys


def predict(
    images: list[str],
    *,
    weights: str,
    threshold: float = 0.5,
    batch_size: int = 8,
    workers: int | None = None,
    device: str | None = None,
    output: str | None = None,
) -> int:
    """Find objects on images; writes each image with boxes, masks, names and scores, and all of it as JSON.

    Args:
        images: Image files, and folders whose images are taken in natural order of their paths.
        weights: Weight file or run folder of van train --task detection or instances.
        threshold: Smallest score of what is shown and written, 0 to 1.
        batch_size: Images per batch.
        workers: Processes that decode; by default none for a few images, else one per processor, at most 8.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: New folder for pictures and predictions.json; by default runs/predict-WEIGHTS, numbered.
    """
    from pathlib import Path

    from tqdm import tqdm

    from van.analysis.detection_pictures import draw_detections
    from van.cli.run_folder import picture_name, prediction_folder
    from van.data.detection import loading_processes
    from van.data.images import list_images, read_image
    from van.errors import DataError
    from van.inference.detection import DetectionPredictor

    paths = list_images(images)
    predictor = DetectionPredictor(weights, device, batch_size, threshold)
    if workers is None:
        workers = loading_processes(None) if len(paths) > 4 * batch_size else 0
    folder = prediction_folder(output, weights)
    entries, taken, broken, objects = [], set(), 0, 0
    # the bar goes to standard error, so that the lines can be piped
    bar = tqdm(predictor.stream(paths, workers), total=len(paths), unit=" images", desc="Predicting")
    for path, found in zip(paths, bar, strict=True):
        if isinstance(found, DataError):
            broken += 1
            tqdm.write(f"van predict: {found}", file=sys.stderr)
            entries.append({"image": path, "error": str(found)})
            continue
        picture = picture_name(Path(path).stem, taken)
        draw_detections(read_image(path), found, predictor.class_names).save(folder / picture, quality=92)
        entry = {"image": path, "picture": picture, "height": found.size[0], "width": found.size[1], "objects": []}
        for result, label in zip(found.results(0, predictor.category_ids), found.labels.tolist(), strict=True):
            del result["image_id"]
            entry["objects"].append({"class": predictor.class_names[label], **result})
        entries.append(entry)
        objects += len(found)
        names = [predictor.class_names[label] for label in found.labels.tolist()]
        counts = ", ".join(f"{names.count(n)} {n}" for n in dict.fromkeys(names)) or "nothing found"
        tqdm.write(f"{path}: {counts}", file=sys.stdout)
    (folder / "predictions.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{objects} objects on {len(paths) - broken} images: {folder}: predictions.json and the pictures")
    if broken:
        print(f"van predict: {broken} of {len(paths)} images could not be read, see above.", file=sys.stderr)
    return 1 if broken else 0
