"""`van train --task classification`: train a classifier and leave a run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from van.cli.train.fitting import (
    base_config_of,
    check_classes,
    check_numbers,
    fit,
    processes,
    resumable_folder,
    write_config,
)
from van.data.augmentation import Augmentation
from van.errors import VanError
from van.tasks.optimization import ClassificationOptimization

if TYPE_CHECKING:
    from torch import nn

    from van.models import VAN, Checkpoint

DIGITS_RECIPE = "classification/van_b0_digits"


def base_config(options: Any) -> Path | None:
    """Return the file under the options given: of the run to resume, or of the digits."""
    return base_config_of(options, "digits", DIGITS_RECIPE)


def train(
    *,
    task: Literal["classification"] = "classification",
    data: str = "digits",
    data_root: str | None = None,
    model: str | None = None,
    model_args: dict[str, Any] | None = None,
    pretrained: str | None = None,
    num_classes: int | None = None,
    image_size: tuple[int, int] | None = None,
    crop_pct: float | None = None,
    epochs: int = 30,
    batch_size: int = 64,
    lr: float = 5e-4,
    optimization: ClassificationOptimization = ClassificationOptimization(),  # noqa: B008 - the options and their defaults
    augmentation: Augmentation = Augmentation(),  # noqa: B008
    val_fraction: float = 0.2,
    check_data: bool = False,
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"] = "32-true",
    devices: int | str = "auto",
    workers: int | None = None,
    seed: int = 0,
    output: str | None = None,
    resume: str | None = None,
) -> int:
    """Train a model; without options VAN-B0 on the handwritten digits that come with scikit-learn.

    Args:
        task: What the model learns: classification, detection, instances or pose; others have other options, which
            van train --task TASK --help shows.
        data: digits, a folder of class folders (with train and val folders or without), a .tar file, a folder of
            WebDataset shards, torch/NAME (torchvision) or hfds/NAME (Hugging Face).
        data_root: Where torch/NAME and hfds/NAME are stored.
        model: van_b0 to van_b6; by default that of the pre-trained file, else van_b0.
        model_args: More arguments of the model, such as drop_path_rate, kernel_size, lka_variant or in_chans.
        pretrained: Start from weights: a file of any known layout, or "hub" for the published ones.
        num_classes: Number of classes, where it should be checked against the data.
        image_size: Height and width of the images that the model sees; by default the model's own.
        crop_pct: Share of the resized image that validation keeps; by default the model's own.
        epochs: Epochs of the schedule, warm-up included.
        batch_size: Images per step, over all devices.
        lr: Highest learning rate.
        optimization: Optimiser and schedule.
        augmentation: Random changes of the training images.
        val_fraction: Share of the images that becomes the validation part where the data has none.
        check_data: Decode every image before the first epoch.
        precision: Numbers that the network computes with, in Lightning's words.
        devices: How many devices, or which; auto takes what there is.
        workers: Processes that load images; by default one per processor, at most 8.
        seed: The same seed gives the same split and, on one machine, the same run.
        output: Run folder; by default runs/MODEL-DATA, numbered.
        resume: Run folder to continue; its own options stay, what is given beside them wins.
    """
    options = dict(locals())
    import lightning
    import torch

    from van.cli.run_folder import TOP1, run_folder, write_results
    from van.data.classification import ClassificationData
    from van.models import read_checkpoint
    from van.tasks.classification import ClassificationTask

    world, leads = processes(devices, precision)
    check_numbers(epochs, batch_size, lr, world)
    if not 0 < val_fraction < 1:
        raise VanError(f"val_fraction is {val_fraction}, expected a number between 0 and 1.")

    ckpt = None if pretrained in (None, "hub") else read_checkpoint(pretrained)
    name = model or (ckpt.variant if ckpt else None) or "van_b0"
    args = {**({"in_chans": ckpt.in_chans, **ckpt.model_args} if ckpt else {}), **(model_args or {})}
    preprocessing = _preprocessing(name, ckpt, args.get("in_chans", 3), image_size, crop_pct)
    lightning.seed_everything(seed, workers=True, verbose=False)
    images = ClassificationData(
        data, data_root, preprocessing, augmentation, batch_size // world, val_fraction, seed, workers
    )
    check_classes(num_classes, images.class_names, data)
    network, start = _build(name, pretrained, ckpt, images.class_names, args)
    # published weights bring their own
    args["norm_eps"] = cast("nn.LayerNorm", network.get_submodule("stages.0.norm")).eps
    if check_data and leads:
        images.check()
    steps = -(-len(images.train_dataloader()) // world)
    learner = ClassificationTask(
        network.to(memory_format=torch.channels_last),
        len(images.class_names),
        lr,
        epochs,
        steps,
        optimization,
        augmentation.mixup,
        augmentation.cutmix,
    )
    learner.configure_optimizers()  # an unknown optimiser should show before anything is written

    folder = resumable_folder(resume) if resume else run_folder(output, f"{name}-{Path(data).name or 'data'}")
    if leads:
        write_config(folder, {**options, "model": name, "output": str(folder), "resume": None})
        print(f"{name} on {data}: {len(images.train)} training and {len(images.val)} validation images, ", end="")
        print(f"{len(images.class_names)} classes, {' x '.join(map(str, preprocessing['input_size'][1:]))} pixels.")
        print("\n".join([f"Continuing {folder}." if resume else start, *(f"Note: {note}" for note in images.notes)]))
        print(f"Run folder: {folder}")

    if not fit(learner, images, folder, TOP1, steps=steps, precision=precision, devices=devices, resume=bool(resume)):
        return 130
    if leads:
        write_results(folder, images, name, args, f"{name} on {data}")
    return 0


def _preprocessing(
    name: str, ckpt: "Checkpoint | None", in_chans: int, image_size: Any, crop_pct: float | None
) -> dict[str, Any]:
    """Return timm's data configuration: the checkpoint's own, with the size that was asked for."""
    import timm
    import timm.data

    import van.models  # noqa: F401 - registers the models

    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        from van.models.variants import VARIANTS

        raise VanError(f"There is no model {name!r}, expected one of {', '.join(VARIANTS)}.")
    known = {**cfg.to_dict(), **{k: v for k, v in (ckpt.preprocessing if ckpt else {}).items() if v is not None}}
    result = timm.data.resolve_data_config(pretrained_cfg=known)
    size = image_size or result["input_size"][1:]
    if len(size) != 2 or min(size) < 1:
        raise VanError(f"image_size is {size}, expected a height and a width of at least 1.")
    if len(result["mean"]) != in_chans:
        for key in ("mean", "std"):
            result[key] = (sum(result[key]) / len(result[key]),) * in_chans
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise VanError(f"crop_pct is {crop_pct}, expected a number above 0 and at most 1.")
    return {**result, "input_size": (in_chans, *size), "crop_pct": crop_pct or result["crop_pct"]}


def _build(
    name: str, pretrained: str | None, ckpt: "Checkpoint | None", class_names: list[str], args: dict[str, Any]
) -> tuple["VAN", str]:
    """Build the network with its first weights, and say what these are."""
    from van.models import create_model
    from van.models.factory import model_from_checkpoint

    classes = len(class_names)
    try:
        if pretrained is None:
            return create_model(name, num_classes=classes, **args), "Starting from random weights."
        if ckpt is None:
            return create_model(name, pretrained=True, num_classes=classes, **args), (
                f"Fine-tuning: starting from the published weights of {name}; "
                f"the classifier is {'kept' if classes == 1000 else 'new'} ({classes} classes)."
            )
        network = model_from_checkpoint(ckpt, name, classes, **args)
    except (TypeError, ValueError) as error:
        raise VanError(f"model_args {args} do not fit {name}: {error}") from error
    kept = ckpt.num_classes == classes and ckpt.class_names in (None, class_names)
    if not kept:
        network.reset_classifier(classes)
    return network, (
        f"Fine-tuning: starting from {pretrained} ({ckpt.describe()}); "
        f"the classifier is {'kept' if kept else f'new ({classes} classes)'}."
    )


def model_of_recipe(path: Path) -> tuple["nn.Module", tuple[int, int, int], str]:
    """Build the network of a training recipe without its weights.

    Returns:
        The network on the meta device, the size (C, H, W) of its images, and its name.

    Raises:
        VanError: there is no such recipe, or it does not say how many classes there are.
    """
    from van.cli import command_parser
    from van.models import create_model

    arguments = ["--config", str(path)]
    options = command_parser("train", arguments)[0].parse_args(arguments)
    args = dict(options.model_args or {})
    name = options.model or "van_b0"
    size = _preprocessing(name, None, args.get("in_chans", 3), options.image_size, None)["input_size"]
    if options.num_classes is None:
        raise VanError(f"{path} does not say num_classes, on which the size of the model depends. Add it.")
    return create_model(name, num_classes=options.num_classes, device="meta", **args), size, name
