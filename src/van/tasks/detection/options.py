"""Options of object detection and instance segmentation."""

from dataclasses import dataclass, field

from van.data.augmentation import DetectionAugmentation, InstancesAugmentation
from van.engine.options import EvaluateOptions, SliceInference, TrainOptions, at_least, not_empty, within
from van.networks.detection.mask_rcnn import MaskRCNNOptions
from van.networks.detection.options import DetectorOptions
from van.networks.detection.retinanet import RetinaNetOptions


@dataclass(kw_only=True)
class DetectionTrainOptions(TrainOptions):
    """Options of training a detector.

    Attributes:
        data: shapes (built in), or a folder or label file in the format of COCO, YOLO, Pascal VOC, LabelMe, CVAT, Label
            Studio or Open Images, which is recognized; see docs/data.md.
        model: Architecture, backbone, image sizes.
        num_classes: Number of classes, to be checked against the data.
        keep_empty: Train on images without objects too; --no-keep-empty leaves them out, as MMDetection does.
        augmentation: Random changes of the training images.
        check_data: Decode every image and mask before the first epoch.
    """

    data: str = "shapes"
    model: DetectorOptions = field(default_factory=RetinaNetOptions)
    num_classes: int | None = None
    keep_empty: bool = True
    augmentation: DetectionAugmentation = field(default_factory=DetectionAugmentation)

    def check(self) -> None:
        """Refuse numbers that could only fail later; see TrainOptions."""
        super().check()
        at_least("num_classes", self.num_classes, 1)


@dataclass(kw_only=True)
class InstancesTrainOptions(DetectionTrainOptions):
    """Options of training a detector that also predicts masks; see DetectionTrainOptions."""

    model: DetectorOptions = field(default_factory=MaskRCNNOptions)
    augmentation: InstancesAugmentation = field(default_factory=InstancesAugmentation)  # pyright: ignore[reportIncompatibleVariableOverride] - more options


@dataclass(kw_only=True)
class DetectionEvaluateOptions(EvaluateOptions):
    """Options of evaluating a detector. The metrics count all detections, whatever their score.

    Attributes:
        data: shapes (built in), or data in the formats that training takes; classes are matched by name.
    """


@dataclass
class DetectionInference(SliceInference):
    """Which detections are returned, and how large images are seen.

    Attributes:
        score_threshold: Detections with a lower score are left out; in evaluation of the sheet of predictions alone. An
            architecture has a score_threshold of its own below this, under which it returns nothing.
        iou: Of two boxes of one class that overlap by a larger IoU, only the better one is kept (non-maximum
            suppression); null as the architecture has it. DETRs and Mask2Former have no such suppression, and take this
            for agnostic_nms, slice and flip_test alone.
        agnostic_nms: Keep one box per object, whatever its class, by the same suppression over all classes.
        classes: Names of the classes to keep; null keeps all.
        max_detections: Keep at most this many detections per image, the best; null as the architecture has it.
        flip_test: See the mirror image too; what is found in both is joined by non-maximum suppression.
    """

    score_threshold: float = 0.5
    iou: float | None = None
    agnostic_nms: bool = False
    classes: list[str] | None = None
    max_detections: int | None = None
    flip_test: bool = False

    def check(self) -> None:
        """Refuse numbers that are out of range.

        Raises:
            VanError: one is.
        """
        super().check()
        within("score_threshold", self.score_threshold)
        within("iou", self.iou)
        at_least("max_detections", self.max_detections, 1)
        not_empty("classes", self.classes)
