"""Options of pose estimation."""

from dataclasses import dataclass, field

from van.data.augmentation import PoseAugmentation
from van.engine.options import EvaluateOptions, PredictOptions, SliceInference, TrainOptions, at_least, within
from van.errors import VanError
from van.networks.options import SimpleBaselineOptions


@dataclass(kw_only=True)
class PoseTrainOptions(TrainOptions):
    """Options of training a pose network.

    Attributes:
        data: shapes (built in), or a folder in COCO format with person_keypoints annotations.
        model: Architecture, backbone, image size, heat maps.
        keypoints: Number of keypoints, to be checked against the data.
        batch_size: Persons per step over all devices.
        augmentation: Random changes of the training crops.
    """

    data: str = "shapes"
    model: SimpleBaselineOptions = field(default_factory=SimpleBaselineOptions)
    keypoints: int | None = None
    epochs: int = 210
    batch_size: int = 64
    lr: float = 5e-4
    augmentation: PoseAugmentation = field(default_factory=PoseAugmentation)

    def check(self) -> None:
        """Refuse numbers that could only fail later; see TrainOptions."""
        super().check()
        at_least("keypoints", self.keypoints, 1)


@dataclass(kw_only=True)
class PoseEvaluateOptions(EvaluateOptions):
    """Options of evaluating a pose network.

    Attributes:
        data: shapes (built in), or a folder in COCO format with person_keypoints annotations.
        boxes: JSON file with a detector's results on these images, in COCO's results format; by default the annotated
            boxes.
        score_threshold: Boxes of that file with a lower score are left out.
        batch_size: Persons per batch.
    """

    boxes: str | None = None
    score_threshold: float = 0.0
    batch_size: int = 64

    def check(self) -> None:
        """Refuse numbers that could only fail later, and a threshold without boxes; see InferenceOptions."""
        super().check()
        within("score_threshold", self.score_threshold)
        if self.score_threshold and self.boxes is None:
            raise VanError(
                f"score_threshold is {self.score_threshold}, which has no effect on annotated boxes. Give boxes, or "
                "leave it out."
            )


@dataclass(kw_only=True)
class PosePredictOptions(PredictOptions):
    """Options of predicting poses.

    Attributes:
        batch_size: Images per batch, and persons per batch of the network.
    """

    batch_size: int = 16


@dataclass
class PoseInference(SliceInference):
    """Where persons are, and which of them and of their keypoints are returned.

    Without detector and boxes the whole image is taken as one person.

    Attributes:
        detector: Weights of a network that finds the persons: any task whose results have boxes.
        boxes: JSON file that says where the persons are: predictions.jsonl of van predict with a detector, or
            COCO's results format for images whose file names are their ids, as in COCO.
        score_threshold: Boxes with a lower score are left out.
        keypoint_threshold: Keypoints with a lower score are not drawn.
        oks_threshold: Of two persons whose poses are more similar than this (COCO's object keypoint similarity, from 0
            to 1), only the better one is kept; 1 keeps all. Annotated boxes are never left out.
        iou: Of two boxes that overlap by a larger IoU, the detector keeps only the better one (non-maximum
            suppression); null as the detector has it.
        max_detections: Keep at most this many persons per image, the best; null keeps all.
        flip_test: Average the heat maps with those of the mirrored crop.
    """

    detector: str | None = None
    boxes: str | None = None
    score_threshold: float = 0.3
    keypoint_threshold: float = 0.2
    oks_threshold: float = 0.9
    iou: float | None = None
    max_detections: int | None = None
    flip_test: bool = True

    def check(self) -> None:
        """Refuse options that are out of range or do not go together.

        Raises:
            VanError: there are such options.
        """
        super().check()
        for name in ("score_threshold", "keypoint_threshold", "oks_threshold"):
            within(name, getattr(self, name))
        within("iou", self.iou)
        at_least("max_detections", self.max_detections, 1)
        if self.iou is not None and self.detector is None:
            raise VanError(
                f"iou is {self.iou}, but there is no detector whose boxes overlap. Give one, or leave it out."
            )
        if self.slice is not None and self.detector is None:
            raise VanError(f"slice is {self.slice}, but there is no detector to see slices. Give one, or leave it out.")
        if self.detector is not None and self.boxes is not None:
            raise VanError("boxes and detector both say where persons are. Give one of them.")
