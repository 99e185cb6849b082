"""What `van train` does for every task: devices, run folder, callbacks, Ctrl-C, the resolved options."""

import json
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.errors import VanError, WeightsError

if TYPE_CHECKING:
    import torch
    from lightning import LightningDataModule

    from van.cli.run_folder import Monitor
    from van.tasks.base import Task


def processes(devices: int | str, precision: Any) -> tuple[int, bool]:
    """Return over how many processes training will run, and whether this is the first of them.

    Args:
        devices: How many devices, or which.
        precision: In Lightning's words.

    Raises:
        VanError: the devices or the precision do not exist here.
    """
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    # what Lightning itself calls that torch has since renamed is nothing that a user could change
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        probe = lightning.Trainer(devices=devices, precision=precision, logger=False, enable_checkpointing=False)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise VanError(f"--devices {devices} with --precision {precision} cannot be had here: {error}") from error
    return probe.world_size, probe.is_global_zero


def check_numbers(epochs: int, batch_size: int, lr: float, world: int) -> None:
    """Refuse numbers that could only fail later.

    Args:
        epochs: Epochs of training.
        batch_size: Samples per step over all devices.
        lr: Highest learning rate.
        world: Processes that share a batch.

    Raises:
        VanError: a number is out of range.
    """
    if epochs < 1 or batch_size < 1:
        raise VanError(f"epochs is {epochs} and batch size {batch_size}, expected at least 1 each.")
    if not lr > 0:
        raise VanError(f"lr is {lr}, expected a number above 0.")
    if batch_size % world:
        raise VanError(f"--batch-size {batch_size} cannot be shared by {world} devices. Give a multiple of {world}.")


def check_classes(num_classes: int | None, class_names: Sequence[str], data: str) -> None:
    """Refuse data with another number of classes than the options say.

    Args:
        num_classes: What the options say; None says nothing.
        class_names: Those of the data.
        data: Its name.

    Raises:
        VanError: the numbers differ.
    """
    if num_classes not in (None, len(class_names)):
        raise VanError(
            f"num_classes is {num_classes}, but {data} has {len(class_names)} classes "
            f"({', '.join(class_names[:5])}, ...). Leave num_classes out, or check the data."
        )


def architecture_of(model: Any) -> str:
    """Return the name of the architecture of model options; saliency has one."""
    return getattr(model, "architecture", "edn")


def network_from(
    build: Callable[[Any, str | None], Any],
    options: Any,
    pretrained: str | None,
    class_names: list[str],
    tasks: Sequence[str],
) -> tuple[Any, str]:
    """Build a network with its first weights: random, those of its backbone, or all of another run's.

    Args:
        build: Makes the network of model options and of the weights of its backbone or None.
        options: Model options; a dataclass with backbone, backbone_args, mean and std.
        pretrained: Weights of the backbone (path or "hub"), or weights of a whole network of these tasks.
        class_names: Classes of the data.
        tasks: Those whose weights are whole networks here.

    Returns:
        The network, and a sentence that says where its weights come from.

    Raises:
        WeightsError: the weights cannot be read or belong to another network.
    """
    from van.models.task_weights import read_task_weights, task_of_weights

    if pretrained is None:
        return build(options, None), "Starting from random weights."
    if pretrained == "hub" or not Path(pretrained).exists() or task_of_weights(pretrained) not in tasks:
        source = "the published weights" if pretrained == "hub" else pretrained
        return build(options, pretrained), f"Fine-tuning: the backbone starts from {source}."
    read = read_task_weights(pretrained)
    known = type(options)(**read.model)
    theirs, ours = ((architecture_of(model), model.backbone) for model in (known, options))
    if theirs != ours:
        raise WeightsError(
            f"{pretrained} is {theirs[0]} with {theirs[1]}, not {ours[0]} with {ours[1]}. Set the options of the "
            "model to those of the weights."
        )
    # what belongs to the weights comes with them
    args = {**{k: v for k, v in known.backbone_args.items() if k == "norm_eps"}, **options.backbone_args}
    options = replace(options, backbone_args=args, mean=options.mean or known.mean, std=options.std or known.std)
    network = build(options, None)
    own = network.state_dict()
    other = [key for key, tensor in own.items() if key not in read.tensors or read.tensors[key].shape != tensor.shape]
    if other and (len(class_names) == len(read.class_names) or len(other) > len(own) // 10):
        key = other[0]
        have = tuple(read.tensors[key].shape) if key in read.tensors else "missing"
        raise WeightsError(
            f"{pretrained} does not fit these model options: {key} is {have} there, expected {tuple(own[key].shape)}. "
            "Take the options of the run that wrote it."
        )
    network.load_state_dict({**own, **{k: v for k, v in read.tensors.items() if k in own and k not in other}})
    kept = read.class_names == class_names
    return network, (
        f"Fine-tuning: starting from the whole network {pretrained}; "
        + ("its classes are kept." if kept else f"{len(other)} tensors for {len(class_names)} classes are new.")
    )


def tensors_of_best(folder: Path) -> "dict[str, torch.Tensor]":
    """Return the network's tensors of the best checkpoint of a run.

    Args:
        folder: Run folder.
    """
    import torch

    state = torch.load(folder / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    return {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}


def resumable_folder(resume: str) -> Path:
    """Return the folder of a run that can be continued.

    Args:
        resume: The folder, or a checkpoint inside.

    Raises:
        VanError: something that is needed is missing.
    """
    folder = Path(resume)
    folder = folder.parent.parent if folder.suffix == ".ckpt" else folder
    for needed in ("config.yaml", "checkpoints/last.ckpt"):
        if not (folder / needed).is_file():
            raise VanError(f"{resume} cannot be resumed: {folder / needed} does not exist. Give a run folder.")
    return folder


def base_config_of(options: Any, built_in: str, recipe: str) -> Path | None:
    """Return the file under the options given: of the run to resume, or the recipe of the built-in data.

    Args:
        options: Parsed options of a task's train.
        built_in: Name of the built-in data.
        recipe: Its recipe.

    Raises:
        VanError: --output stands beside --resume.
    """
    from van.cli.recipes import find_recipe

    if options.resume is not None:
        if options.output is not None:
            raise VanError("--resume goes on in the folder of the run, --output cannot be given beside it.")
        return resumable_folder(options.resume) / "config.yaml"
    if options.config is None and options.data == built_in:
        return find_recipe(recipe)
    return None


def write_config(folder: Path, options: dict[str, Any]) -> None:
    """Write the resolved options, in the form that --config reads.

    Args:
        folder: Run folder.
        options: By name; dataclasses become mappings.
    """
    import yaml

    plain = json.loads(json.dumps(options, default=asdict))  # tuples become lists
    (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")


def fit(
    learner: "Task",
    data: "LightningDataModule",
    folder: Path,
    monitor: "Monitor",
    *,
    steps: int,
    precision: Any,
    devices: int | str,
    resume: bool,
    use_distributed_sampler: bool = True,
) -> bool:
    """Train with checkpoints, a table of the epochs, TensorBoard and a progress bar.

    Args:
        learner: The task.
        data: Its data.
        folder: Run folder.
        monitor: The figure that picks the best epoch, and the columns of metrics.csv.
        steps: Steps per epoch and process.
        precision: In Lightning's words.
        devices: How many devices, or which.
        resume: Whether to go on from the last checkpoint of the folder.
        use_distributed_sampler: False where the data shares itself among processes.

    Returns:
        Whether training came to its end; False after Ctrl-C, of which it tells the user.
    """
    import lightning
    from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, TQDMProgressBar
    from lightning.pytorch.loggers import TensorBoardLogger

    from van.cli.run_folder import EpochTable, MovableCheckpoint, SafeCheckpointIO, describe_epochs

    options = learner.optimization
    # no version counter: a resumed run must not leave a last-v1.ckpt beside an old last.ckpt
    saving: dict[str, Any] = {"enable_version_counter": False, "save_on_train_epoch_end": True}
    callbacks: list[Callback] = [
        MovableCheckpoint(folder / "checkpoints", "best", monitor=monitor.key, mode="max", **saving),
        MovableCheckpoint(folder / "checkpoints", "last", **saving),  # save_last would follow the best epochs only
        EpochTable(folder / "metrics.csv", monitor.columns),
        TQDMProgressBar(refresh_rate=max(1, steps // 50)),
    ]
    if options.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=options.ema_decay))
    trainer = lightning.Trainer(
        devices=devices,
        precision=precision,
        max_epochs=learner.epochs + options.cooldown_epochs,
        callbacks=callbacks,
        plugins=[SafeCheckpointIO()],
        logger=TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False),
        gradient_clip_val=options.clip_grad,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        log_every_n_steps=1,
        use_distributed_sampler=use_distributed_sampler,
    )
    try:
        trainer.fit(learner, datamodule=data, ckpt_path=folder / "checkpoints" / "last.ckpt" if resume else None)
    except SystemExit:  # Lightning's answer to Ctrl-C
        if trainer.is_global_zero:
            print(f"\nStopped. {describe_epochs(folder, monitor)}")
        return False
    except VanError:
        print(file=sys.stderr)  # end the line of the progress bar
        raise
    return True
