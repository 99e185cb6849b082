"""Options of saliency."""

from dataclasses import dataclass, field

from van.data.augmentation import SaliencyAugmentation
from van.engine.options import EvaluateOptions, Inference, PredictOptions, StepOptions
from van.networks.options import EDNOptions, NetworkOptions
from van.networks.segmentation.views import View


@dataclass
class SaliencyInference(View, Inference):  # noqa: D101
    __doc__ = View.__doc__


@dataclass(kw_only=True)
class SaliencyTrainOptions(StepOptions):
    """Options of training saliency.

    Attributes:
        data: shapes (built in), or a folder: DUTS's layout, or images with black-and-white masks.
        model: Backbone and sizes.
        augmentation: Random changes of the training images.
        inference: How validation images are seen, at their own size where fit and image_size are null; the weight file
            keeps it.
        check_data: Decode every image before the first epoch; masks are decoded in any case.
    """

    data: str = "shapes"
    model: NetworkOptions = field(default_factory=EDNOptions)
    epochs: int = 30
    batch_size: int = 24
    lr: float = 5e-5
    augmentation: SaliencyAugmentation = field(default_factory=SaliencyAugmentation)
    inference: SaliencyInference = field(default_factory=lambda: SaliencyInference(image_size=(384, 384)))

    def check(self) -> None:
        """Refuse numbers that could only fail later; see TrainOptions."""
        super().check()
        self.inference.check()


@dataclass(kw_only=True)
class SaliencyEvaluateOptions(EvaluateOptions):
    """Options of evaluating saliency.

    Attributes:
        batch_size: Images of one size that are seen together.
    """

    batch_size: int = 4


@dataclass(kw_only=True)
class SaliencyPredictOptions(PredictOptions):
    """Options of predicting saliency.

    Attributes:
        batch_size: Images of one size that are seen together.
        output: New folder for NAME.jpg (the image, its saliency, and the image with everything else dimmed), NAME.png
            (the map from 0 to 255) and predictions.jsonl; or a new .jsonl or .csv file with the salient share of each
            image. By default a numbered folder below runs.
    """

    batch_size: int = 4
