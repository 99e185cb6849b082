"""The contract of a task: everything that is special about it, and nothing that all tasks share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from van.engine.metric import Metric
from van.engine.options import (
    CheckOptions,
    EvaluateOptions,
    Inference,
    LabelOptions,
    PredictOptions,
    ServeOptions,
    TrainOptions,
)
from van.engine.result import FolderWriter, Result
from van.errors import DataError, VanError

if TYPE_CHECKING:
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
    from van.engine.suspects import Suspects
    from van.models.weight_file import Header


class Task:
    """One kind of problem: how to train, evaluate and predict it. A plain object without state.

    Attributes:
        name: Its name on the command line and in weight files.
        summary: What it does, in one line for `van tasks`.
        metrics: What validation measures, of all kinds of data. The learner has those of a run, of which the first one
            picks the best epoch.
        formats: Data formats that it reads, in words.
        demo: Recipe that trains on built-in data.
        demo_data: Name of the built-in data.
        result: Type of its results.
        train_options: Options of training.
        evaluate_options: Options of evaluation.
        predict_options: Options of prediction.
        serve_options: Options of the HTTP service.
        label_options: Options of labeling images.
        label_formats: Formats in which predictions can be written as labels, the default first.
        check_options: Options of checking data.
        inference: Options of inference, which evaluation and prediction can change.
        predict_only: Those of them that mean nothing to evaluation.
        files_only: Those of them that go by the names of image files, which mean nothing to the HTTP service.
        results_in_folder: Whether `van predict` writes a folder of pictures unless told otherwise.
        writer: Writes results into a folder.
        unit: What one sample is called, in the plural.
        architecture: Default of --model.architecture; None where the task has no architectures to choose from.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    formats: ClassVar[tuple[str, ...]]
    demo: ClassVar[str]
    demo_data: ClassVar[str]
    result: ClassVar[type[Result]] = Result
    train_options: ClassVar[type[TrainOptions]]
    evaluate_options: ClassVar[type[EvaluateOptions]] = EvaluateOptions
    predict_options: ClassVar[type[PredictOptions]] = PredictOptions
    serve_options: ClassVar[type[ServeOptions]] = ServeOptions
    label_options: ClassVar[type[LabelOptions]] = LabelOptions
    label_formats: ClassVar[tuple[str, ...]] = ()
    check_options: ClassVar[type[CheckOptions]] = CheckOptions
    inference: ClassVar[type[Inference]] = Inference
    predict_only: ClassVar[tuple[str, ...]] = ()
    files_only: ClassVar[tuple[str, ...]] = ()
    results_in_folder: ClassVar[bool] = True
    writer: ClassVar[type[FolderWriter]] = FolderWriter
    unit: ClassVar[str] = "images"
    architecture: ClassVar[str | None] = None

    # ------------------------------------------------------------------------------------------------ training

    def data(self, options: Any, processes: int) -> "DataModule":
        """Return training and validation data; what is wrong with them shows here.

        Args:
            options: Of training.
            processes: How many processes share a batch.
        """
        raise NotImplementedError

    def build(self, options: Any, data: "DataModule") -> "tuple[nn.Module, str]":
        """Return the network with its first weights, and a sentence that says where they come from."""
        from van.engine.weights import start_network

        return start_network(self, options, data)

    def learner(self, network: "nn.Module", options: Any, data: "DataModule") -> "Learner":
        """Return the Lightning module: loss and metrics."""
        raise NotImplementedError

    def header(self, network: Any, options: Any, data: "DataModule") -> "Header":
        """Return what the weight file says besides its tensors."""
        from van.engine.parsing import to_mapping
        from van.models.weight_file import Header

        extra = (
            {**data.extra, "inference": to_mapping(options.inference)} if hasattr(options, "inference") else data.extra
        )
        return Header(self.name, list(data.class_names), to_mapping(network.options), dict(extra))

    def title(self, options: Any) -> str:
        """Return what is trained, in a few words, such as "fcos with van_b0"."""
        return f"{options.model.architecture} with {options.model.backbone}"

    def run_name(self, options: Any) -> str:
        """Return the first part of the run folder's name."""
        return f"{options.model.architecture}-{options.model.backbone}"

    def curve_options(self, options: Any, data: "DataModule") -> dict[str, Any]:
        """Return what the plot of the learning curves needs besides metrics; see van.engine.plots.curves."""
        return {}

    def counted(self, options: Any, num_classes: int | None) -> "tuple[nn.Module, tuple[int, int, int], str]":
        """Return the network of a recipe on the meta device, the image size (C, H, W) to count with, and its name."""
        from van.engine.weights import counted_network

        return counted_network(self, options, num_classes)

    def outputs(self, about: Any) -> int:
        """Return how many outputs a network has for a data module or the header of a weight file: its classes."""
        return len(about.class_names or ())

    # ------------------------------------------------------------------------------------------------ inference

    def load(self, weights: "str | Path") -> "tuple[nn.Module, Header]":
        """Return the network of a weight file, and what the file says besides its tensors.

        Args:
            weights: Weight file or run folder; for classifiers also the name of published weights.

        Raises:
            WeightsError: the file cannot be read, or describes a network that this version cannot build.
        """
        from van.engine.weights import rebuild

        return rebuild(self, weights)

    def skeleton(self, header: "Header") -> "nn.Module":
        """Return the network of an exported file: what its core does is in the file, the rest is done by the network.

        Args:
            header: Of the file.

        Raises:
            VanError: this version cannot build it.
        """
        from van.networks.registry import from_dict

        return from_dict(self.name, header.model).build(self.outputs(header))

    def ready(self, predictor: "Predictor") -> None:
        """Check options of inference against a new predictor, and do what they ask for once; by default nothing.

        It may replace predictor.model, which is still on the CPU, keep what it needs later in predictor.state, and set
        predictor.mode for networks of grey images.

        Raises:
            VanError: an option does not go with this network.
        """

    def prepare(self, predictor: "Predictor") -> Callable[[Any], Any]:
        """Return what makes an image what `predict` takes, by default bytes (C, H, W); loading processes run it."""
        from torchvision.transforms.v2.functional import pil_to_tensor

        return pil_to_tensor

    def predict(self, predictor: "Predictor", items: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[Result]:
        """Return what is on the images of a batch, without their paths and pictures.

        Args:
            predictor: The network and what its weight file says.
            items: What `prepare` gave for each image.
            sizes: Height and width of each.
        """
        raise NotImplementedError

    def graph(self, predictor: "Predictor", preprocess: bool = False, postprocess: bool = False) -> "Graph":
        """Return what an exported file computes: tensors in, tensors out.

        Args:
            predictor: Whose network is exported.
            preprocess: Take bytes of images of any size, and do what `prepare` and the network do before its core.
            postprocess: Return results, as `predict` makes them.

        Raises:
            VanError: the task cannot export, or the options of inference are such that a graph cannot hold them.
        """
        raise VanError(f"Networks of the task {self.name} cannot be exported.")

    def features_graph(self, predictor: "Predictor", preprocess: bool = False) -> "Graph":
        """Return what an exported backbone computes: its feature maps.

        Args:
            predictor: Whose backbone is exported.
            preprocess: See graph.

        Raises:
            VanError: the task is not one of classifiers.
        """
        raise VanError(f"features are those of a classifier's backbone, but the weights are for the task {self.name}.")

    def open_split(self, options: Any, predictor: "Predictor") -> tuple[Any, list[str]]:
        """Return the samples that evaluation is asked for, and sentences about them that the user should know."""
        raise NotImplementedError

    def evaluation(self, predictor: "Predictor", split: Any, workers: int) -> "Evaluation":
        """Return what measures a predictor on a split.

        Args:
            predictor: The network.
            split: What open_split or the data module gave.
            workers: Loading processes.
        """
        raise NotImplementedError

    def configure(self, predictor: "Predictor", options: Any) -> None:
        """Take over options of prediction or evaluation that concern more than single images; by default none."""

    def label_writer(self, predictor: "Predictor", folder: Path, to: str) -> "LabelWriter":
        """Return what writes results as labels of a data set.

        Args:
            predictor: Makes the results.
            folder: An empty folder.
            to: One of label_formats.
        """
        raise VanError(f"Results of the task {self.name} cannot be written as labels.")

    # ------------------------------------------------------------------------------------------------ showing data

    def picture(self, data: "DataModule", sample: Any, size: int) -> "Image":
        """Return a picture of a training sample with its labels.

        Args:
            data: Where it is from.
            sample: An item of its stored_set or training_set.
            size: Pixels of the longer side.
        """
        raise VanError(f"The task {self.name} cannot draw its samples.")

    def legend(self, data: "DataModule") -> "Sequence[LegendEntry]":
        """Return what the colors of such pictures mean; by default the pictures say it."""
        return ()

    def batch_changes(self, options: Any, data: "DataModule") -> Callable[[Any], tuple[Any, Any]] | None:
        """Return the random changes of whole batches, from a batch to images and targets; by default there are none.

        Args:
            options: Of training.
            data: What it trains on.
        """
        return None

    # ------------------------------------------------------------------------------------------------ checking data

    def find_data(self, options: Any) -> Any:
        """Find the files of a data set, without reading annotations or images.

        Args:
            options: Options of checking: an instance of check_options.

        Returns:
            What `read_data` takes.

        Raises:
            DataError: the data is not in a format of this task.
        """
        raise DataError(f"van check-data cannot check data for the task {self.name}. van train --check-data may.")

    def read_data(self, found: Any) -> "dict[Any, Any]":
        """Return the splits of a data set by name; see van.data.regions.Inspected. By default they are found already.

        Args:
            found: What find_data returned.
        """
        return found

    def check(self, splits: Any, options: Any) -> "list[Problem]":
        """List everything that would stop or spoil training.

        Args:
            splits: Some of those that read_data returned, by name.
            options: Options of checking.
        """
        raise NotImplementedError

    def suspects(self, predictor: "Predictor", split: Any, workers: int) -> "Suspects":
        """Return the labels that a trained network contradicts, for `van check-data --weights`.

        Args:
            predictor: The network.
            split: What open_split gave.
            workers: Loading processes.
        """
        raise VanError(f"van check-data --weights cannot judge labels of the task {self.name}.")

    def write_data(self, found: Any, splits: Any, folder: Path) -> "tuple[str, list[str]]":
        """Write splits without problems as a data set of its own, for `van check-data --fix`.

        Args:
            found: What find_data returned.
            splits: What is left of what read_data returned.
            folder: An empty folder.

        Returns:
            The format, and sentences about what it cannot hold.
        """
        raise VanError(f"van check-data --fix cannot write data for the task {self.name}.")

    # ------------------------------------------------------------------------------------------------ for people

    def network_options(self, architecture: str | None) -> type | None:
        """Return the dataclass of an architecture's options; None where the task has no architectures.

        Args:
            architecture: Its name; None takes the default.
        """
        from van.networks.registry import options_class

        chosen = architecture or self.architecture
        return None if chosen is None else options_class(self.name, chosen)

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def __str__(self) -> str:
        return self.name
