"""COCO's figures for boxes, masks and keypoints, computed by faster-coco-eval."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch.distributed as dist

from van.data.coco import CocoSplit
from van.errors import DataError, VanError
from van.inference.detection import detections_of

Kind = Literal["bbox", "segm", "keypoints"]

# COCO's own order of the figures
FIGURES: dict[str, tuple[str, ...]] = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}

# The box goes with boxes only: COCO's loader would take its area for that of the mask or of the keypoints
_NEEDED = {
    "bbox": ("image_id", "category_id", "score", "bbox"),
    "segm": ("image_id", "category_id", "score", "segmentation"),
    "keypoints": ("image_id", "category_id", "score", "keypoints"),
}


class CocoEvaluator:
    """Collects results and compares them with an annotation file.

    Args:
        truth: Annotation file in COCO's format, a CocoSplit, or the content of such a file.
        kind: What is compared: boxes, masks or keypoints.
        image_ids: Images that count; None takes all of the file.
        drop: Ids of annotations that do not count, such as those that `van check-data` finds fault with.
        sigmas: Standard deviations of the keypoints, for other keypoints than COCO's 17.

    Raises:
        DataError: the annotations cannot be read, or lack what the comparison needs.
        VanError: faster-coco-eval is not installed.
    """

    def __init__(
        self,
        truth: CocoSplit | dict[str, Any] | str | Path,
        kind: Kind = "bbox",
        image_ids: Iterable[int] | None = None,
        drop: Iterable[int] = (),
        sigmas: Sequence[float] | None = None,
    ) -> None:
        if kind not in FIGURES:
            raise VanError(f"kind is {kind!r}, expected one of {', '.join(FIGURES)}.")
        try:
            from faster_coco_eval import COCO
        except ImportError as error:
            raise VanError(
                "COCO's figures need faster-coco-eval. Install it with: "
                "pip install 'visual-attention-network[detection]'"
            ) from error
        self.kind = kind
        self.sigmas = sigmas
        content, name = _read(truth)
        self.content = _prepared(content, name, kind, image_ids, set(drop))
        self.image_ids = [image["id"] for image in self.content["images"]]
        categories = sorted(self.content["categories"], key=lambda category: category["id"])
        self.category_ids = [category["id"] for category in categories]
        self.class_names = [str(category.get("name", category["id"])) for category in categories]
        self._known, self._categories = set(self.image_ids), set(self.category_ids)
        self._truth = COCO(self.content)
        self._own: list[dict[str, Any]] = []
        self._all: list[dict[str, Any]] | None = None
        self._precision: Any = None

    def reset(self) -> None:
        """Forget all results."""
        self._own = []
        self._all = None
        self._precision = None

    def update(self, results: Iterable[dict[str, Any]]) -> None:
        """Add results in COCO's results format.

        Args:
            results: Mappings with image_id, category_id, score, and bbox (x, y, width, height), segmentation
                (compressed RLE) or keypoints (x, y, v after one another), in pixels of the image file. Results for
                images and categories that do not count are left out.

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
        """All results so far; with several processes all of theirs, so every process has to ask."""
        if self._all is None:
            parts: list[Any] = [self._own]
            if dist.is_available() and dist.is_initialized():
                parts = [None] * dist.get_world_size()
                dist.all_gather_object(parts, self._own)
            self._all = [result for part in parts for result in part]
        return self._all

    def compute(self) -> dict[str, float]:
        """Return COCO's figures by name: twelve for boxes and masks, ten for keypoints.

        Shares of 1; -1 where a figure is not defined because there is no such object.
        """
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
        return dict(zip(FIGURES[self.kind], map(float, run.stats), strict=False))

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
            figures = {
                label: round(float(part[part > -1].mean()), 6) if (part > -1).any() else None
                for label, part in (("AP", precision), ("AP50", precision[0]))
            }
            rows.append({"class": name, "id": number, "objects": objects.count(number), **figures})
        return rows

    def write_results(self, path: str | Path) -> Path:
        """Write the results in COCO's results format, and return the path."""
        path = Path(path)
        path.write_text(json.dumps(self.results) + "\n", encoding="utf-8")
        return path


def _read(truth: CocoSplit | dict[str, Any] | str | Path) -> tuple[dict[str, Any], str]:
    """Return the content of an annotation file and what to call it."""
    if isinstance(truth, dict):
        return truth, "The annotations"
    if isinstance(truth, CocoSplit):
        return truth.content, str(truth.files.annotations)
    path = Path(truth)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). Expected an annotation file in COCO's format.") from error
    return content, str(path)


def _prepared(content: Any, name: str, kind: str, image_ids: Iterable[int] | None, drop: set[int]) -> dict[str, Any]:
    """Return a copy with only what counts, and with what COCO's evaluation takes for granted."""
    if not isinstance(content, dict) or any(
        not isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise DataError(f"{name} is not in COCO's format: it needs the lists images, annotations and categories.")
    wanted = None if image_ids is None else set(image_ids)
    images = [image for image in content["images"] if wanted is None or image["id"] in wanted]
    known = {image["id"] for image in images}
    annotations = []
    for annotation in content["annotations"]:
        if annotation["image_id"] not in known or annotation.get("id") in drop:
            continue
        box = annotation.get("bbox", (0.0, 0.0, 0.0, 0.0))
        # numbered anew: an id of 0 counts as "no match" in COCO's evaluation, and a repeated one hides an object
        new = {
            **annotation,
            "id": len(annotations) + 1,
            "iscrowd": int(annotation.get("iscrowd", 0)),
            "area": annotation.get("area", box[2] * box[3]),
        }
        if kind == "segm" and not annotation.get("segmentation"):
            raise DataError(f"{name}: annotation {annotation.get('id')} has no mask. Measure boxes instead.")
        if kind == "keypoints":
            points = annotation.get("keypoints") or []
            new["num_keypoints"] = sum(v > 0 for v in points[2::3])
            if not points:
                continue
        annotations.append(new)
    return {"info": {}, "images": images, "annotations": annotations, "categories": content["categories"]}


class DetectionEvaluator:
    """COCO's figures of a detector: boxes, and masks where it has them.

    Args:
        truth: The annotated images.
        masks: Whether masks are measured too.
        category_ids: Category of each label of the detector, where its labels are others than those of the data.
    """

    def __init__(self, truth: CocoSplit, masks: bool, category_ids: Sequence[int] | None = None) -> None:
        self.category_ids = list(truth.category_ids if category_ids is None else category_ids)
        self.boxes = CocoEvaluator(truth, "bbox")
        self.masks = CocoEvaluator(truth, "segm") if masks else None

    def reset(self) -> None:
        """Forget all results."""
        self.boxes.reset()
        if self.masks:
            self.masks.reset()

    def update(self, outputs: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]]) -> None:
        """Add what a detector gave for some images.

        Args:
            outputs: boxes, labels, scores, masks of each image; see van.heads.detection.
            targets: With image_id and size (H, W) of each.
        """
        for output, target in zip(outputs, targets, strict=True):
            found = detections_of(output, target["size"])
            results = found.results(target["image_id"], self.category_ids)
            self.boxes.update(results)
            if self.masks:
                self.masks.update(results)

    def compute(self) -> dict[str, float]:
        """Return the figures of the boxes by name, and those of the masks with mask_ before."""
        figures = self.boxes.compute()
        if self.masks:
            figures |= {f"mask_{name}": value for name, value in self.masks.compute().items()}
        return figures

    def per_category(self) -> list[dict[str, Any]]:
        """Return a line per category; see CocoEvaluator, with mask_AP and mask_AP50 where there are masks."""
        rows = self.boxes.per_category()
        if self.masks:
            for row, other in zip(rows, self.masks.per_category(), strict=True):
                row |= {"mask_AP": other["AP"], "mask_AP50": other["AP50"]}
        return rows
