"""Options of semantic segmentation."""

from dataclasses import dataclass, field

from van.data.augmentation import SemanticAugmentation
from van.data.formats import SemanticFormat
from van.engine.options import CheckOptions, EvaluateOptions, Inference, PredictOptions, StepOptions
from van.networks.options import NetworkOptions
from van.networks.segmentation.options import SemanticFPNOptions
from van.networks.segmentation.views import SemanticView


@dataclass
class SemanticInference(SemanticView, Inference):  # noqa: D101
    __doc__ = SemanticView.__doc__


@dataclass(kw_only=True)
class SemanticTrainOptions(StepOptions):
    """Options of training semantic segmentation.

    Attributes:
        data: shapes (built in), or a folder: ADE20K's layout, or images with masks and a class file.
        format: How the files of the data are read.
        model: Architecture, backbone and sizes.
        num_classes: Number of classes, where it should be checked against the data.
        augmentation: Random changes of the training images.
        inference: How validation images are seen, at their own size where fit and image_size are null; the weight file
            keeps it.
        check_data: Decode every image before the first epoch; masks are decoded in any case.
    """

    data: str = "shapes"
    format: SemanticFormat = field(default_factory=SemanticFormat)
    model: NetworkOptions = field(default_factory=SemanticFPNOptions)
    num_classes: int | None = None
    epochs: int = 50
    augmentation: SemanticAugmentation = field(default_factory=SemanticAugmentation)
    inference: SemanticInference = field(default_factory=lambda: SemanticInference(fit=(512, 2048)))

    def check(self) -> None:
        """Refuse numbers that could only fail later; see TrainOptions."""
        super().check()
        self.inference.check()


@dataclass(kw_only=True)
class SemanticEvaluateOptions(EvaluateOptions):
    """Options of evaluating semantic segmentation.

    Attributes:
        format: How the files of the data are read.
        batch_size: Images of one size that are seen together.
    """

    format: SemanticFormat = field(default_factory=SemanticFormat)
    batch_size: int = 4


@dataclass(kw_only=True)
class SemanticPredictOptions(PredictOptions):
    """Options of predicting classes of pixels.

    Attributes:
        batch_size: Images of one size that are seen together.
        output: New folder for NAME.jpg (the image colored, with a legend), NAME_classes.png (whose pixel values are the
            labels) and predictions.jsonl; or a new .jsonl file with the shares of the classes. By default a numbered
            folder below runs.
    """

    batch_size: int = 4


@dataclass(kw_only=True)
class SemanticCheckOptions(CheckOptions):
    """Options of checking data for semantic segmentation.

    Attributes:
        format: How the files of the data are read.
    """

    format: SemanticFormat = field(default_factory=SemanticFormat)
