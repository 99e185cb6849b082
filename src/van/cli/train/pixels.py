"""What training of semantic and panoptic segmentation and of saliency has in common."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.cli.train.fitting import (
    architecture_of,
    check_classes,
    check_numbers,
    fit,
    network_from,
    processes,
    resumable_folder,
    tensors_of_best,
    write_config,
)
from van.errors import VanError

if TYPE_CHECKING:
    from van.cli.run_folder import Monitor
    from van.data.pixels import PixelData

_VALIDATIONS = 10  # of a run whose length is given in steps


@dataclass(frozen=True)
class Kind:
    """What a task does in its own way.

    Attributes:
        task: Its name.
        figures: Names of what its evaluator measures.
        shown: Which of these the curves show, with their labels; the first one picks the best epoch.
        evaluator: Makes the evaluator for data.
        look: Makes of options of the inference and data what finds results on images.
        build: Builds a network from its options, class names, weights of the backbone and a device.
        measure: Measures a predictor on a part, writes the results into a folder, and returns the names of the files.
    """

    task: str
    figures: Sequence[str]
    shown: dict[str, str]
    evaluator: Callable[["PixelData"], Any]
    look: Callable[[Any, "PixelData"], Any]
    build: Callable[[Any, Sequence[str], str | None, str | None], Any]
    measure: Callable[..., list[str]]


def length(epochs: int, iterations: int | None, validate_every: int | None) -> tuple[int, int | None]:
    """Return how many epochs there are and how many steps each has; None for those of a pass over the data.

    Where the length is given in steps, an epoch is what lies between two validations.

    Raises:
        VanError: numbers are out of range or do not go together.
    """
    if iterations is None:
        if validate_every is not None:
            raise VanError("validate_every goes with iterations; without them every epoch is validated. Leave it out.")
        return epochs, None
    if iterations < 1 or (validate_every is not None and validate_every < 1):
        raise VanError(f"iterations is {iterations} and validate_every {validate_every}, expected at least 1 each.")
    every = validate_every or (iterations // _VALIDATIONS if iterations % _VALIDATIONS == 0 else iterations)
    if iterations % every:
        raise VanError(f"iterations is {iterations}, expected a multiple of validate_every, which is {every}.")
    return iterations // every, every


def train_pixels(kind: Kind, options: dict[str, Any], load: Callable[[], "PixelData"]) -> int:
    """Train a network and leave a run folder.

    Args:
        kind: The task.
        options: Those of its command; see there.
        load: Reads the data.

    Returns:
        Exit status.
    """
    import lightning
    import torch

    from van.cli.run_folder import Monitor, run_folder
    from van.tasks.pixels import PixelTask

    model, data, resume = options["model"], options["data"], options["resume"]
    epochs, steps = length(options["epochs"], options["iterations"], options["validate_every"])
    world, leads = processes(options["devices"], options["precision"])
    check_numbers(epochs, options["batch_size"], options["lr"], world)
    options["inference"].check()
    lightning.seed_everything(options["seed"], workers=True, verbose=False)
    images = load().plan(options["batch_size"] // world, steps, options["seed"], options["workers"])
    check_classes(options.get("num_classes"), images.class_names, data)
    names = images.class_names
    network, start = network_from(
        lambda model, weights: kind.build(model, names, weights, None),
        model,
        options["pretrained"],
        names,
        (kind.task,),
    )
    key = next(iter(kind.shown))
    each, by_steps = images.steps(world), steps is not None
    warmup = options["optimization"].warmup_iterations
    if warmup is not None and warmup >= epochs * each:
        raise VanError(
            f"optimization.warmup_iterations is {warmup}, expected fewer than the {epochs * each} steps of the run."
        )
    learner = PixelTask(
        network.to(memory_format=torch.channels_last), options["lr"], epochs, each, options["optimization"],
        kind.evaluator(images), kind.look(options["inference"], images), key, by_steps,
    )  # fmt: skip
    learner.configure_optimizers()  # an unknown optimiser should show before anything is written

    what = f"{architecture_of(model)} with {model.backbone}"
    name = f"{architecture_of(model)}-{model.backbone}-{Path(data).name or 'data'}"
    folder = resumable_folder(resume) if resume else run_folder(options["output"], name)
    if leads:
        write_config(folder, {**options, "validate_every": steps, "output": str(folder), "resume": None})
        classes = f", {len(images.class_names)} classes" if len(images.class_names) > 1 else ""
        print(f"{what} on {data}: {len(images.train)} training and {len(images.val)} validation images{classes}.")
        print(f"{epochs * each} steps of {options['batch_size']} images, validated every {each} steps.")
        print("\n".join([f"Continuing {folder}." if resume else start, *(f"Note: {note}" for note in images.notes)]))
        print(f"Run folder: {folder}")
    logged = ("train_loss", *(f"val_{figure}" for figure in kind.figures), "iteration")
    monitor = Monitor(f"val_{key}", kind.shown[key], logged)
    finished = fit(
        learner, images, folder, monitor, steps=each, precision=options["precision"], devices=options["devices"],
        resume=bool(resume), use_distributed_sampler=False,
    )  # fmt: skip
    if not finished:
        return 130
    if leads:
        _write_results(
            kind, folder, images, network.options, options["inference"], monitor, f"{what} on {data}", by_steps
        )
    return 0


def _write_results(
    kind: Kind,
    folder: Path,
    images: "PixelData",
    model: Any,
    inference: Any,
    monitor: "Monitor",
    title: str,
    by_steps: bool,
) -> None:
    """Write weights, figures and pictures of the best epoch, and print the figures and where things are."""
    from van.analysis.pixel_pictures import pixel_curves
    from van.cli.run_folder import best_epoch, print_files, read_epochs
    from van.inference.pixels import PREDICTORS
    from van.models.task_weights import TaskWeights, write_task_weights

    tensors = tensors_of_best(folder)
    extra = {**images.extra, "inference": asdict(inference)}
    weights = write_task_weights(
        TaskWeights(kind.task, asdict(model), images.class_names, tensors, extra), folder / "weights.safetensors"
    )
    rows = read_epochs(folder / "metrics.csv")
    shown = {f"val_{key}": label for key, label in kind.shown.items()}
    pixel_curves(rows, shown, title, by_steps).savefig(folder / "curves.png", dpi=130)
    predictor = PREDICTORS[kind.task](weights, batch_size=images.batch_size)
    files = kind.measure(predictor, images.part, folder, title, images.workers)
    best = best_epoch(rows, monitor.key)
    seconds = sum(row["seconds"] for row in rows)
    when = f"step {best['iteration']:.0f}" if by_steps else f"epoch {best['epoch']:.0f}"
    print(f"best of {len(rows)} {'validations' if by_steps else 'epochs'}: {when}; {seconds:.0f} s of training")
    pictures = [name for name in files if name.endswith(".png")]
    print_files(weights, [name for name in files if name not in pictures], pictures)


def recipe_network(kind: Kind, path: Path) -> tuple[Any, tuple[int, int, int], str]:
    """Build the network of a training recipe without its weights.

    Args:
        kind: The task.
        path: The recipe.

    Returns:
        The network on the meta device, the size (C, H, W) of the image to count with, and its name.

    Raises:
        VanError: there is no such recipe, or it does not say how many classes there are.
    """
    from van.cli import command_parser

    arguments = ["--config", str(path)]
    parser = command_parser("train", arguments)[0]
    options = parser.instantiate(parser.parse_args(arguments))
    count = getattr(options, "num_classes", 1)
    if count is None:
        raise VanError(f"{path} does not say num_classes, on which the size of the model depends. Add it.")
    network = kind.build(options.model, [str(i) for i in range(count)], None, "meta")
    return network, network.input_size, f"{architecture_of(options.model)} with {options.model.backbone}"
