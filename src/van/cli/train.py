"""`van train`: train a classifier and leave a run folder."""

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from van.data.augmentation import Augmentation
from van.errors import VanError
from van.tasks.optimization import Optimization

if TYPE_CHECKING:
    from torch import nn

    from van.models import VAN, Checkpoint

DIGITS_RECIPE = "classification/van_b0_digits"


def base_config(options: Any) -> Path | None:
    """Return the file under the options given: of the run to resume, or of the digits."""
    from van.cli.recipes import find_recipe

    if options.resume is not None:
        if options.output is not None:
            raise VanError("--resume goes on in the folder of the run, --output cannot be given beside it.")
        return _run_folder(options.resume) / "config.yaml"
    if options.config is None and options.data == "digits":
        return find_recipe(DIGITS_RECIPE)
    return None


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
    optimization: Optimization = Optimization(),  # noqa: B008 - the options and their defaults
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
        task: What the model learns.
        data: digits, a folder of class folders (with train and val folders or without), a .tar file, a folder of
            WebDataset shards, torch/NAME (torchvision) or hfds/NAME (Hugging Face).
        data_root: Where torch/NAME and hfds/NAME are stored.
        model: van_b0 to van_b6; by default that of the pre-trained file, else van_b0.
        model_args: More arguments of the model, such as drop_path_rate, kernel_size, lka_variant or in_chans.
        pretrained: Start from weights: a file of any known layout, or "hub" for the published ones.
        num_classes: Number of classes, where it should be checked against the data.
        image_size: Height and width of the images that the model sees; by default the model's own.
        crop_pct: Share of the resized image that validation keeps; by default the model's own.
        epochs: Epochs of the cosine schedule, warm-up included.
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
    import logging

    import lightning
    import torch
    from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
    from lightning.pytorch.loggers import TensorBoardLogger

    from van.cli.run_folder import EpochTable, SafeCheckpointIO, describe_epochs, run_folder, write_results
    from van.data.classification import ClassificationData
    from van.models import read_checkpoint
    from van.tasks.classification import ClassificationTask

    # what Lightning itself calls that torch has since renamed is nothing that a user could change
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    _check_numbers(epochs=epochs, batch_size=batch_size, lr=lr, val_fraction=val_fraction)
    world, leads = _processes(devices, precision)
    if batch_size % world:
        raise VanError(f"--batch-size {batch_size} cannot be shared by {world} devices. Give a multiple of {world}.")

    ckpt = None if pretrained in (None, "hub") else read_checkpoint(pretrained)
    name = model or (ckpt.variant if ckpt else None) or "van_b0"
    args = {**({"in_chans": ckpt.in_chans, **ckpt.model_args} if ckpt else {}), **(model_args or {})}
    preprocessing = _preprocessing(name, ckpt, args.get("in_chans", 3), image_size, crop_pct)
    lightning.seed_everything(seed, workers=True, verbose=False)
    images = ClassificationData(
        data, data_root, preprocessing, augmentation, batch_size // world, val_fraction, seed, workers
    )
    if num_classes not in (None, len(images.class_names)):
        raise VanError(
            f"num_classes is {num_classes}, but {data} has {len(images.class_names)} classes "
            f"({', '.join(images.class_names[:5])}, ...). Leave num_classes out, or check the data."
        )
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

    folder = _run_folder(resume) if resume else run_folder(output, f"{name}-{Path(data).name or 'data'}")
    if leads:
        _write_config(folder, {**options, "model": name, "output": str(folder), "resume": None})
        print(f"{name} on {data}: {len(images.train)} training and {len(images.val)} validation images, ", end="")
        print(f"{len(images.class_names)} classes, {' x '.join(map(str, preprocessing['input_size'][1:]))} pixels.")
        print("\n".join([f"Continuing {folder}." if resume else start, *(f"Note: {note}" for note in images.notes)]))
        print(f"Run folder: {folder}")

    # no version counter: a resumed run must not leave a last-v1.ckpt beside an old last.ckpt
    saving: dict[str, Any] = {"enable_version_counter": False, "save_on_train_epoch_end": True}
    callbacks: list[Callback] = [
        ModelCheckpoint(folder / "checkpoints", "best", monitor="val_top1", mode="max", **saving),
        ModelCheckpoint(folder / "checkpoints", "last", **saving),  # save_last would follow the best epochs only
        EpochTable(folder / "metrics.csv"),
        TQDMProgressBar(refresh_rate=max(1, steps // 50)),
    ]
    if optimization.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=optimization.ema_decay))
    trainer = lightning.Trainer(
        devices=devices,
        precision=precision,
        max_epochs=epochs + optimization.cooldown_epochs,
        callbacks=callbacks,
        plugins=[SafeCheckpointIO()],
        logger=TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False),
        gradient_clip_val=optimization.clip_grad,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    try:
        trainer.fit(learner, datamodule=images, ckpt_path=folder / "checkpoints" / "last.ckpt" if resume else None)
    except SystemExit:  # Lightning's answer to Ctrl-C
        if leads:
            print(f"\nStopped. {describe_epochs(folder)}")
        return 130
    except VanError:
        print(file=sys.stderr)  # end the line of the progress bar
        raise
    if trainer.is_global_zero:
        write_results(folder, images, name, args, f"{name} on {data}")
    return 0


def _processes(devices: int | str, precision: Any) -> tuple[int, bool]:
    """Return over how many processes training will run, and whether this is the first of them.

    Raises:
        VanError: the devices or the precision do not exist here.
    """
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        probe = lightning.Trainer(devices=devices, precision=precision, logger=False, enable_checkpointing=False)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise VanError(f"--devices {devices} with --precision {precision} cannot be had here: {error}") from error
    return probe.world_size, probe.is_global_zero


def _check_numbers(epochs: int, batch_size: int, lr: float, val_fraction: float) -> None:
    """Refuse numbers that could only fail later."""
    if epochs < 1 or batch_size < 1:
        raise VanError(f"epochs is {epochs} and batch size {batch_size}, expected at least 1 each.")
    if not lr > 0:
        raise VanError(f"lr is {lr}, expected a number above 0.")
    if not 0 < val_fraction < 1:
        raise VanError(f"val_fraction is {val_fraction}, expected a number between 0 and 1.")


def _run_folder(resume: str) -> Path:
    """Return the folder of a run that can be continued."""
    folder = Path(resume)
    folder = folder.parent.parent if folder.suffix == ".ckpt" else folder
    for needed in ("config.yaml", "checkpoints/last.ckpt"):
        if not (folder / needed).is_file():
            raise VanError(f"{resume} cannot be resumed: {folder / needed} does not exist. Give a run folder.")
    return folder


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


def _write_config(folder: Path, options: dict[str, Any]) -> None:
    """Write the resolved options, in the form that --config reads."""
    import yaml

    plain = json.loads(json.dumps(options, default=asdict))  # dataclasses become mappings, tuples lists
    (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")


def model_of_recipe(path: str) -> tuple["nn.Module", tuple[int, int, int], str]:
    """Build the network of a training recipe without its weights.

    Returns:
        The network on the meta device, the size (C, H, W) of its images, and its name.

    Raises:
        VanError: there is no such recipe, or it does not say how many classes there are.
    """
    from van.cli import command_parser
    from van.cli.recipes import find_recipe
    from van.models import create_model

    parser, _ = command_parser("train")
    options = parser.parse_args(["--config", str(find_recipe(path))])
    args = dict(options.model_args or {})
    name = options.model or "van_b0"
    size = _preprocessing(name, None, args.get("in_chans", 3), options.image_size, None)["input_size"]
    if options.num_classes is None:
        raise VanError(f"{path} does not say num_classes, on which the size of the model depends. Add it.")
    return create_model(name, num_classes=options.num_classes, device="meta", **args), size, name
