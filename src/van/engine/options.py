"""Options that every task shares. They are declared here once, for the command line, YAML files and Python."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from van.errors import VanError

Precision = Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"]
OnBadImage = Literal["error", "skip"]


@dataclass
class Optimization:
    """Optimizer and schedule besides the learning rate.

    Attributes:
        optimizer: timm's name of the optimizer: adamw, adam, sgd, lamb, ...
        weight_decay: Not applied to biases, norms and layer scales.
        schedule: How the learning rate falls after the warm-up: cosine, poly (power of the remaining share) or step.
        milestones: Epochs after which schedule step multiplies the learning rate by gamma; steps where the length of
            training is given in steps (iterations).
        gamma: See milestones.
        power: Exponent of schedule poly.
        warmup_epochs: Epochs in which the learning rate rises linearly.
        warmup_iterations: Steps in which it does, instead of warmup_epochs.
        cooldown_epochs: Epochs at the smallest learning rate after the cosine.
        min_lr: Smallest learning rate; the warm-up starts from it.
        clip_grad: Largest norm of the gradient; null for none.
        ema_decay: Decay of an exponential moving average of the weights, which is then validated and saved; the decay
            warms up, so that short runs do not keep the random start. Null for none.
    """

    optimizer: str = "adamw"
    weight_decay: float = 0.05
    schedule: Literal["cosine", "step", "poly"] = "cosine"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    power: float = 1.0
    warmup_epochs: float = 1.0
    warmup_iterations: int | None = None
    cooldown_epochs: int = 0
    min_lr: float = 1e-6
    clip_grad: float | None = None
    ema_decay: float | None = None


@dataclass(kw_only=True)
class TrainOptions:
    """Options of training that every task has.

    Attributes:
        data: Data set to train on.
        data_root: Where named and built-in data sets are stored; by default the folder data.
        pretrained: Start from weights: of the backbone (a file of any known layout, or "hub" for the published ones),
            or of a whole network (weight file or run folder); layers for other classes start from scratch.
        epochs: Length of training in epochs, warm-up included.
        batch_size: Samples per step over all devices.
        lr: Highest learning rate.
        optimization: Optimizer and schedule.
        on_bad_image: What to do with images and annotations that cannot be used: error stops with what is wrong, skip
            leaves them out and trains on another image instead. Skipped files are counted and listed in skipped.txt in
            the run folder; more than a tenth of the images of a split is an error.
        check_data: Decode every image before the first epoch.
        precision: Lightning precision, such as 16-mixed.
        device: Accelerator: auto, cpu, cuda, mps, ...
        devices: Number of devices, or which ones; auto takes what is available.
        workers: Processes that load images; by default one per processor, at most 8.
        early_stopping: Stop after this many validations without a better result; null trains to the end.
        limit_batches: Use only so many batches per epoch for training and for validation, for a quick try.
        seed: The same seed gives the same run on the same machine.
        output: Run folder; by default a numbered one below runs.
        resume: Run folder to continue. Its options stay; options given beside it win.
        quiet: Print errors only.
    """

    # an option and those that it sets back where it comes from a later source, such as the command line after a file
    exclusive: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    data: str
    data_root: str | None = None
    pretrained: str | None = None
    epochs: int = 12
    batch_size: int = 16
    lr: float = 1e-4
    optimization: Optimization = field(default_factory=Optimization)
    on_bad_image: OnBadImage = "error"
    check_data: bool = False
    precision: Precision = "32-true"
    device: str = "auto"
    devices: int | str = "auto"
    workers: int | None = None
    early_stopping: int | None = None
    limit_batches: int | None = None
    seed: int = 0
    output: str | None = None
    resume: str | None = None
    quiet: bool = False

    def check(self) -> None:
        """Refuse numbers that could only fail later.

        Raises:
            VanError: a number is out of range.
        """
        at_least("epochs", self.epochs, 1)
        at_least("batch_size", self.batch_size, 1)
        at_least("workers", self.workers, 0)
        at_least("early_stopping", self.early_stopping, 1)
        at_least("limit_batches", self.limit_batches, 1)
        if not self.lr > 0:
            raise VanError(f"lr is {self.lr}, expected a number above 0.")


@dataclass(kw_only=True)
class StepOptions(TrainOptions):
    """Options of training whose length can be given in steps; see van.engine.fit.length.

    Attributes:
        iterations: Length of training in steps, instead of epochs; an epoch is then what lies between two validations.
        validate_every: Steps between two validations, of which iterations must be a multiple; by default a tenth of
            them where that is a whole number, else all.
    """

    exclusive: ClassVar[Mapping[str, tuple[str, ...]]] = {"epochs": ("iterations", "validate_every")}

    iterations: int | None = None
    validate_every: int | None = None


@dataclass(kw_only=True)
class InferenceOptions:
    """Options of evaluation and prediction that every task has.

    Attributes:
        weights: Weight file, run folder, or name of published weights such as van_b0.
        batch_size: Images per batch.
        workers: Processes that load images; by default one per processor, at most 8, and none for a few images.
        device: cpu, cuda, mps, ...; by default a GPU if there is one.
        output: Where results go; by default a numbered folder below runs.
        quiet: Print errors only; results are in files.
    """

    weights: str
    batch_size: int = 8
    workers: int | None = None
    device: str | None = None
    output: str | None = None
    quiet: bool = False

    def check(self) -> None:
        """Refuse numbers that could only fail later.

        Raises:
            VanError: a number is out of range.
        """
        at_least("batch_size", self.batch_size, 1)
        at_least("workers", self.workers, 0)


@dataclass(kw_only=True)
class EvaluateOptions(InferenceOptions):
    """Options of evaluation that every task has.

    Attributes:
        data: Labeled images, in the formats that training takes.
        data_root: Where named and built-in data sets are stored; by default the folder data.
        split: train, val, or all for data without splits.
        on_bad_image: What to do with images and annotations that cannot be used: error stops with what is wrong, skip
            decodes all images first and leaves bad ones out of the metrics. They are counted and listed in skipped.txt
            in the output folder; more than a tenth of the images is an error.
    """

    data: str
    data_root: str | None = None
    split: Literal["train", "val", "all"] | None = None
    on_bad_image: OnBadImage = "error"


@dataclass(kw_only=True)
class PredictOptions(InferenceOptions):
    """Options of prediction that every task has.

    Attributes:
        images: Image files, and folders whose images are taken in natural order.
    """

    images: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Refuse options that could only fail later; see InferenceOptions."""
        super().check()
        if not self.images:
            raise VanError("No images are given. Name image files or folders.")


@dataclass(kw_only=True)
class CheckOptions:
    """Options of checking a data set that every task has.

    Attributes:
        data: Data set, in the formats that training takes.
        data_root: Where named and built-in data sets are stored; by default the folder data.
        decode: Decode all images. --no-decode reads only their headers; masks are decoded anyway.
        workers: Processes that read images; by default one per processor, at most 8, and none for a few images.
    """

    data: str
    data_root: str | None = None
    decode: bool = True
    workers: int | None = None

    def check(self) -> None:
        """Refuse numbers that could only fail later.

        Raises:
            VanError: a number is out of range.
        """
        at_least("workers", self.workers, 0)


@dataclass
class Inference:
    """Options of inference, which a weight file keeps; tasks that have some declare a subclass."""

    # an option and those that it sets back where it comes from a later source
    exclusive: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def check(self) -> None:
        """Raise VanError where a value is out of range."""

    def changed(self, changes: Mapping[str, Any]) -> Any:
        """Return the options with other values, as a command or caller gives them."""
        return replace(self, **changes)


def at_least(name: str, value: float | None, least: float) -> None:
    """Raise VanError unless a value, where it is given, is at least so large.

    Args:
        name: Name of the option.
        value: Its value; None is not checked.
        least: Smallest value allowed.
    """
    if value is not None and not value >= least:
        raise VanError(f"{name} is {value}, expected {least} or more.")


def within(name: str, value: float | None, low: float = 0.0, high: float = 1.0) -> None:
    """Raise VanError unless a value, where it is given, lies in a range.

    Args:
        name: Name of the option.
        value: Its value; None is not checked.
        low: Smallest value allowed.
        high: Largest value allowed.
    """
    if value is not None and not low <= value <= high:
        raise VanError(f"{name} is {value}, expected a number from {low:g} to {high:g}.")
