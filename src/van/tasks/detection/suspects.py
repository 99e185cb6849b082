"""Labels of objects that a detector contradicts."""

from typing import Any

import numpy as np
import torch

from van.data.coco import CocoDetectionDataset, CocoSplit
from van.data.images import read_image
from van.data.loaders import evaluation_loader
from van.engine.predictor import Predictor
from van.engine.suspects import Suspects
from van.tasks.detection.errors import BACKGROUND, FOREGROUND, DetectionErrors
from van.tasks.detection.evaluation import DetectionEvaluator, category_ids_of, detect

_SHOWN = 30  # labels and detections on a picture


def find_suspects(predictor: Predictor, split: CocoSplit, workers: int) -> Suspects:
    """Return confident detections without a label or of another class, and labels that were not found."""
    from van.engine.drawing import draw_boxes
    from van.engine.plots import PANEL

    ids, _ = category_ids_of(predictor.class_names, split)
    evaluator = DetectionEvaluator(split, False, ids)
    dataset = CocoDetectionDataset(split)
    with torch.inference_mode():
        for images, targets in evaluation_loader(dataset, predictor.batch_size, workers, dataset.ratios):
            evaluator.update(detect(predictor, images), targets)
    overlaps = list(evaluator.boxes.overlaps())
    errors = DetectionErrors(overlaps, evaluator.boxes.category_ids)
    threshold = errors.best().get("threshold", 1.0)
    names = {number: split.class_names[split.labels[number]] for number in split.category_ids}
    found: dict[int, list[dict[str, Any]]] = {}
    for result in evaluator.boxes.results:
        found.setdefault(result["image_id"], []).append(result)
    kept = {number: sorted(results, key=lambda one: -one["score"]) for number, results in found.items()}
    labeled = {i["id"]: [a for a in split.annotations(i["id"]) if not a.get("iscrowd")] for i in split.images}
    # how often the detector finds labels of a class: a label that it misses says more where it finds most
    hits: dict[int, list[bool]] = {}
    for one in overlaps:
        own = (one.ious >= FOREGROUND) & (one.found[:, None] == one.true) & (one.scores[:, None] >= threshold)
        for label, hit in zip(one.true.tolist(), own.any(0).tolist(), strict=True):
            hits.setdefault(label, []).append(hit)
    rows: list[dict[str, Any]] = []
    paths = split.paths()
    for one in overlaps:
        number, results, objects = one.image_id, kept.get(one.image_id, []), labeled[one.image_id]
        for d in np.flatnonzero((one.scores >= threshold) & ~one.ignored).tolist():
            most = float(one.ious[d].max(initial=0))
            same = (one.ious[d] >= FOREGROUND) & (one.true == one.found[d])
            common = {
                "image": str(paths[number]),
                "predicted": names.get(int(one.found[d]), ""),
                "box": results[d]["bbox"],
            }
            score = round(float(one.scores[d]), 6)
            if most <= BACKGROUND:
                rows.append(
                    {**common, "what": "no label", "labeled": "", "score": score, "annotation": "", "image_id": number}
                )
            elif most >= FOREGROUND and not same.any():
                given = objects[int(one.ious[d].argmax())]
                label, own = names[given["category_id"]], given.get("id")
                rows.append(
                    {
                        **common,
                        "what": "other class",
                        "labeled": label,
                        "score": score,
                        "annotation": own,
                        "image_id": number,
                    }
                )
        for g in np.flatnonzero(~(one.ious >= FOREGROUND).any(0)).tolist():
            label = int(one.true[g])
            rows.append(
                {
                    "image": str(paths[number]), "predicted": "", "box": objects[g]["bbox"], "what": "not found",
                    "labeled": names[label], "score": round(float(np.mean(hits[label])), 6),
                    "annotation": objects[g].get("id"), "image_id": number,
                }
            )  # fmt: skip
    rows.sort(key=lambda row: -row["score"])
    class_names = split.class_names

    def picture(image: Any, records: list[Any]) -> Any:
        records = [record for record in records if record["category_id"] in split.labels][:_SHOWN]
        boxes = np.array([record["bbox"] for record in records], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [split.labels[record["category_id"]] for record in records]
        scores = [record["score"] for record in records] if records and "score" in records[0] else None
        return draw_boxes(image, boxes, labels, class_names, scores, size=PANEL)

    def draw(row: dict[str, Any]) -> list[Any]:
        image, number = read_image(row["image"]), row["image_id"]
        objects, results = labeled[number], [one for one in kept.get(number, []) if one["score"] >= threshold]
        if row["what"] == "not found":
            objects = [one for one in objects if one.get("id") == row["annotation"]]
        else:
            results = [one for one in results if one["bbox"] == row["box"]]
        return [picture(image, objects), picture(image, results)]

    rule = (
        f"detections with a score of {threshold:g} or more (the threshold with the best F1) where no label is near or "
        "one of another class, sorted by score; and labels that no detection covers, sorted by the share of the labels "
        "of their class that were found"
    )
    return Suspects(rule, rows, draw, _caption, ("labeled", "predicted"))


def _caption(row: dict[str, Any]) -> str:
    texts = {
        "no label": f"{row['predicted']} without a label",
        "other class": f"labeled {row['labeled']}, predicted {row['predicted']}",
        "not found": f"{row['labeled']} not found",
    }
    return f"{texts[row['what']]} ({row['score']:.2f})"
