"""Options of image classification."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from van.data.augmentation import ClassificationAugmentation
from van.data.formats import TargetKind
from van.engine.options import (
    CheckOptions,
    EvaluateOptions,
    Inference,
    Optimization,
    PredictOptions,
    TrainOptions,
    at_least,
)
from van.errors import VanError


@dataclass
class ClassificationOptimization(Optimization):
    """Optimizer, schedule and loss of a classifier besides the learning rate.

    Attributes:
        label_smoothing: Share of the target that is spread over all classes; with several classes for each image, how
            far each target moves towards 1/2. By default 0.1 for one class for each image, else 0.
        regression_loss: Loss of numbers: mse (squared differences) or l1 (absolute ones, which large errors dominate
            less); by default mse.
    """

    label_smoothing: float | None = None
    regression_loss: Literal["mse", "l1"] | None = None


@dataclass(kw_only=True)
class ClassificationTrainOptions(TrainOptions):
    """Options of training a classifier.

    Attributes:
        data: digits (built in), a folder of class folders (with train and val folders or without), a .csv file (or a
            folder with one, or with train.csv and val.csv), a .tar file, a folder of WebDataset shards, torch/NAME
            (torchvision), hfds/NAME (Hugging Face) or hfids/NAME (the same, streamed instead of stored).
        target: What the labels of a CSV file are, where its columns can be read in several ways: single-label (one
            class for each image), multi-label (any number of classes) or regression (numbers).
        model: van_b0 to van_b6; by default that of the pretrained file, else van_b0.
        model_args: More arguments of the model, such as drop_path_rate, kernel_size, lka_variant or in_chans.
        pretrained: Start from weights: a file of any known layout, or "hub" for the published ones.
        frozen_stages: Stages of the network, from the stem on, that do not train; 4 trains the classifier alone.
        num_classes: Number of classes, where it should be checked against the data.
        image_size: Height and width of the images that the model sees; by default the model's own.
        crop_pct: Share of the resized image that validation keeps; by default the model's own.
        crop_mode: How validation fits an image into image_size, as timm names it: center resizes the short edge and
            cuts off what is left of the long one, squash resizes both edges, border resizes the long edge and pads; by
            default the model's own.
        mean: Mean of each color channel for images from 0 to 1; by default the model's own.
        std: Standard deviation of each color channel; by default the model's own.
        optimization: Optimizer, schedule and label smoothing.
        augmentation: Random changes of the training images.
    """

    data: str = "digits"
    target: TargetKind | None = None
    model: str | None = None
    model_args: dict[str, Any] | None = None
    frozen_stages: int = 0
    num_classes: int | None = None
    image_size: tuple[int, int] | None = None
    crop_pct: float | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    epochs: int = 30
    batch_size: int = 64
    lr: float = 5e-4
    optimization: ClassificationOptimization = field(default_factory=ClassificationOptimization)  # pyright: ignore[reportIncompatibleVariableOverride] - more options
    augmentation: ClassificationAugmentation = field(default_factory=ClassificationAugmentation)

    def check(self) -> None:
        """Refuse numbers that could only fail later; see TrainOptions."""
        super().check()
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise VanError(f"crop_pct is {self.crop_pct}, expected a number above 0 and at most 1.")
        if self.std is not None and not min(self.std, default=0) > 0:
            raise VanError(f"std is {self.std}, expected numbers above 0.")
        if self.image_size is not None and min(self.image_size) < 1:
            raise VanError(f"image_size is {self.image_size}, expected a height and a width of at least 1.")
        if not 0 <= self.frozen_stages <= 4:
            raise VanError(f"frozen_stages is {self.frozen_stages}, expected 0 (none) to 4 (all).")


@dataclass(kw_only=True)
class ClassificationEvaluateOptions(EvaluateOptions):
    """Options of evaluating a classifier.

    Attributes:
        batch_size: Images per batch.
        calibrate: Fit the temperature to these images by temperature scaling (Guo et al. 2017, arXiv 1706.04599), print
            the calibration error (ECE) before and after, and write a copy of the weight file that keeps it. Use
            validation images, not training images.
    """

    batch_size: int = 64
    calibrate: bool = False


@dataclass
class ClassificationCheckOptions(CheckOptions):
    """Options of checking labeled images.

    Attributes:
        target: What the labels of a CSV file are; see training.
    """

    target: TargetKind | None = None


@dataclass
class ClassificationInference(Inference):
    """How classes are predicted.

    Attributes:
        top_k: Classes to show per image, where each image has one class; by default 5.
        temperature: What logits are divided by before they become probabilities, where each image has one class: above
            1 these are less certain, below 1 more. The order of the classes stays the same. van evaluate --calibrate
            finds it.
        flip_test: See the mirror image too, and average the probabilities or numbers.
        score_threshold: Probability from which on a class counts as found, where an image can have several; by default
            that of each class in the weight file, which was chosen on the validation split.
    """

    top_k: int | None = None
    temperature: float = 1.0
    flip_test: bool = False
    score_threshold: float | None = None

    def check(self) -> None:
        """Refuse numbers that are out of range."""
        at_least("top_k", self.top_k, 1)
        if not 0 < self.temperature < math.inf:
            raise VanError(f"temperature is {self.temperature}, expected a number above 0.")
        if self.score_threshold is not None and not 0 <= self.score_threshold <= 1:
            raise VanError(f"score_threshold is {self.score_threshold}, expected a number from 0 to 1.")


@dataclass(kw_only=True)
class ClassificationPredictOptions(PredictOptions):
    """Options of predicting classes.

    Attributes:
        output: New .csv or .jsonl file for the results, or a folder for pictures too; by default the terminal only.
    """

    batch_size: int = 32
