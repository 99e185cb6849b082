"""Pose estimation: keypoints of persons, each on a crop of the image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from van.engine.options import CheckOptions
from van.engine.result import Result
from van.engine.task import Task
from van.errors import DataError
from van.tasks.pose.metrics import KEYPOINT
from van.tasks.pose.options import PoseEvaluateOptions, PoseInference, PosePredictOptions, PoseTrainOptions
from van.tasks.pose.results import Poses

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import nn

    from van.data.checks import Problem
    from van.engine.data import DataModule
    from van.engine.drawing import LegendEntry
    from van.engine.evaluation import Evaluation
    from van.engine.graph import Graph
    from van.engine.labeling import LabelWriter
    from van.engine.learner import Learner
    from van.engine.predictor import Predictor
    from van.tasks.pose.inference import Prepare


class PoseTask(Task):
    """Pose estimation."""

    name = "pose"
    summary = "keypoints of persons"
    metrics = KEYPOINT[:3]
    formats = ("COCO with person_keypoints annotations", "YOLO", "LabelMe", "CVAT", "Label Studio")
    demo = "pose/van_b0_shapes"
    demo_data = "shapes"
    result = Poses
    train_options = PoseTrainOptions
    evaluate_options = PoseEvaluateOptions
    predict_options = PosePredictOptions
    inference = PoseInference
    label_formats = ("coco", "yolo")
    predict_only = ("detector", "slice", "overlap", "iou", "max_detections")
    files_only = ("boxes",)
    unit = "persons"
    architecture = "simple_baseline"

    # ------------------------------------------------------------------------------------------------ training

    def data(self, options: PoseTrainOptions, processes: int) -> "DataModule":
        """Return crops of the size that the network takes."""
        from van.tasks.pose.data import PoseData

        return PoseData(options, options.batch_size // processes)

    def learner(self, network: "nn.Module", options: PoseTrainOptions, data: "DataModule") -> "Learner":
        """Return the loss of the heat maps and COCO's metrics."""
        from van.tasks.pose.evaluation import PoseEvaluator
        from van.tasks.pose.learner import PoseLearner

        model = cast(Any, network)
        return PoseLearner(model, PoseEvaluator(data.val, model.stride), options)

    def outputs(self, about: Any) -> int:
        """Return the number of keypoints of a data module or weight file."""
        return len(about.extra["keypoint_names"])

    def counted(
        self, options: PoseTrainOptions, num_classes: int | None
    ) -> "tuple[nn.Module, tuple[int, int, int], str]":
        """Return the network of a recipe on the meta device, the size of its crops, and its name."""
        return super().counted(options, options.keypoints or num_classes)

    def curve_options(self, options: PoseTrainOptions, data: "DataModule") -> dict[str, Any]:
        """Say what the losses are."""
        return {"loss_label": "mean squared error of the heat maps"}

    # ------------------------------------------------------------------------------------------------ inference

    def ready(self, predictor: "Predictor") -> None:
        """Read the boxes, or load the detector, that options of inference name.

        Raises:
            VanError: they cannot be used.
        """
        from van.tasks.pose.inference import KnownBoxes, open_detector

        inference = predictor.inference
        if inference.boxes is not None:
            predictor.state["boxes"] = KnownBoxes(inference.boxes, predictor)
        if inference.detector is not None:
            predictor.state["detector"] = open_detector(inference.detector, predictor)

    def configure(self, predictor: "Predictor", options: Any) -> None:
        """Check that the boxes are those of the images to look at."""
        if boxes := predictor.state.get("boxes"):
            from van.data.inputs import ImageSources
            from van.data.video import Clip

            sources = ImageSources(options.images)
            images = [] if sources.once else list(sources)
            if any(isinstance(image, Clip) for image in images):
                raise DataError("boxes says where persons are on images, not on frames of clips. Give a detector.")
            if not sources.once:
                boxes.check([str(image) for image in images])

    def prepare(self, predictor: "Predictor") -> "Prepare":
        """Return what keeps an image as it is for the crops, and makes of it what the detector takes."""
        from van.tasks.pose.inference import Prepare

        detector = predictor.state.get("detector")
        return Prepare(detector and detector.task.prepare(detector))

    def predict(self, predictor: "Predictor", items: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[Result]:
        """Return the persons on each image."""
        from van.tasks.pose.inference import find_poses, persons_of

        images, paths, inputs = zip(*items, strict=True)
        found: list[Any] = [None] * len(images)
        if detector := predictor.state.get("detector"):
            results = detector.predict(inputs, sizes)
            found = [persons_of(result, predictor.class_names[0]) for result in results]
        elif known := predictor.state.get("boxes"):
            found = [known.of(path) for path in paths]
        least = predictor.inference.score_threshold
        kept = [one and tuple(part[one[1] >= least] for part in one) for one in found]
        poses = find_poses(predictor, images, kept)
        for pose, one in zip(poses, found, strict=True):
            if one is not None:
                pose.score_threshold, pose.best_score = least, float(one[1].max()) if len(one[1]) else None
        return list(poses)

    def label_writer(self, predictor: "Predictor", folder: Path, to: str) -> "LabelWriter":
        """Return what writes persons with keypoints."""
        from van.engine.labeling import ObjectLabels

        return ObjectLabels(folder, to, "keypoints")

    def graph(self, predictor: "Predictor", preprocess: bool = False, postprocess: bool = False) -> "Graph":
        """Return what an exported file computes; see PoseGraph."""
        from van.tasks.pose.graph import PoseGraph

        return PoseGraph(predictor, preprocess, postprocess)

    def open_split(self, options: PoseEvaluateOptions, predictor: "Predictor") -> tuple[Any, list[str]]:
        """Return crops of the persons, from the annotated boxes or those of a detector."""
        from van.data.labels import open_labels
        from van.data.pose import open_persons
        from van.data.splits import evaluated_split

        splits = open_labels(options.data, "keypoints", options.data_root)
        found, options.split, notes = evaluated_split(splits, options.split, predictor.extra.get("split"), options.data)
        persons, more = open_persons(
            found,
            predictor.model.input_size[1:],
            None,
            options.on_bad_image,
            options.boxes,
            options.score_threshold,
            decode=options.on_bad_image == "skip",
            workers=options.workers,
        )
        known = predictor.extra["keypoint_names"]
        if persons.names != known:
            raise DataError(
                f"{options.data} has {len(persons.names)} keypoints ({', '.join(persons.names[:3])}, ...), "
                f"{options.weights} was trained on {len(known)} ({', '.join(known[:3])}, ...). Give data with those."
            )
        return persons, notes + more

    def evaluation(self, predictor: "Predictor", split: Any, workers: int) -> "Evaluation":
        """Return what measures a pose network."""
        from van.tasks.pose.evaluation import PoseEvaluation

        return PoseEvaluation(predictor, split, workers)

    # ------------------------------------------------------------------------------------------------ showing data

    def picture(self, data: "DataModule", sample: Any, size: int) -> "Image":
        """Return the crop with its skeleton."""
        from torchvision.transforms.v2.functional import to_pil_image

        from van.engine.drawing import draw_keypoints

        names, skeleton = data.extra["keypoint_names"], data.extra["skeleton"]
        crop, points = to_pil_image(sample["image"]), sample["keypoints"].numpy()
        return draw_keypoints(crop, [points], names, skeleton, score_threshold=0.5, size=size)

    def legend(self, data: "DataModule") -> "Sequence[LegendEntry]":
        """Return the colors of left and right."""
        from van.engine.drawing import SIDES

        return SIDES

    # ------------------------------------------------------------------------------------------------ checking data

    def find_data(self, options: CheckOptions) -> Any:
        """Find label files with keypoints, of a known format."""
        from van.data.labels import find_labels

        return find_labels(options.data, "keypoints", options.data_root)

    def read_data(self, found: Any) -> dict[Any, Any]:
        """Read the labels by split."""
        return found.read()

    def check(self, splits: Any, options: CheckOptions) -> "list[Problem]":
        """Look for broken images and wrong annotations."""
        from van.data.coco_checks import check

        return check(splits, options.decode, options.workers)

    def write_data(self, found: Any, splits: Any, folder: "Path") -> tuple[str, list[str]]:
        """Write the labels in their format where it can be written, else as COCO."""
        from van.data.labels.convert import WRITTEN, write_labels

        to = next((key for key, name in WRITTEN.items() if name == found.format), "coco")
        return WRITTEN[to], write_labels(splits, folder, to, "keypoints")[1]


TASK = PoseTask()
