"""What a classifier learns about an image: one class, any number of classes, or numbers; and all that follows from it.

The network is the same, with an output for each class or number.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from van.data.formats import TargetKind
from van.errors import VanError, WeightsError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from van.data.samples import Samples
    from van.engine.evaluation import Evaluation
    from van.engine.learner import Learner
    from van.engine.predictor import Predictor
    from van.engine.result import Result
    from van.tasks.classification.options import ClassificationInference, ClassificationTrainOptions

_ONE_CLASS = "which is for weights with one class for each image"
_HALF = 0.5  # threshold where none was chosen


class Target(ABC):
    """What the outputs of a network mean.

    Args:
        names: Names of the classes or numbers, in the order of the outputs.
        about: What a weight file says besides the kind.

    Attributes:
        kind: As in options and weight files.
        output: Name of what answers gives, in exported files.
        loss_label: Name of the loss.
        label_smoothing: Where options do not say it.
        dense: Whether targets have a number for each output.
    """

    kind: ClassVar[TargetKind]
    output: ClassVar[str] = "probabilities"
    loss_label: ClassVar[str]
    label_smoothing: ClassVar[float] = 0.0
    dense: ClassVar[bool] = True

    def __init__(self, names: Sequence[str], about: Mapping[str, Any] | None = None) -> None:
        self.names = list(names)

    @property
    def described(self) -> str:
        """What labels are, in a few words."""
        return f"{len(self.names)} classes"

    def smoothing(self, options: "ClassificationTrainOptions") -> float:
        """Return the label smoothing of training."""
        given = options.optimization.label_smoothing
        return self.label_smoothing if given is None else given

    def caption(self, label: Any) -> str:
        """Return what to write beside a training image.

        Args:
            label: Number of a class, or for each class its share or whether it is there, (names,).
        """
        if not getattr(label, "ndim", 0):
            return self.names[int(label)]
        parts = sorted(((share, name) for share, name in zip(label.tolist(), self.names, strict=True) if share > 0))
        if all(share == 1 for share, _ in parts):
            return ", ".join(name for _, name in parts) or "no class"
        return ", ".join(f"{name} {100 * share:.0f} %" for share, name in reversed(parts))

    def extra(self) -> dict[str, Any]:
        """Return what the header of a weight file says; see target_of."""
        return {"target": {"kind": self.kind}}

    def check_training(self, options: "ClassificationTrainOptions") -> None:
        """Refuse options of training that have no effect or no meaning.

        Raises:
            VanError: there is one.
        """
        if options.optimization.regression_loss is not None:
            raise VanError(
                f"regression_loss is {options.optimization.regression_loss}, but the labels of {options.data} are "
                "classes. Leave it out."
            )

    def check_inference(self, inference: "ClassificationInference") -> None:
        """Refuse options of inference that have no effect.

        Raises:
            VanError: there is one.
        """
        if inference.temperature != 1:
            raise VanError(f"temperature is {inference.temperature}, {_ONE_CLASS}, not {self.kind} ones. Leave it out.")

    def check_calibration(self) -> None:
        """Refuse to fit a temperature where there is none.

        Raises:
            VanError: the weights have no use for it.
        """
        raise VanError(f"calibrate fits a temperature, {_ONE_CLASS}, not {self.kind} ones. Leave it out.")

    @abstractmethod
    def learner(
        self, network: "nn.Module", options: "ClassificationTrainOptions", image_size: Sequence[int]
    ) -> "Learner":
        """Return loss and metrics."""

    @abstractmethod
    def evaluation(self, predictor: "Predictor", split: Any, workers: int) -> "Evaluation":
        """Return what measures a predictor; see Task.evaluation."""

    @abstractmethod
    def answers(self, outputs: "torch.Tensor") -> "torch.Tensor":
        """Return probabilities or numbers for what the network gives, (B, names) both."""

    @abstractmethod
    def results(
        self, answers: "torch.Tensor", sizes: Sequence[tuple[int, int]], inference: "ClassificationInference"
    ) -> "list[Result]":
        """Return the result of each image for answers on the CPU."""


class SingleLabel(Target):
    """One class for each image: softmax and cross-entropy."""

    kind = "single-label"
    loss_label = "cross-entropy loss"
    label_smoothing = 0.1
    dense = False

    def extra(self) -> dict[str, Any]:
        """Return nothing: a classifier has one class for each image unless its file says otherwise."""
        return {}

    def check_inference(self, inference: "ClassificationInference") -> None:
        """Refuse a threshold."""
        if inference.score_threshold is not None:
            raise VanError(
                f"score_threshold is {inference.score_threshold}, but these weights have one class for each image. "
                "Leave it out; top_k says how many classes are shown."
            )

    def check_calibration(self) -> None:
        """Refuse nothing."""

    def learner(
        self, network: "nn.Module", options: "ClassificationTrainOptions", image_size: Sequence[int]
    ) -> "Learner":
        """Return cross-entropy and accuracies."""
        from van.tasks.classification.learner import ClassificationLearner

        return ClassificationLearner(network, len(self.names), options, image_size)

    def evaluation(self, predictor: "Predictor", split: Any, workers: int) -> "Evaluation":
        """Return what measures accuracies."""
        from van.tasks.classification.evaluation import ClassificationEvaluation

        return ClassificationEvaluation(predictor, split, workers)

    def answers(self, outputs: "torch.Tensor") -> "torch.Tensor":
        """Return probabilities that sum to 1."""
        return outputs.softmax(dim=1)

    def results(
        self, answers: "torch.Tensor", sizes: Sequence[tuple[int, int]], inference: "ClassificationInference"
    ) -> "list[Result]":
        """Return the most probable classes of each image."""
        from van.tasks.classification.results import Classification

        best = answers.topk(min(inference.top_k or 5, answers.shape[1]), dim=1)
        return [
            Classification(class_names=self.names, size=size, labels=labels, probabilities=values)
            for size, labels, values in zip(sizes, best.indices.numpy(), best.values.numpy(), strict=True)
        ]


class MultiLabel(Target):
    """Any number of classes for each image: a sigmoid and binary cross-entropy for each class.

    Attributes:
        thresholds: Probability from which on a class counts as found, of each class; None where none were chosen.
    """

    kind = "multi-label"
    loss_label = "binary cross-entropy loss"

    def __init__(self, names: Sequence[str], about: Mapping[str, Any] | None = None) -> None:
        super().__init__(names, about)
        self.thresholds: list[float] | None = (about or {}).get("thresholds")

    @property
    def described(self) -> str:
        """What labels are, in a few words."""
        return f"{super().described}, any number of them for each image"

    def extra(self) -> dict[str, Any]:
        """Return the kind, and the thresholds where there are any."""
        found = {} if self.thresholds is None else {"thresholds": self.thresholds}
        return {"target": {"kind": self.kind, **found}}

    def used_thresholds(self, inference: "ClassificationInference") -> list[float]:
        """Return the threshold of each class: that of the options, else those of the weights."""
        if inference.score_threshold is not None:
            return [inference.score_threshold] * len(self.names)
        return self.thresholds or [_HALF] * len(self.names)

    def check_inference(self, inference: "ClassificationInference") -> None:
        """Refuse a number of classes and a temperature."""
        super().check_inference(inference)
        if inference.top_k is not None:
            raise VanError(
                f"top_k is {inference.top_k}, but these weights give every class above its threshold. Leave it out, or "
                "give a score_threshold."
            )

    def learner(
        self, network: "nn.Module", options: "ClassificationTrainOptions", image_size: Sequence[int]
    ) -> "Learner":
        """Return binary cross-entropy, mAP and F1."""
        from van.tasks.classification.learner import MultiLabelLearner

        return MultiLabelLearner(network, len(self.names), options, image_size)

    def evaluation(self, predictor: "Predictor", split: Any, workers: int) -> "Evaluation":
        """Return what measures mAP and F1."""
        from van.tasks.classification.multi_label import MultiLabelEvaluation

        return MultiLabelEvaluation(predictor, split, workers, self)

    def answers(self, outputs: "torch.Tensor") -> "torch.Tensor":
        """Return the probability of each class."""
        return outputs.sigmoid()

    def results(
        self, answers: "torch.Tensor", sizes: Sequence[tuple[int, int]], inference: "ClassificationInference"
    ) -> "list[Result]":
        """Return the classes of each image whose probability is at least their threshold."""
        import numpy as np

        from van.tasks.classification.results import MultiLabelClassification

        thresholds = np.array(self.used_thresholds(inference))
        results: list[Result] = []
        for size, row in zip(sizes, answers.numpy(), strict=True):
            found = np.flatnonzero(row >= thresholds)
            found = found[np.argsort(-row[found], kind="stable")]
            results.append(
                MultiLabelClassification(class_names=self.names, size=size, labels=found, probabilities=row[found])
            )
        return results


class Regression(Target):
    """Numbers: the outputs are those numbers with mean 0 and standard deviation 1 over the training images.

    Attributes:
        mean: Mean of each number over the training images.
        std: Standard deviation of each.
    """

    kind = "regression"
    output = "values"
    loss_label = "loss, standardized numbers"

    def __init__(self, names: Sequence[str], about: Mapping[str, Any] | None = None) -> None:
        super().__init__(names, about)
        self.mean, self.std = ([float(value) for value in (about or {})[key]] for key in ("mean", "std"))

    @property
    def described(self) -> str:
        """What labels are, in a few words."""
        return f"regression of {', '.join(self.names)}"

    def caption(self, label: Any) -> str:
        """Return the numbers with their names."""
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, label.tolist(), strict=True))

    def extra(self) -> dict[str, Any]:
        """Return the kind, mean and standard deviation."""
        return {"target": {"kind": self.kind, "mean": self.mean, "std": self.std}}

    def check_training(self, options: "ClassificationTrainOptions") -> None:
        """Refuse what is for classes."""
        if options.optimization.label_smoothing:
            raise VanError(
                f"label_smoothing is {options.optimization.label_smoothing}, but the labels of {options.data} are "
                "numbers. Leave it out, or set it to 0."
            )
        if options.augmentation.cutmix:
            raise VanError(
                f"cutmix is {options.augmentation.cutmix}, but the labels of {options.data} are numbers, which pieces "
                "of two images have no share in. Set it to 0."
            )

    def check_inference(self, inference: "ClassificationInference") -> None:
        """Refuse what is for classes."""
        super().check_inference(inference)
        for name in ("top_k", "score_threshold"):
            if (value := getattr(inference, name)) is not None:
                raise VanError(f"{name} is {value}, but these weights give numbers, not classes. Leave it out.")

    def learner(
        self, network: "nn.Module", options: "ClassificationTrainOptions", image_size: Sequence[int]
    ) -> "Learner":
        """Return the loss, R2 and MAE."""
        from van.tasks.classification.learner import RegressionLearner

        return RegressionLearner(network, self, options, image_size)

    def evaluation(self, predictor: "Predictor", split: Any, workers: int) -> "Evaluation":
        """Return what measures R2 and MAE."""
        from van.tasks.classification.regression import RegressionEvaluation

        return RegressionEvaluation(predictor, split, workers, self)

    def answers(self, outputs: "torch.Tensor") -> "torch.Tensor":
        """Return the numbers in their units."""
        return outputs * outputs.new_tensor(self.std) + outputs.new_tensor(self.mean)

    def results(
        self, answers: "torch.Tensor", sizes: Sequence[tuple[int, int]], inference: "ClassificationInference"
    ) -> "list[Result]":
        """Return the numbers of each image."""
        from van.tasks.classification.results import Numbers

        return [
            Numbers(class_names=self.names, size=size, values=row)
            for size, row in zip(sizes, answers.numpy(), strict=True)
        ]


_TARGETS: dict[str, type[Target]] = {target.kind: target for target in (SingleLabel, MultiLabel, Regression)}


def target_of(names: Sequence[str], extra: Mapping[str, Any]) -> Target:
    """Return what the outputs of trained weights mean.

    Args:
        names: Of the classes or numbers.
        extra: What the header of the weight file says; under target the kind and what belongs to it.

    Raises:
        WeightsError: this version does not know the kind, or lacks something about it.
    """
    about = extra.get("target") or {"kind": SingleLabel.kind}
    try:
        return _TARGETS[about["kind"]](names, about)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"The weights have the target {about}, which this version of van does not know.") from error


def target_for(train: "Samples", known: Target | None = None) -> Target:
    """Return what a network should learn from some images.

    Args:
        train: Training images.
        known: That of the weights that training starts from. Of the same numbers their scale is kept, so that the
            outputs keep their meaning.
    """
    import numpy as np

    kind = train.kind.name
    if kind != Regression.kind:
        return _TARGETS[kind](train.class_names)
    if isinstance(known, Regression) and known.names == train.class_names:
        return known
    values = np.array(train.labels, float)
    return Regression(train.class_names, {"mean": values.mean(axis=0), "std": values.std(axis=0)})
