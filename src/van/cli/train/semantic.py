"""`van train --task semantic`: train a semantic segmentation network and leave a run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from van.cli.train.fitting import base_config_of
from van.cli.train.pixels import Kind, recipe_network, train_pixels
from van.data.detection import SHAPES
from van.data.pixel_transforms import SemanticAugmentation
from van.data.pixels import SemanticFormat
from van.inference.pixels import PixelInference
from van.networks.options import NetworkOptions
from van.networks.segmentation.options import SemanticFPNOptions
from van.tasks.optimization import Optimization

if TYPE_CHECKING:
    from van.data.pixels import PixelData

SHAPES_RECIPE = "semantic/fpn_van_b0_shapes"


def base_config(options: Any) -> Path | None:
    """Return the file under the options given: of the run to resume, or of the shapes."""
    return base_config_of(options, SHAPES, SHAPES_RECIPE)


def train(
    *,
    task: Literal["semantic"] = "semantic",
    data: str = SHAPES,
    data_root: str | None = None,
    format: SemanticFormat = SemanticFormat(),  # noqa: B008 - the options and their defaults
    model: NetworkOptions = SemanticFPNOptions(),  # noqa: B008
    pretrained: str | None = None,
    num_classes: int | None = None,
    epochs: int = 50,
    iterations: int | None = None,
    validate_every: int | None = None,
    batch_size: int = 16,
    lr: float = 1e-4,
    optimization: Optimization = Optimization(),  # noqa: B008
    augmentation: SemanticAugmentation = SemanticAugmentation(),  # noqa: B008
    inference: PixelInference = PixelInference(size=(512, 2048)),  # noqa: B008
    on_problem: Literal["refuse", "skip"] = "refuse",
    check_data: bool = False,
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true",
    devices: int | str = "auto",
    workers: int | None = None,
    seed: int = 0,
    output: str | None = None,
    resume: str | None = None,
) -> int:
    """Train a network that says of every pixel to which class it belongs; without options on the built-in shapes.

    Args:
        task: semantic.
        data: shapes (built in), or a folder: ADE20K's layout, or images with masks and a class file.
        data_root: Where shapes is stored; by default the folder data.
        format: How the files of the data are meant.
        model: Architecture, backbone, sizes.
        pretrained: Start from weights: of the backbone (a file of any known layout, or "hub" for the published ones),
            or of a whole network (weight file or run folder); its layers for other classes are new.
        num_classes: Number of classes, where it should be checked against the data.
        epochs: Epochs of the schedule, warm-up included.
        iterations: Length in optimiser steps, in place of epochs; an epoch is then what lies between two validations.
        validate_every: Steps between two validations, of which iterations must be a multiple; by default a tenth of
            them where that is a whole number, else all.
        batch_size: Images per step, over all devices.
        lr: Highest learning rate.
        optimization: Optimiser and schedule.
        augmentation: Random changes of the training images.
        inference: How validation images are looked at, which the weight file keeps.
        on_problem: What to do with images and masks that cannot be used: refuse to train, or skip them.
        check_data: Decode every image before the first epoch; masks are decoded in any case.
        precision: Numbers that the network computes with, in Lightning's words.
        devices: How many devices, or which; auto takes what there is.
        workers: Processes that load images; by default one per processor, at most 8.
        seed: The same seed gives, on one machine, the same run.
        output: Run folder; by default runs/ARCHITECTURE-BACKBONE-DATA, numbered.
        resume: Run folder to continue; its own options stay, what is given beside them wins.
    """
    options = dict(locals())
    from van.data.pixels import semantic_data

    def load() -> "PixelData":
        return semantic_data(data, data_root, format, augmentation, on_problem, check_data, workers)

    return train_pixels(_kind(), options, load)


def _kind() -> Kind:
    from functools import partial

    from van.analysis.semantic_measures import FIGURES, SemanticEvaluator
    from van.cli.evaluate.semantic import measure
    from van.inference.pixels import label_maps

    return Kind(
        "semantic",
        FIGURES,
        {"mIoU": "mIoU", "mAcc": "mean accuracy", "aAcc": "accuracy of all pixels"},
        lambda images: SemanticEvaluator(images.class_names),
        lambda inference, images: partial(label_maps, options=inference),
        _build,
        measure,
    )


def _build(options: NetworkOptions, class_names: Sequence[str], pretrained: str | None, device: str | None) -> Any:
    return options.build(len(class_names), pretrained, device)


def model_of_recipe(path: Path) -> tuple[Any, tuple[int, int, int], str]:
    """Build the network of a training recipe without its weights; see recipe_network."""
    return recipe_network(_kind(), path)
