"""Options of panoptic segmentation."""

from dataclasses import dataclass, field

from van.data.augmentation import PanopticAugmentation
from van.engine.options import EvaluateOptions, Inference, PredictOptions, StepOptions, at_least, not_empty, within
from van.networks.options import NetworkOptions
from van.networks.segmentation.options import Mask2FormerOptions
from van.networks.segmentation.views import check_pair


@dataclass
class PanopticInference(Inference):
    """How segments are found.

    Attributes:
        fit: Short and long edge in pixels that images are scaled to fit into, proportions kept. Results always have the
            size of the image. Large images at their own size take gigabytes.
        score_threshold: Candidates with a lower score are dropped.
        overlap_threshold: A segment is dropped if others leave a smaller share of its mask visible.
        classes: Names of the classes to keep; null keeps all. Pixels of the others are in no segment.
        max_detections: Keep at most this many countable objects per image, the best; null keeps all.
    """

    fit: tuple[int, int] | None = (800, 1333)
    score_threshold: float = 0.8
    overlap_threshold: float = 0.8
    classes: list[str] | None = None
    max_detections: int | None = None

    def check(self) -> None:
        """Refuse values that are out of range."""
        check_pair("fit", self.fit)
        within("score_threshold", self.score_threshold)
        within("overlap_threshold", self.overlap_threshold)
        at_least("max_detections", self.max_detections, 1)
        not_empty("classes", self.classes)


@dataclass(kw_only=True)
class PanopticTrainOptions(StepOptions):
    """Options of training panoptic segmentation.

    Attributes:
        data: shapes (built in), or a folder in COCO's panoptic format: PNG files and JSON.
        model: Backbone and sizes.
        num_classes: Number of classes, where it should be checked against the data.
        augmentation: Random changes of the training images.
        inference: How segments are found in validation, at the image's own size where fit is null; the weight file
            keeps it.
        check_data: Decode every image before the first epoch; PNG files of segments are decoded in any case.
    """

    data: str = "shapes"
    model: NetworkOptions = field(default_factory=Mask2FormerOptions)
    num_classes: int | None = None
    epochs: int = 50
    augmentation: PanopticAugmentation = field(default_factory=PanopticAugmentation)
    inference: PanopticInference = field(default_factory=PanopticInference)

    def check(self) -> None:
        """Refuse numbers that could only fail later; see TrainOptions."""
        super().check()
        self.inference.check()


@dataclass(kw_only=True)
class PanopticEvaluateOptions(EvaluateOptions):
    """Options of evaluating panoptic segmentation.

    Attributes:
        batch_size: Images of one size that are seen together.
    """

    batch_size: int = 4


@dataclass(kw_only=True)
class PanopticPredictOptions(PredictOptions):
    """Options of finding segments.

    Attributes:
        batch_size: Images of one size that are seen together.
        output: New folder for NAME.jpg (the image colored, with names and a legend), all segments in COCO's panoptic
            format (panoptic.json and panoptic/NAME.png) and predictions.jsonl; or a new .jsonl file with the segments
            without their pixels. By default a numbered folder below runs.
    """

    batch_size: int = 4
