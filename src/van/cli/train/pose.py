"""`van train --task pose`: train a network that finds keypoints and leave a run folder."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from van.cli.train.fitting import (
    base_config_of,
    check_numbers,
    fit,
    processes,
    resumable_folder,
    tensors_of_best,
    write_config,
)
from van.data.pose import PoseAugmentation
from van.errors import VanError
from van.networks.options import SimpleBaselineOptions
from van.tasks.optimization import Optimization

if TYPE_CHECKING:
    from torch import nn

    from van.data.pose import PoseData

SHAPES_RECIPE = "pose/van_b0_shapes"


def base_config(options: Any) -> Path | None:
    """Return the file under the options given: of the run to resume, or of the shapes."""
    return base_config_of(options, "shapes", SHAPES_RECIPE)


def train(
    *,
    task: Literal["pose"] = "pose",
    data: str = "shapes",
    data_root: str | None = None,
    model: SimpleBaselineOptions = SimpleBaselineOptions(),  # noqa: B008 - the options and their defaults
    pretrained: str | None = None,
    keypoints: int | None = None,
    epochs: int = 210,
    batch_size: int = 64,
    lr: float = 5e-4,
    optimization: Optimization = Optimization(),  # noqa: B008
    augmentation: PoseAugmentation = PoseAugmentation(),  # noqa: B008
    on_problem: Literal["refuse", "skip"] = "refuse",
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true",
    devices: int | str = "auto",
    workers: int | None = None,
    seed: int = 0,
    output: str | None = None,
    resume: str | None = None,
) -> int:
    """Train SimpleBaseline to find keypoints of persons; without --config and --data on the built-in stick figures.

    Args:
        task: What the model learns.
        data: shapes (built in), or a folder in COCO's format with person_keypoints annotations.
        data_root: Where shapes is stored; by default the folder data.
        model: Backbone, image size, heat maps.
        pretrained: Weights of the backbone: a file of any known layout, or "hub" for the published ones.
        keypoints: Number of keypoints, where it should be checked against the data.
        epochs: Epochs of the schedule, warm-up included.
        batch_size: Persons per step, over all devices.
        lr: Highest learning rate.
        optimization: Optimiser and schedule.
        augmentation: Random changes of the training crops.
        on_problem: What to do about annotations and images that cannot be used: refuse to train, or skip them.
        precision: Numbers that the network computes with, in Lightning's words.
        devices: How many devices, or which; auto takes what there is.
        workers: Processes that load images; by default one per processor, at most 8.
        seed: The same seed gives, on one machine, the same run.
        output: Run folder; by default runs/pose-MODEL-DATA, numbered.
        resume: Run folder to continue; its own options stay, what is given beside them wins.
    """
    options = dict(locals())
    import lightning
    import torch

    from van.analysis.coco import CocoEvaluator
    from van.cli.run_folder import Monitor, run_folder
    from van.data.pose import PoseData, pose_folder
    from van.inference.pose import keypoint_sigmas
    from van.tasks.pose import PoseTask

    world, leads = processes(devices, precision)
    check_numbers(epochs, batch_size, lr, world)
    lightning.seed_everything(seed, workers=True, verbose=False)
    size = model.image_size
    if len(size) != 2:
        raise VanError(f"model.image_size is {size}, expected a height and a width.")
    persons = PoseData(
        pose_folder(data, data_root), (size[0], size[1]), augmentation, batch_size // world, workers, on_problem
    )
    names = persons.train.names
    count = len(names)
    if keypoints not in (None, count):
        raise VanError(
            f"keypoints is {keypoints}, but {data} has {count} ({', '.join(names[:5])}, ...). Leave "
            "keypoints out, or check the data."
        )
    evaluator = CocoEvaluator(persons.val.part, "keypoints", sigmas=keypoint_sigmas(count))
    network = model.build(count, pretrained).to(memory_format=torch.channels_last)
    steps = -(-len(persons.train_dataloader()) // world)
    learner = PoseTask(network, lr, epochs, steps, optimization, evaluator)
    learner.configure_optimizers()  # an unknown optimiser should show before anything is written

    name = f"pose-{model.backbone}-{Path(data).name or 'data'}"
    folder = resumable_folder(resume) if resume else run_folder(output, name)
    if leads:
        write_config(folder, {**options, "output": str(folder), "resume": None})
        print(f"SimpleBaseline with {model.backbone} on {data}: {len(persons.train)} training and ", end="")
        print(f"{len(persons.val)} validation persons, {count} keypoints, crops of {size[0]} x {size[1]} pixels.")
        start = f"Starting from {pretrained}." if pretrained else "Starting from random weights."
        print("\n".join([f"Continuing {folder}." if resume else start, *(f"Note: {note}" for note in persons.notes)]))
        print(f"Run folder: {folder}")

    monitor = Monitor("val_ap", "keypoint AP", ("train_loss", "val_loss", "val_ap", "val_ap50"))
    if not fit(
        learner, persons, folder, monitor, steps=steps, precision=precision, devices=devices, resume=bool(resume)
    ):
        return 130
    if leads:
        about = asdict(network.options)
        _write_results(folder, persons, about, f"SimpleBaseline, {model.backbone} on {data}")
    return 0


def _write_results(folder: Path, persons: "PoseData", about: dict[str, Any], title: str) -> None:
    """Write weights, figures and pictures of the best epoch, and print the precision and where things are."""
    from van.analysis.pose_pictures import pose_curves
    from van.cli.evaluate.pose import measure
    from van.cli.run_folder import best_epoch, print_files, read_epochs
    from van.inference.pose import PosePredictor
    from van.models.task_weights import TaskWeights, write_task_weights

    part = persons.val.part
    posed = [category for category in part.categories if category.get("keypoints")]
    extra = {
        "category_ids": [category["id"] for category in posed],
        "keypoint_names": part.keypoint_names,
        "flip_pairs": [list(pair) for pair in part.flip_pairs],
        "skeleton": [list(pair) for pair in part.skeleton],
    }
    weights = TaskWeights("pose", about, [category["name"] for category in posed], tensors_of_best(folder), extra)
    path = write_task_weights(weights, folder / "weights.safetensors")

    rows = read_epochs(folder / "metrics.csv")
    pose_curves(rows, title).savefig(folder / "curves.png", dpi=130)
    measure(PosePredictor(path, batch_size=2 * persons.batch_size), persons.val, folder, title, persons.workers)
    best = best_epoch(rows, "val_ap")
    seconds = sum(row["seconds"] for row in rows)
    print(f"best of {len(rows)} epochs: {best['epoch']:.0f}; {seconds:.0f} s of training")
    print_files(path, ["evaluation.json", "keypoint_results.json"], ["predictions.png"])


def model_of_recipe(path: Path) -> tuple["nn.Module", tuple[int, int, int], str]:
    """Build the network of a training recipe without its weights.

    Args:
        path: The recipe.

    Returns:
        The network on the meta device, the size (C, H, W) of its images, and its name.

    Raises:
        VanError: the recipe does not say how many keypoints there are.
    """
    from van.cli import command_parser

    arguments = ["--config", str(path)]
    parser, _ = command_parser("train", arguments)
    options = parser.instantiate(parser.parse_args(arguments))
    if options.keypoints is None:
        raise VanError(f"{path} does not say keypoints, on which the size of the model depends. Add it.")
    model: SimpleBaselineOptions = options.model
    network = model.build(options.keypoints, device="meta")
    return network, (3, model.image_size[0], model.image_size[1]), f"SimpleBaseline with {model.backbone}"
