"""COCO's metrics for boxes, masks and keypoints, computed by faster-coco-eval, for all tasks that use them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from van.engine.metric import Metric
from van.errors import DataError, VanError

if TYPE_CHECKING:
    from van.data.coco import CocoSplit

Kind = Literal["bbox", "segm", "keypoints"]

_AREAS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KEYS: dict[Kind, tuple[str, ...]] = {
    "bbox": _AREAS,
    "segm": _AREAS,
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}
"""Keys of the metrics, in COCO's own order."""

# the box goes with boxes only: COCO's loader would take its area for that of the mask or the keypoints
_NEEDED: dict[Kind, tuple[str, ...]] = {
    "bbox": ("image_id", "category_id", "score", "bbox"),
    "segm": ("image_id", "category_id", "score", "segmentation"),
    "keypoints": ("image_id", "category_id", "score", "keypoints"),
}


def coco_metrics(kind: Kind, label: str, prefix: str = "") -> tuple[Metric, ...]:
    """Return COCO's metrics: twelve for boxes and masks, ten for keypoints.

    Args:
        kind: What is compared.
        label: What stands before the name of each metric, such as "mask" in "mask AP50".
        prefix: What stands before its key, such as "mask_" in "mask_AP50".
    """
    return tuple(Metric(prefix + key, f"{label} {key}") for key in KEYS[kind])


@dataclass
class ImageOverlaps:
    """Results and objects of one image.

    Attributes:
        image_id: Id of the image.
        found: Category of each result, best first, shape (N,).
        scores: Score of each result, shape (N,).
        true: Category of each object, without crowd regions, shape (M,).
        ious: Intersection over union of results and objects, shape (N, M).
        ignored: Whether more than half of a result lies in a crowd region of its category, shape (N,).
    """

    image_id: int
    found: np.ndarray
    scores: np.ndarray
    true: np.ndarray
    ious: np.ndarray
    ignored: np.ndarray


class CocoEvaluator:
    """Collects results and compares them with annotations.

    Args:
        split: The annotations.
        kind: What is compared: boxes, masks or keypoints.
        sigmas: Standard deviations of the keypoints, if they are not COCO's 17.

    Raises:
        DataError: an object has no mask to compare with.
        VanError: faster-coco-eval is not installed.
    """

    def __init__(self, split: "CocoSplit", kind: Kind = "bbox", sigmas: Sequence[float] | None = None) -> None:
        try:
            from faster_coco_eval import COCO
        except ImportError as error:
            raise VanError(
                "COCO's metrics need faster-coco-eval. Install it with: "
                "pip install 'visual-attention-network[detection]'"
            ) from error
        self.kind: Kind = kind
        self.sigmas = sigmas
        self.class_names = split.class_names
        self.category_ids = split.category_ids
        self.content = _prepared(split, kind)
        self.image_ids = [image["id"] for image in self.content["images"]]
        self._known, self._categories = set(self.image_ids), set(self.category_ids)
        self._truth = COCO(self.content)
        self.reset()

    def reset(self) -> None:
        """Forget all results."""
        self._own: list[dict[str, Any]] = []
        self._all: list[dict[str, Any]] | None = None
        self._precision: Any = None

    def update(self, results: Iterable[dict[str, Any]]) -> None:
        """Add results in COCO's results format.

        Args:
            results: Mappings with image_id, category_id, score, and bbox (x, y, width, height), segmentation
                (compressed RLE) or keypoints (x, y, score of each in turn), in pixels of the image file. Results for
                images and categories that the split does not have are left out.

        Raises:
            VanError: a result lacks something.
        """
        needed = _NEEDED[self.kind]
        for result in results:
            if missing := [key for key in needed if key not in result]:
                raise VanError(f"A result has no {missing[0]}, {self.kind} needs {', '.join(needed)}.")
            if result["image_id"] in self._known and result["category_id"] in self._categories:
                self._own.append(result)
        self._all = None

    @property
    def results(self) -> list[dict[str, Any]]:
        """All results so far, those of other processes included; each process has to ask for them."""
        if self._all is None:
            import torch.distributed as dist

            parts: list[Any] = [self._own]
            if dist.is_available() and dist.is_initialized():
                # dictionaries with strings inside, of which every image has another number: no state of torchmetrics
                parts = [None] * dist.get_world_size()
                dist.all_gather_object(parts, self._own)
            self._all = [result for part in parts for result in part]
        return self._all

    def compute(self) -> dict[str, float]:
        """Return the metrics by key, from 0 to 1; -1 where one is undefined because there is no such object."""
        from faster_coco_eval import COCOeval_faster

        needed = _NEEDED[self.kind]
        # copies, as loading adds keys; an empty box spares masks the search for theirs, which nothing reads
        more = {"bbox": []} if self.kind == "segm" else {}
        found = self._truth.loadRes([{**{key: result[key] for key in needed}, **more} for result in self.results])
        kind: Any = self.kind
        sigmas = None if self.sigmas is None else list(self.sigmas)
        run = COCOeval_faster(self._truth, found, kind, kpt_oks_sigmas=sigmas)
        run.params.imgIds = self.image_ids
        run.params.catIds = self.category_ids
        run.evaluate()
        run.accumulate()
        run.summarize()
        accumulated: Any = run.eval
        self._precision = np.asarray(accumulated["precision"])  # (thresholds, recalls, categories, areas, detections)
        return dict(zip(KEYS[self.kind], map(float, run.stats), strict=False))

    def per_category(self) -> list[dict[str, Any]]:
        """Return name, id, number of objects, AP and AP50 of each category; AP is None where there are no objects."""
        if self._precision is None:
            self.compute()
        accumulated: Any = self._precision
        objects = [
            a["category_id"] for a in self.content["annotations"]
            if not a["iscrowd"] and (self.kind != "keypoints" or a["num_keypoints"])
        ]  # fmt: skip
        rows = []
        for k, (number, name) in enumerate(zip(self.category_ids, self.class_names, strict=True)):
            precision = accumulated[:, :, k, 0, -1]
            values = {
                key: round(float(part[part > -1].mean()), 6) if (part > -1).any() else None
                for key, part in (("AP", precision), ("AP50", precision[0]))
            }
            rows.append({"class": name, "id": number, "objects": objects.count(number), **values})
        return rows

    def overlaps(self, most: int = 100) -> Iterator[ImageOverlaps]:
        """Iterate over the images with their results and objects, boxes or masks.

        Args:
            most: How many results of an image count, the best.
        """
        from faster_coco_eval.core import mask as functions

        found: dict[int, list[dict[str, Any]]] = {number: [] for number in self.image_ids}
        for result in self.results:
            found[result["image_id"]].append(result)
        true: dict[int, list[dict[str, Any]]] = {number: [] for number in self.image_ids}
        for annotation in self.content["annotations"]:
            true[annotation["image_id"]].append(annotation)
        for number in self.image_ids:
            results = sorted(found[number], key=lambda result: -result["score"])[:most]
            objects = sorted(true[number], key=lambda one: one["iscrowd"])
            count = sum(not one["iscrowd"] for one in objects)
            kinds = np.array([result["category_id"] for result in results], dtype=int)
            classes = np.array([one["category_id"] for one in objects], dtype=int)
            ious = np.zeros((len(results), len(objects)))
            if results and objects:
                if self.kind == "segm":
                    shapes = [result["segmentation"] for result in results]
                    others = [self._truth.annToRLE(one) for one in objects]
                else:
                    shapes, others = ([one["bbox"] for one in part] for part in (results, objects))
                ious = np.asarray(functions.iou(shapes, others, [one["iscrowd"] for one in objects]))
            crowds = (ious[:, count:] > 0.5) & (kinds[:, None] == classes[None, count:])
            scores = np.array([result["score"] for result in results], dtype=float)
            yield ImageOverlaps(number, kinds, scores, classes[:count], ious[:, :count], crowds.any(1))

    def write_results(self, path: str | Path) -> Path:
        """Write the results in COCO's results format, and return the path."""
        path = Path(path)
        path.write_text(json.dumps(self.results) + "\n", encoding="utf-8")
        return path


def _prepared(split: "CocoSplit", kind: Kind) -> dict[str, Any]:
    """Return a copy of the annotations with what COCO's evaluation takes for granted."""
    content = split.content
    known = {image["id"] for image in content["images"]}
    annotations = []
    for annotation in split.all_annotations():
        if annotation["image_id"] not in known:
            continue
        box = annotation.get("bbox", (0.0, 0.0, 0.0, 0.0))
        # renumbered: an id of 0 counts as "no match" in COCO's evaluation, and a repeated one hides an object
        new = {
            **annotation,
            "id": len(annotations) + 1,
            "iscrowd": int(annotation.get("iscrowd", 0)),
            "area": annotation.get("area", box[2] * box[3]),
        }
        if kind == "segm" and not annotation.get("segmentation"):
            raise DataError(
                f"{split.files.annotations}: annotation {annotation.get('id')} has no mask. Evaluate a detector "
                "without masks, or add masks."
            )
        if kind == "keypoints":
            points = annotation.get("keypoints") or []
            new["num_keypoints"] = sum(v > 0 for v in points[2::3])
            if not points:
                continue
        annotations.append(new)
    return {"info": {}, "images": content["images"], "annotations": annotations, "categories": content["categories"]}
