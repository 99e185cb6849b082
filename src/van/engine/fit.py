"""Training, for every task: data, network, callbacks, Ctrl-C, and everything that a run folder holds."""

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.data.processes import loading_errors
from van.engine.loggers import RunLoggers, where
from van.engine.metric import Metric
from van.engine.options import TrainOptions
from van.engine.run import (
    CONFIG,
    DESCRIPTION,
    WEIGHTS,
    Run,
    best_epoch,
    check_output,
    compare,
    describe_epochs,
    describe_run,
    locked,
    never_moved,
    new_folder,
    read_checkpoint,
    read_epochs,
    resumable,
    run_folder,
    write_config,
)
from van.errors import DataError, VanError
from van.files import write_checksums, write_text
from van.ops.allocator import keep_freed_memory

if TYPE_CHECKING:
    from van.engine.data import DataModule
    from van.engine.learner import Learner
    from van.engine.task import Task

_VALIDATIONS = 10  # of a run whose length is given in steps


def length(options: Any) -> tuple[int, int | None]:
    """Return how many epochs there are and how many steps each has; None for those of a pass over the data.

    Where the length is given in steps, an epoch is what lies between two validations.

    Args:
        options: Of training; those of some tasks have iterations and validate_every.

    Raises:
        VanError: numbers are out of range or do not go together.
    """
    iterations, every = getattr(options, "iterations", None), getattr(options, "validate_every", None)
    if iterations is None:
        if every is not None:
            raise VanError("validate_every needs iterations; without them every epoch is validated. Leave it out.")
        return options.epochs, None
    if iterations < 1 or (every is not None and every < 1):
        raise VanError(f"iterations is {iterations} and validate_every {every}, expected at least 1 each.")
    every = every or (iterations // _VALIDATIONS if iterations % _VALIDATIONS == 0 else iterations)
    if iterations % every:
        raise VanError(f"iterations is {iterations}, expected a multiple of validate_every, which is {every}.")
    return iterations // every, every


def check_devices(options: TrainOptions) -> tuple[int, bool]:
    """Return over how many processes training will run, and whether this is the first of them.

    Raises:
        VanError: devices or precision are not available, or cannot share the batch.
    """
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    # what Lightning itself calls that torch has since renamed is nothing that a user could change
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # they are: see DataModule.train_dataloader
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")  # frozen ones
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    given: Any = {"accelerator": options.device, "devices": options.devices, "precision": options.precision}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning replaces 16-mixed on the CPU, which is refused below
            probe = lightning.Trainer(**given, logger=False, enable_checkpointing=False)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise VanError(
            f"--device {options.device} with --devices {options.devices} and --precision {options.precision} is not "
            f"available on this machine: {error}"
        ) from error
    if options.batch_size % probe.world_size:
        raise VanError(
            f"--batch-size {options.batch_size} cannot be shared by {probe.world_size} devices. Give a multiple of "
            f"{probe.world_size}."
        )
    if options.precision == "16-mixed" and probe.strategy.root_device.type == "cpu":
        raise VanError("--precision 16-mixed is not available on the CPU. Use bf16-mixed or 32-true.")
    environment = getattr(probe.strategy, "cluster_environment", None)
    if environment and environment.creates_processes_externally and not (options.output or options.resume):
        raise VanError(
            "Give --output: torchrun or SLURM starts the processes here, and all need to know the run folder."
        )
    if options.sync_batchnorm and probe.world_size > 1 and probe.strategy.root_device.type == "cpu":
        raise VanError("sync_batchnorm is not available on the CPU. Leave it out, or train on one process or on GPUs.")
    if probe.strategy.root_device.type == "cpu":
        keep_freed_memory()
    return probe.world_size, probe.is_global_zero


@dataclass(frozen=True)
class Prepared:
    """What training needs besides its options.

    Attributes:
        data: Training and validation data.
        learner: The network with its loss and schedule.
        start: A sentence that says where its first weights come from.
        steps: Steps of an epoch.
    """

    data: "DataModule"
    learner: "Learner"
    start: str
    steps: int


def prepare(task: "Task", options: Any, world: int) -> Prepared:
    """Return data, network and loss of a training; nothing is written.

    Args:
        task: What is trained.
        options: Of training.
        world: How many processes train together.

    Raises:
        VanError: options, data or weights cannot be used.
    """
    import lightning
    import torch

    epochs, each = length(options)
    lightning.seed_everything(options.seed, workers=True, verbose=False)
    data = task.data(options, world)
    expected = getattr(options, "num_classes", None)
    if expected not in (None, len(data.class_names)):
        raise DataError(
            f"num_classes is {expected}, but {options.data} has {len(data.class_names)} classes "
            f"({', '.join(data.class_names[:5])}, ...). Leave num_classes out, or check the data."
        )
    if data.unmixed_epochs >= epochs:
        raise VanError(
            f"augmentation.unmixed_epochs is {data.unmixed_epochs}, expected less than the {epochs} epochs of training."
        )
    if options.sampling:
        data.resample(options.sampling, options.repeat_threshold)
    network, start = task.build(options, data)
    network = network.to(memory_format=torch.channels_last)
    steps = options.steps(data.steps(world))
    if options.sync_batchnorm and world == 1:
        data.notes.append("sync_batchnorm has no effect on one device.")
    learner = task.learner(network, options, data).plan(epochs, steps, each is not None)
    _weigh_classes(options, data, learner)
    learner.configure_optimizers()  # an unknown optimizer should show before anything is written
    learner.identity = {
        "class_names": data.class_names,
        "model": task.header(network, options, data).model,
        "optimizer": options.optimization.optimizer,
        "fingerprint": data.fingerprint(),
        "batch_size": options.batch_size,
        "accumulate": options.accumulate,
        "seed": options.seed,
        "sampling": [options.sampling, options.repeat_threshold],
    }
    return Prepared(data, learner, start, steps)


@loading_errors()
def train(task: "Task", options: Any) -> Run:
    """Train a network, and write a run folder with its best weights.

    Args:
        task: What is trained.
        options: Of training: an instance of task.train_options.

    Returns:
        The run; not finished after Ctrl-C.

    Raises:
        VanError: options, data or weights cannot be used. Nothing has been written then.
    """
    options.check()
    epochs, each = length(options)
    restarted = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    if restarted and options.output and (Path(options.output) / CONFIG).is_file():
        options.resume = options.output  # the command of a job that SLURM has queued again
    if not options.resume:
        check_output(options.output)
    from van.data.skipping import SKIPPED, append_left_out

    world, leads = check_devices(options)
    prepared = prepare(task, options, world)
    data, learner, start, steps = prepared.data, prepared.learner, prepared.start, prepared.steps
    identity = learner.identity
    if options.resume:
        folder = run_folder(options.resume)
        checkpoint, notes = resumable(options.resume)
        data.notes = [*notes, *([f"Continuing from {checkpoint}."] if notes else []), *data.notes]
        _check_resume(checkpoint, identity, folder)
    else:
        name = f"{task.run_name(options)}-{Path(options.data).name or 'data'}"
        folder, checkpoint = new_folder(options.output, name), None
    with locked(folder) if leads else nullcontext():
        if leads:
            append_left_out(folder / SKIPPED, data.notes)
            if not options.quiet:
                _introduce(task, options, data, folder, start, epochs, steps, each)
        if options.on_bad_image == "skip":
            data.skip_bad_images(folder / SKIPPED)
        shown = run_options(task, options, folder, each)
        with RunLoggers(options.logger if leads else (), folder, shown, bool(options.resume)) as logs:
            finished = _fit(task, options, learner, data, folder, checkpoint, epochs, steps, each, leads, logs.loggers)
            if leads:
                report_skipped(folder / SKIPPED, options.quiet)
            if finished and leads:
                plots = _write_results(task, options, learner, data, folder, each)
                logs.pictures([folder / name for name in plots], epochs * steps)
            logs.finished = finished
        if not finished:
            return _run(learner.metrics[0], folder, finished=False)
    return _run(learner.metrics[0], folder)


def _weigh_classes(options: Any, data: "DataModule", learner: "Learner") -> None:
    """Give the loss weights of classes and gamma where they are asked for, and note the weights."""
    from van.data.balance import class_weights

    asked = [name for name in ("class_weights", "focal_gamma") if getattr(options, name) is not None]
    if not asked:
        return
    losses, weights = learner.class_losses(asked[0]), None
    if options.class_weights is not None:
        weights = class_weights(options.class_weights, data.class_names, data.contents).tolist()
        ends = (f"{value:.3g} ({data.class_names[weights.index(value)]})" for value in (min(weights), max(weights)))
        data.notes.append(f"class weights from {' to '.join(ends)}.")
    for loss in losses:
        loss.use(weights, options.focal_gamma or 0.0)


def _check_resume(checkpoint: Path, identity: dict[str, Any], folder: Path) -> None:
    """Refuse to continue from a checkpoint of another network, other data, or another division into steps."""
    content = read_checkpoint(checkpoint)
    saved = dict(content.get("identity", {}))
    saved.setdefault("sampling", [None, None])  # of versions that had no other
    progress = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    if progress["is_last_batch"] or not progress["current"]["ready"]:
        # the samples of an epoch that goes on follow from these
        for key in ("batch_size", "accumulate", "seed", "sampling"):
            saved.pop(key, None)
    compare(saved, identity, folder)


def _write_description(task: "Task", options: Any, fingerprint: str, folder: Path, each: int | None) -> None:
    """Write the options of a run, and what else made it; at the start, when everything was loaded."""
    write_config(folder, run_options(task, options, folder, each))
    about = describe_run(sys.argv, seed=options.seed, data=options.data, fingerprint=fingerprint)
    write_text(folder / DESCRIPTION, json.dumps(about, indent=2) + "\n")


def run_options(task: "Task", options: Any, folder: Path, each: int | None = None) -> dict[str, Any]:
    """Return the options of a run as its config.yaml holds them."""
    from van.engine.parsing import to_mapping

    content = {"task": task.name, **to_mapping(options), "output": str(folder), "resume": None}
    return content | ({"validate_every": each} if each is not None else {})


def _run(metric: Metric, folder: Path, finished: bool = True) -> Run:
    rows = read_epochs(folder / "metrics.csv")
    metrics = {}
    if rows:
        best = best_epoch(rows, metric)
        metrics = {key.removeprefix("val_"): value for key, value in best.items() if key.startswith("val_")}
    return Run(folder, metrics, finished)


def _introduce(
    task: "Task", options: Any, data: "DataModule", folder: Path, start: str, epochs: int, steps: int, each: int | None
) -> None:
    about = f", {data.described}" if data.described else ""
    print(
        f"{task.title(options)} on {options.data}: {len(data.train)} training and {len(data.val)} validation "
        f"{task.unit}{about}."
    )
    if each is not None:
        print(f"{epochs * steps} steps of {options.effective_batch} {task.unit}, validated every {steps} steps.")
    for line in options.remarks(task.unit):
        print(line)
    for line in [f"Resuming {folder}." if options.resume else start, *(f"Note: {note}" for note in data.notes)]:
        print(line)
    print(f"Run folder: {folder}", flush=True)


def _fit(
    task: "Task",
    options: Any,
    learner: "Learner",
    data: "DataModule",
    folder: Path,
    checkpoint: Path | None,
    epochs: int,
    steps: int,
    each: int | None,
    leads: bool,
    loggers: list[Any],
) -> bool:
    """Train with checkpoints, a table of the epochs and loggers; return False where a signal has stopped it."""
    import lightning
    import torch
    from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback
    from lightning.pytorch.callbacks.callback import Callback
    from lightning.pytorch.plugins.environments import SLURMEnvironment
    from lightning.pytorch.utilities.model_summary import summarize

    from van.engine.callbacks import (
        AtomicCheckpointIO,
        AveragedWeights,
        Checkpoints,
        EpochTable,
        LastCheckpoint,
        LoadingTime,
        Progress,
        StepLog,
    )
    from van.engine.guard import Guard, Stopped, StopSignals

    signals = StopSignals()
    metric, optimization = learner.metrics[0], options.optimization
    terminal = sys.stdout.isatty() and not options.quiet
    lines = "none" if terminal or options.quiet else "short"
    columns = ["train_loss", *learner.columns, *(f"val_{m.key}" for m in learner.metrics)]
    columns += ["iteration"] if learner.by_steps else []
    callbacks: list[Callback] = [Progress(refresh_rate=max(1, steps // 50))] if terminal else []
    callbacks += [
        Guard(folder, metric.key),
        Checkpoints(folder / "checkpoints", metric),
        LastCheckpoint(folder / "checkpoints", options.checkpoint_minutes, signals),
        EpochTable(folder / "metrics.csv", columns, metric, "all" if options.verbose else lines),
    ]
    if leads:
        fingerprint = learner.identity["fingerprint"]
        callbacks.append(
            LambdaCallback(on_train_start=lambda *_: _write_description(task, options, fingerprint, folder, each))
        )
    if loggers:
        callbacks.append(StepLog())
    if not options.quiet:
        callbacks.append(LoadingTime(options.batch_size, data.workers, task.unit))
    if options.verbose and leads:
        print(summarize(learner, max_depth=3))
    if optimization.ema_decay is not None:
        callbacks.append(AveragedWeights(optimization.ema_decay))
    if options.early_stopping is not None:
        mode = "max" if metric.higher_is_better else "min"
        callbacks.append(EarlyStopping(f"val_{metric.key}", patience=options.early_stopping, mode=mode))
    plugins: list[Any] = [AtomicCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # StopSignals does it, with a checkpoint in the run folder
    trainer = lightning.Trainer(
        accelerator=options.device,
        devices=options.devices,
        precision=options.precision,
        max_epochs=epochs + optimization.cooldown_epochs,
        callbacks=callbacks,
        plugins=plugins,
        logger=loggers,
        gradient_clip_val=optimization.clip_grad,
        accumulate_grad_batches=options.accumulate,
        sync_batchnorm=options.sync_batchnorm,
        limit_train_batches=options.limit_batches if options.accumulate == 1 else steps * options.accumulate,
        limit_val_batches=options.limit_batches,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=terminal,
        log_every_n_steps=1,
        use_distributed_sampler=False,  # the data module shares the samples
    )
    try:
        with signals.handled():
            trainer.fit(learner, datamodule=data, ckpt_path=checkpoint)
    except (Stopped, SystemExit):  # Lightning's answer to a second Ctrl-C is SystemExit
        if leads:
            print(f"\nStopped. {describe_epochs(folder, metric)}")
            if about := signals.requeue():
                print(about)
        return False
    except VanError:
        if terminal:
            print()  # end the line of the progress bar
        raise
    except RuntimeError as error:
        if trainer.world_size == 1 or not re.search("gloo|nccl|connection|peer", str(error), re.IGNORECASE):
            raise
        raise VanError(f"Another process of the training has died. {describe_epochs(folder, metric)}") from error
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # the first process goes on alone, with all validation samples
    return True


def _write_results(
    task: "Task", options: Any, learner: "Learner", data: "DataModule", folder: Path, each: int | None
) -> list[str]:
    """Write weights, metrics and plots of the best epoch, print metrics and places, and return the names of plots.

    What evaluation finds out for prediction, such as thresholds, goes into the weight file.
    """
    from van.engine.api import load
    from van.engine.plots import curves
    from van.engine.weights import best_tensors
    from van.models.weight_file import write_weights

    title = f"{task.title(options)} on {options.data}"
    header, tensors = task.header(learner.model, options, data), best_tensors(folder)
    weights = write_weights(header, tensors, folder / WEIGHTS)
    rows = read_epochs(folder / "metrics.csv")
    metric = learner.metrics[0]
    shown = [m for m in learner.metrics if f"val_{m.key}" in rows[0]]
    axis = "iteration" if each is not None else "epoch"
    curves(rows, title, shown, axis=axis, **task.curve_options(options, data)).savefig(folder / "curves.png")
    predictor = load(weights, None if options.device == "auto" else options.device, batch_size=data.batch_size)
    evaluation = task.evaluation(predictor, data.split, data.workers)
    evaluation.run(folder, title, options.quiet)
    if evaluation.extra:
        header.extra |= evaluation.extra
        write_weights(header, tensors, weights)
    write_checksums(folder, [WEIGHTS, CONFIG, DESCRIPTION, "metrics.csv", "curves.png", *evaluation.files])
    plots = ["curves.png", *(name for name in evaluation.files if name.endswith(".png"))]
    if never_moved(rows, metric):
        print(f"van train: {advice(metric, rows)}", file=sys.stderr)
    if options.quiet:
        return plots
    best = best_epoch(rows, metric)
    seconds = sum(row["seconds"] for row in rows)
    when = f"best step: {best['iteration']:.0f}" if each is not None else f"best epoch: {best['epoch']:.0f}"
    print(f"{when} of {rows[-1]['iteration' if each is not None else 'epoch']:.0f}; {seconds:.0f} s of training")
    print_files(weights, evaluation.files, options.logger)
    return plots


def report_skipped(file: Path, quiet: bool = False) -> int:
    """Tidy the list of what was left out of a run, and say how much it is.

    Args:
        file: The list; there is none where nothing was left out.
        quiet: Say nothing.

    Returns:
        How many lines it has.
    """
    from van.data.checks import count, listed
    from van.data.skipping import finish_skipped

    lines = finish_skipped(file)
    if lines and not quiet:
        problems = count(len(lines), "problem")
        print(f"Images or annotations were skipped because of {problems}; {file} lists all:\n{listed(lines)}")
    return len(lines)


def advice(metric: Metric, rows: Sequence[Any]) -> str:
    """Return a warning about a metric that never left zero."""
    return (
        f"{metric.label} was never above 0 in {len(rows)} epochs, so the last one was kept. Train longer, start from "
        "weights with --pretrained, raise or lower --lr, and look at the samples and the training loss."
    )


def print_files(weights: Path, files: Sequence[str], loggers: Sequence[str]) -> None:
    """Print where everything in a run folder is, and the command that uses the weights.

    Args:
        weights: The weight file in the folder.
        files: Names of the results of the evaluation.
        loggers: As in TrainOptions.logger.
    """
    folder = weights.parent
    plots = ["curves.png", *(name for name in files if name.endswith(".png"))]
    tables = ["metrics.csv", *(name for name in files if not name.endswith(".png"))]
    tables += [name for name in ("tensorboard", "csv") if name in loggers]
    print(f"weights:      {weights}\ncheckpoints:  {folder / 'checkpoints'}")
    print(f"tables:       {folder}: {' '.join(tables)}\nplots:        {folder}: {' '.join(plots)}")
    for line in where(loggers, folder):
        print(line)
    print(f"options:      {folder / 'config.yaml'}\npredict with: van predict IMAGE... --weights {weights}")
