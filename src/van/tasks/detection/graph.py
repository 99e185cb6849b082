"""What the exported file of a detector computes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from van.engine.graph import Graph
from van.errors import VanError
from van.networks.detection import fixed
from van.networks.tracing import any_size

if TYPE_CHECKING:
    from van.engine.predictor import Predictor

_MASK_THRESHOLD = 0.5  # as in results
_SAME = 0.02  # difference, as a share, up to which an object is the same one
_LOST = 0.02  # share of objects that may be others where two thresholds or scores are nearly the same


class DetectionGraph(Graph):
    """images -> what the core returns, or objects with postprocess: boxes, labels, scores, and masks where it has any.

    With preprocess the images are bytes of any size, and boxes and masks are in its pixels; without it the images are
    normalized and padded to multiples of 32. Networks whose core asks for it then also take sizes (B, 2), int64: height
    and width of the images without their padding; the objects are in pixels of the padded images.

    There are always N objects per image, best first, N being the network's detections_per_image: boxes (B, N, 4) as
    x1, y1, x2, y2, labels (B, N), int64, scores (B, N), and masks (B, N, H, W), uint8, 1 on the object; all of them 0
    where there are fewer. The score threshold of inference is left to whoever reads them.

    Args:
        predictor: Of a detector.
        preprocess: See Graph.
        postprocess: Return objects.

    Raises:
        VanError: The detector, of another package, has no core.
    """

    def __init__(self, predictor: "Predictor", preprocess: bool, postprocess: bool) -> None:
        detector = predictor.model
        if not hasattr(detector, "core"):
            raise VanError(
                f"{detector.options.architecture} cannot be exported: the detector has no method core; see "
                "van.networks.detection.detector."
            )
        names = ("boxes", "labels", "scores", *(("masks",) if detector.has_masks else ()))
        super().__init__(predictor, preprocess, postprocess, names if postprocess else None)
        self.through_onnx = bool(getattr(detector.network, "core_through_onnx", False)) or (
            postprocess and "cls_logits" in detector.core_outputs
        )
        self.ordered = not {"scores", "pred_boxes"} & set(self.output_names)
        self.takes_sizes = "sizes" in detector.core_inputs and not preprocess
        if self.takes_sizes:
            self.input_names = ("images", "sizes")

    def inputs(self, batch: int, size: tuple[int, int], seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Return random inputs; see Graph."""
        images = super().inputs(batch, size, seed)
        return (*images, torch.tensor([size] * batch)) if self.takes_sizes else images

    def dynamic_shapes(self) -> tuple[dict[int, str], ...]:
        """Return the names of the dynamic axes of each input; see Graph."""
        shapes = super().dynamic_shapes()
        return (*shapes, {0: "batch"} if self.batched else {}) if self.takes_sizes else shapes

    def differences(self, expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> dict[str, float]:
        """Compare objects and queries in any order: rounding swaps those with nearly the same score.

        Args:
            expected: Outputs of the network itself.
            found: Those of the exported file.

        Returns:
            For each output the largest difference over the objects that correspond; infinity where one in fifty or more
            corresponds to none.
        """
        named = dict(zip(self.output_names, expected, strict=True))
        compared = [name for name in ("boxes", "labels", "scores", "pred_boxes", "logits") if name in named]
        if self.ordered:
            return super().differences(expected, found)
        others = dict(zip(self.output_names, found, strict=True))
        if any(others[name].shape != values.shape for name, values in named.items()):
            return dict.fromkeys(named, float("inf"))
        shape = named[compared[0]].shape[:2]
        rows = [
            torch.cat([values[name].double().reshape(*shape, -1) / _scale(named[name]) for name in compared], 2)
            for values in (named, others)
        ]
        distances, index = torch.cdist(rows[0], rows[1], compute_mode="donot_use_mm_for_euclid_dist").min(2)
        there = distances < _SAME
        if not bool(there.float().mean() > 1 - _LOST):
            return dict.fromkeys(named, float("inf"))
        results = {}
        for name, values in named.items():
            at = index.reshape(*index.shape, *[1] * (values.ndim - 2)).expand_as(values)
            results[name] = self.difference(values[there], others[name].gather(1, at)[there], name)
        return results

    def forward(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """Map images (B, 3, H, W) to what the core returns, or to objects."""
        original = inside = images.shape[-2:]
        if self.preprocess:
            images, inside = self._prepared(images)
        if sizes is None:
            sizes = _filled(inside, images)
        padded = images.shape[-2:]
        outputs = self.core(*((images, sizes) if "sizes" in self.network.core_inputs else (images,)))
        if not self.postprocess:
            return outputs
        found, masks = self._decoded(dict(zip(self.network.core_outputs, outputs, strict=True)), padded, inside, sizes)
        found = found.cleared()
        if self.preprocess:
            scale = _filled(original, images).float() / _filled(inside, images).float()
            found = found._replace(boxes=found.boxes * scale.flip(1).repeat(1, 2)[:, None])
        if masks is None:
            return tuple(found)
        if masks.shape[-1] == masks.shape[-2] == 28:  # inside the boxes
            masks = fixed.pasted(masks, found.boxes, (original[0], original[1])) >= _MASK_THRESHOLD
        elif self.preprocess:
            masks = F.interpolate(masks, tuple(original), mode="bilinear", align_corners=False) >= _MASK_THRESHOLD
        return (*found, (masks * (found.scores > 0)[..., None, None]).to(torch.uint8))

    def _prepared(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[Any, Any]]:
        """Return normalized, resized, padded images, and height and width without the padding."""
        transform = self.network.network.transform
        mean, std = (
            torch.tensor(values, device=images.device)[:, None, None] * 255
            for values in (transform.image_mean, transform.image_std)
        )
        size = transform.resized(*images.shape[-2:])
        images = F.interpolate((images - mean) / std, size, mode="bilinear", align_corners=False)
        bottom, right = ((side + 31) // 32 * 32 - side for side in size)
        return F.pad(images, (0, right, 0, bottom)), size

    def _decoded(
        self, outputs: dict[str, torch.Tensor], padded: Any, inside: Any, sizes: torch.Tensor
    ) -> tuple[fixed.Found, torch.Tensor | None]:
        """Return objects in pixels of the padded images, and their masks."""
        network = self.network.network
        if "mask_logits" in outputs:
            return fixed.mask_objects(
                outputs["class_logits"], outputs["mask_logits"], inside, network.detections_per_image
            )
        if "scores" in outputs:
            return fixed.Found(outputs["boxes"], outputs["labels"], outputs["scores"]), outputs.get("masks")
        if "pred_boxes" in outputs:
            units = sizes if network.relative_to_image else _filled(padded, sizes)
            logits, boxes = outputs["logits"], outputs["pred_boxes"]
            count = network.detections_per_image
            return fixed.queries(logits, boxes, units, sizes, network.score_threshold, count), None
        with any_size():
            return fixed.one_stage(network, outputs, padded[0], padded[1], sizes), None


def _scale(values: torch.Tensor) -> float:
    """Return the largest of floating-point numbers, by which differences become shares; labels differ or not."""
    return (float(values.abs().max()) or 1.0) if values.is_floating_point() else 1.0


def _filled(size: Any, like: torch.Tensor) -> torch.Tensor:
    """Return height and width, which are dynamic, for each image of a batch: (B, 2), int64."""
    one = torch.stack([torch.full((), side, dtype=torch.int64, device=like.device) for side in size])
    return one[None].expand(like.shape[0], -1)
