"""Image classification: one label per image, several, or numbers."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from van.engine.result import Result
from van.engine.task import Task
from van.errors import VanError, WeightsError, nearest
from van.models.variants import VARIANTS
from van.tasks.classification.metrics import MULTI_LABEL, REGRESSION, TOP1, TOP5
from van.tasks.classification.options import (
    ClassificationCheckOptions,
    ClassificationEvaluateOptions,
    ClassificationInference,
    ClassificationPredictOptions,
    ClassificationTrainOptions,
)
from van.tasks.classification.targets import SingleLabel, target_of

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import nn

    from van.data.checks import Problem
    from van.engine.graph import Graph
    from van.engine.learner import Learner
    from van.engine.predictor import Predictor
    from van.engine.suspects import Suspects
    from van.models import Checkpoint
    from van.models.weight_file import Header
    from van.tasks.classification.data import ClassificationData

_TRAINING_ONLY = ("in_chans", "drop_rate", "proj_drop_rate", "drop_path_rate", "head_init_scale")


def imagenet_class_names() -> list[str]:
    """Return the descriptions of the 1000 classes of ImageNet-1K."""
    from timm.data import ImageNetInfo

    return list(ImageNetInfo("imagenet-1k").label_descriptions())


def class_names_of(names: Sequence[str] | None, count: int) -> list[str]:
    """Return class names; where a file has none those of ImageNet-1K for 1000 classes, else numbers."""
    if names:
        return list(names)
    return imagenet_class_names() if count == 1000 else [str(i) for i in range(count)]


class ClassificationTask(Task):
    """Image classification."""

    name = "classification"
    summary = "one label for an image, several, or numbers (regression)"
    formats = (
        "class folders, alone or inside train and val",
        ".csv file with the columns image and label, labels, a column for each class, or numbers",
        ".tar file of class folders",
        "WebDataset shards",
        "torchvision data sets (torch/NAME)",
        "Hugging Face data sets (hfds/NAME; streamed: hfids/NAME)",
    )
    demo = "classification/van_b0_digits"
    demo_data = "digits"
    train_options = ClassificationTrainOptions
    evaluate_options = ClassificationEvaluateOptions
    predict_options = ClassificationPredictOptions
    check_options = ClassificationCheckOptions
    inference = ClassificationInference
    predict_only = ("top_k",)
    results_in_folder = False

    metrics = (TOP1, TOP5, *MULTI_LABEL, *REGRESSION)

    # ------------------------------------------------------------------------------------------------ training

    def data(self, options: ClassificationTrainOptions, processes: int) -> "ClassificationData":
        """Return images of the size and normalization that the weights ask for."""
        from van.models import read_checkpoint
        from van.tasks.classification.data import ClassificationData

        ckpt = None if options.pretrained in (None, "hub") else read_checkpoint(cast(str, options.pretrained))
        name = options.model or (ckpt.variant if ckpt else None) or "van_b0"
        args = {**({"in_chans": ckpt.in_chans, **ckpt.model_args} if ckpt else {}), **(options.model_args or {})}
        preprocessing = _preprocessing(name, ckpt, args.get("in_chans", 3), options)
        known = target_of(ckpt.class_names or (), ckpt.extra) if ckpt else None
        data = ClassificationData(options, preprocessing, options.batch_size // processes, known)
        data.model, data.model_args, data.checkpoint = name, args, ckpt
        options.model = name
        return data

    def build(self, options: ClassificationTrainOptions, data: Any) -> "tuple[nn.Module, str]":
        """Return a VAN, with a new classifier where the classes are others than those of the weights."""
        from van.models import create_model
        from van.models.factory import model_from_checkpoint

        name, args, ckpt, classes = data.model, data.model_args, data.checkpoint, len(data.class_names)
        try:
            if options.pretrained is None:
                network, start = create_model(name, num_classes=classes, **args), "Starting from random weights."
            elif ckpt is None:
                network = create_model(name, pretrained=True, num_classes=classes, **args)
                same = classes == 1000 and isinstance(data.target, SingleLabel)
                kept = "kept" if same else f"new ({data.target.described})"
                if not same:
                    network.reset_classifier(classes)
                start = f"Fine-tuning: starting from the published weights of {name}; the classifier is {kept}."
            else:
                network = model_from_checkpoint(ckpt, name, classes, **args)
                same = ckpt.num_classes == classes and ckpt.class_names in (None, data.class_names)
                same = same and target_of(ckpt.class_names or (), ckpt.extra).kind == data.target.kind
                if not same:
                    network.reset_classifier(classes)
                start = (
                    f"Fine-tuning: starting from {options.pretrained} ({ckpt.describe()}); the classifier is "
                    f"{'kept' if same else f'new ({data.target.described})'}."
                )
        except (TypeError, ValueError) as error:
            raise VanError(f"model_args {args} do not fit {name}: {error}") from error
        # published weights bring their own
        data.model_args["norm_eps"] = cast(Any, network).get_submodule("stages.0.norm").eps
        return network, start

    def learner(self, network: "nn.Module", options: ClassificationTrainOptions, data: Any) -> "Learner":
        """Return loss and metrics."""
        return data.target.learner(network, options, data.preprocessing["input_size"][1:])

    def header(self, network: Any, options: ClassificationTrainOptions, data: Any) -> "Header":
        """Return variant, arguments, classes, preprocessing and split of a classifier."""
        from van.models.weight_file import Header

        args = {k: v for k, v in data.model_args.items() if k not in _TRAINING_ONLY}
        model = {"model": data.model.partition(".")[0], "model_args": args, "in_chans": network.in_chans}
        return Header(self.name, list(data.class_names), model, {"preprocessing": data.preprocessing, **data.extra})

    def title(self, options: ClassificationTrainOptions) -> str:
        """Return the name of the variant."""
        return options.model or "van_b0"

    run_name = title

    def curve_options(self, options: ClassificationTrainOptions, data: Any) -> dict[str, Any]:
        """Say what the losses are, and why training's may be larger than validation's."""
        softened = [
            what
            for what, used in (
                ("label smoothing", data.target.smoothing(options)),
                ("mixup", options.augmentation.mixup),
                ("CutMix", options.augmentation.cutmix),
            )
            if used
        ]
        return {"loss_label": data.target.loss_label, "loss_note": ", ".join(softened)}

    def counted(
        self, options: ClassificationTrainOptions, num_classes: int | None
    ) -> "tuple[nn.Module, tuple[int, int, int], str]":
        """Return the network of training options on the meta device, its image size, and its name."""
        from van.models import create_model

        if num_classes is None:
            raise VanError("The options do not say num_classes, on which the size of the model depends. Add it.")
        args, name = dict(options.model_args or {}), options.model or "van_b0"
        size = _preprocessing(name, None, args.get("in_chans", 3), options)["input_size"]
        return create_model(name, num_classes=num_classes, device="meta", **args), size, name

    # ------------------------------------------------------------------------------------------------ inference

    def load(self, weights: Any) -> "tuple[nn.Module, Header]":
        """Return the classifier of a file of any known layout, or published weights by their name."""
        from pathlib import Path

        import timm.data

        from van.models import create_model, read_checkpoint
        from van.models.factory import model_from_checkpoint
        from van.models.weight_file import Header

        if str(weights).partition(".")[0] in VARIANTS and not Path(weights).exists():
            ckpt, network = None, create_model(str(weights), pretrained=True)
            model: dict[str, Any] = {"model": str(weights).partition(".")[0], "in_chans": cast(Any, network).in_chans}
            model["model_args"] = {"norm_eps": cast(Any, network).stages[0].norm.eps}
        else:
            ckpt = read_checkpoint(weights)
            network, model = model_from_checkpoint(ckpt), ckpt.header().model
        if network.num_classes == 0:
            raise WeightsError(f"{weights} has no classifier. Give weights that were trained to classify.")
        names = class_names_of(ckpt.class_names if ckpt else None, network.num_classes)
        extra = dict(ckpt.extra) if ckpt else {}
        extra["preprocessing"] = timm.data.resolve_model_data_config(network)
        return network, Header(self.name, names, model, extra)

    def skeleton(self, header: "Header") -> "nn.Module":
        """Return an empty network: everything that a classifier does is in the file."""
        from torch import nn

        return nn.Module()

    def ready(self, predictor: "Predictor") -> None:
        """Read images in grey where the network has one channel, and find out what its outputs mean.

        Raises:
            DataError: it has another number of channels than images.
            VanError: an option has no effect on such outputs.
        """
        from van.data.images import mode_for

        target = predictor.state["target"] = target_of(predictor.class_names, predictor.extra)
        target.check_inference(predictor.inference)

        predictor.mode = mode_for(predictor.extra["preprocessing"]["input_size"][0])

    def prepare(self, predictor: "Predictor") -> Callable[[Any], Any]:
        """Return timm's evaluation transform."""
        from timm.data import create_transform

        return cast(Callable[[Any], Any], create_transform(**predictor.extra["preprocessing"]))

    def predict(self, predictor: "Predictor", items: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[Result]:
        """Return what is on each image: the best classes, all classes that are there, or numbers."""
        import torch

        from van.tasks.classification.evaluation import answers_of

        answers = answers_of(predictor, torch.stack(list(items)))
        return predictor.state["target"].results(answers, sizes, predictor.inference)

    def graph(self, predictor: "Predictor", preprocess: bool = False, postprocess: bool = False) -> "Graph":
        """Return what an exported file computes; see ClassificationGraph."""
        from van.tasks.classification.graph import ClassificationGraph

        return ClassificationGraph(predictor, preprocess, postprocess)

    def features_graph(self, predictor: "Predictor", preprocess: bool = False) -> "Graph":
        """Return the four feature maps; see ClassificationGraph."""
        from van.tasks.classification.graph import ClassificationGraph

        return ClassificationGraph(predictor, preprocess, False, features=True)

    def configure(self, predictor: "Predictor", options: Any) -> None:
        """Take note of the weight file to write a calibrated copy of.

        Raises:
            VanError: it is an exported file, has no temperature to fit, or mirror images are seen too.
        """
        if getattr(options, "calibrate", False):
            predictor.state["target"].check_calibration()
            if predictor.inference.flip_test:
                raise VanError("calibrate fits a temperature without mirror images. Leave out calibrate or flip_test.")
            if predictor.header.export:
                raise VanError(
                    f"calibrate writes a weight file, but {options.weights} is an exported file. Calibrate the weights "
                    "that it was exported from, and export the copy."
                )
            predictor.state["calibrate"] = options.weights

    def open_split(self, options: Any, predictor: "Predictor") -> tuple[Any, list[str]]:
        """Return labeled images: the split asked for, by default what the weights were not trained on."""
        from van.tasks.classification.data import evaluation_split

        return evaluation_split(options, predictor)

    def evaluation(self, predictor: "Predictor", split: Any, workers: int) -> Any:
        """Return what measures a classifier."""
        return predictor.state["target"].evaluation(predictor, split, workers)

    # ------------------------------------------------------------------------------------------------ showing data

    def picture(self, data: Any, sample: Any, size: int) -> "Image":
        """Return the image with its label."""
        import torch
        from torchvision.transforms.v2.functional import to_pil_image

        from van.engine.drawing import draw_note

        image, label = sample
        if image.is_floating_point():  # normalized for the network
            mean, std = (torch.tensor(data.preprocessing[key])[:, None, None] for key in ("mean", "std"))
            image = ((image * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
        picture = to_pil_image(image)
        factor = size / max(picture.size)
        picture = picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))))
        text = data.target.caption(label)
        return draw_note(picture, text)

    def batch_changes(self, options: ClassificationTrainOptions, data: Any) -> Callable[[Any], tuple[Any, Any]] | None:
        """Return mixup, CutMix and erasing; None where there are none."""
        from van.tasks.classification.learner import BatchChanges

        return BatchChanges(options.augmentation, len(data.class_names), data.target.dense) or None

    # ------------------------------------------------------------------------------------------------ checking data

    def find_data(self, options: ClassificationCheckOptions) -> Any:
        """Find labeled images."""
        from van.data.sources import open_data

        return open_data(options.data, options.data_root, options.target)

    def check(self, splits: Any, options: ClassificationCheckOptions) -> "list[Problem]":
        """Look for rows and images that cannot be read, and for classes with too few images."""
        from van.data.sources import check

        return check(splits, options.decode, options.workers)

    def suspects(self, predictor: "Predictor", split: Any, workers: int) -> "Suspects":
        """Return labels that the network contradicts.

        Raises:
            VanError: images do not have one class each.
        """
        if not isinstance(target := predictor.state["target"], SingleLabel):
            raise VanError(f"Only labels of one class for each image can be suspects, but these are {target.kind}.")
        from van.tasks.classification.suspects import find_suspects

        return find_suspects(predictor, split, workers)

    def write_data(self, found: Any, splits: Any, folder: "Path") -> tuple[str, list[str]]:
        """Write class folders, or a CSV file where images do not have one class each."""
        from van.data.fixing import write_class_folders, write_tables
        from van.data.kinds import SINGLE_LABEL

        if any(split.kind is not SINGLE_LABEL for split in splits.values()):
            write_tables(splits, folder)
            return "CSV", []
        write_class_folders(splits, folder)
        return "class folders", []


def _preprocessing(
    name: str, ckpt: "Checkpoint | None", in_chans: int, options: ClassificationTrainOptions
) -> dict[str, Any]:
    """Return timm's data configuration: the checkpoint's own, with what the options ask for.

    Raises:
        VanError: there is no such model, or mean or std do not fit its channels.
    """
    import timm
    import timm.data

    import van.models  # noqa: F401 - registers the models

    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        hint = nearest(name, list(VARIANTS))
        raise VanError(f"There is no model {name!r}, expected one of {', '.join(VARIANTS)}.{hint}")
    known = {**cfg.to_dict(), **{k: v for k, v in (ckpt.preprocessing if ckpt else {}).items() if v is not None}}
    result = timm.data.resolve_data_config(pretrained_cfg=known)
    size = options.image_size or result["input_size"][1:]
    if len(result["mean"]) != in_chans:
        for key in ("mean", "std"):
            result[key] = (sum(result[key]) / len(result[key]),) * in_chans
    for key in ("mean", "std"):
        if values := getattr(options, key):
            if len(values) != in_chans:
                raise VanError(f"{key} is {values}, expected a number for each of the {in_chans} channels of {name}.")
            result[key] = tuple(values)
    asked = {"crop_pct": options.crop_pct, "crop_mode": options.crop_mode}
    return {**result, "input_size": (in_chans, *size), **{key: value for key, value in asked.items() if value}}


TASK = ClassificationTask()
