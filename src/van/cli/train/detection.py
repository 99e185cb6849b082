"""`van train --task detection` and `--task instances`: train a detector and leave a run folder."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from van.cli.train.fitting import (
    base_config_of,
    check_classes,
    check_numbers,
    fit,
    network_from,
    processes,
    resumable_folder,
    tensors_of_best,
    write_config,
)
from van.data.detection import SHAPES, DetectionAugmentation
from van.errors import VanError
from van.networks.detection.options import DetectorOptions
from van.networks.detection.retinanet import RetinaNetOptions
from van.tasks.optimization import Optimization

if TYPE_CHECKING:
    from van.cli.run_folder import Monitor
    from van.data.detection import DetectionData
    from van.networks.detection.detector import Detector

SHAPES_RECIPES = {"detection": "detection/fcos_van_b0_shapes", "instances": "instances/mask_rcnn_van_b0_shapes"}
_FIGURES = ("AP", "AP50", "AP75")


def base_config(options: Any) -> Path | None:
    """Return the file under the options given: of the run to resume, or of the shapes."""
    return base_config_of(options, SHAPES, SHAPES_RECIPES[options.task])


def train(
    *,
    task: Literal["detection", "instances"] = "detection",
    data: str = SHAPES,
    data_root: str | None = None,
    model: DetectorOptions = RetinaNetOptions(),  # noqa: B008 - the options and their defaults
    pretrained: str | None = None,
    num_classes: int | None = None,
    epochs: int = 12,
    batch_size: int = 16,
    lr: float = 1e-4,
    optimization: Optimization = Optimization(),  # noqa: B008
    augmentation: DetectionAugmentation = DetectionAugmentation(),  # noqa: B008
    on_problem: Literal["refuse", "skip"] = "refuse",
    check_data: bool = False,
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true",
    devices: int | str = "auto",
    workers: int | None = None,
    seed: int = 0,
    output: str | None = None,
    resume: str | None = None,
) -> int:
    """Train a detector; without --config and --data on the built-in shapes.

    Args:
        task: detection (boxes) or instances (boxes and masks).
        data: shapes (built in), or a folder in COCO's format: COCO's own layout, or Roboflow's.
        data_root: Where shapes is stored; by default the folder data.
        model: Architecture, backbone, sizes.
        pretrained: Start from weights: of the backbone (a file of any known layout, or "hub" for the published ones),
            or of a whole detector (weight file or run folder); its layers for other classes are new.
        num_classes: Number of classes, where it should be checked against the data.
        epochs: Epochs of the schedule, warm-up included.
        batch_size: Images per step, over all devices.
        lr: Highest learning rate.
        optimization: Optimiser and schedule.
        augmentation: Random changes of the training images.
        on_problem: What to do with annotations and images that cannot be used: refuse to train, or skip them.
        check_data: Decode every image and mask before the first epoch.
        precision: Numbers that the network computes with, in Lightning's words.
        devices: How many devices, or which; auto takes what there is.
        workers: Processes that load images; by default one per processor, at most 8.
        seed: The same seed gives, on one machine, the same run.
        output: Run folder; by default runs/ARCHITECTURE-BACKBONE-DATA, numbered.
        resume: Run folder to continue; its own options stay, what is given beside them wins.
    """
    options = dict(locals())
    import lightning
    import torch

    from van.analysis.coco import DetectionEvaluator
    from van.cli.run_folder import Monitor, run_folder
    from van.data.detection import DetectionData, data_folder
    from van.inference.detection import TASKS
    from van.tasks.detection import DetectionTask

    world, leads = processes(devices, precision)
    check_numbers(epochs, batch_size, lr, world)
    lightning.seed_everything(seed, workers=True, verbose=False)
    masks = task == "instances"
    images = DetectionData(
        data_folder(data, data_root), augmentation, batch_size // world, masks, on_problem, check_data, seed, workers
    )
    check_classes(num_classes, images.class_names, data)
    classes = len(images.class_names)
    network, start = network_from(
        lambda model, weights: model.build(classes, weights), model, pretrained, images.class_names, TASKS
    )
    if network.has_masks != masks:
        raise VanError(
            f"{model.architecture} predicts {'masks' if network.has_masks else 'no masks'}: "
            + ("give --task instances." if network.has_masks else "take mask_rcnn, cascade_mask_rcnn or mask2former.")
        )
    evaluator = DetectionEvaluator(images.val, masks)
    steps = images.steps(world)
    learner = DetectionTask(network.to(memory_format=torch.channels_last), lr, epochs, steps, optimization, evaluator)
    learner.configure_optimizers()  # an unknown optimiser should show before anything is written

    name = f"{model.architecture}-{model.backbone}-{Path(data).name or 'data'}"
    folder = resumable_folder(resume) if resume else run_folder(output, name)
    if leads:
        write_config(folder, {**options, "output": str(folder), "resume": None})
        print(f"{model.architecture} with {model.backbone} on {data}: {len(images.train)} training and ", end="")
        print(f"{len(images.val)} validation images, {len(images.class_names)} classes.")
        print("\n".join([f"Continuing {folder}." if resume else start, *(f"Note: {note}" for note in images.notes)]))
        print(f"Run folder: {folder}")

    logged = [f"val_{kind}{name}" for kind in (("", "mask_") if masks else ("",)) for name in _FIGURES]
    key, label = ("val_mask_AP", "mask AP") if masks else ("val_AP", "box AP")
    monitor = Monitor(key, label, ("train_loss", *logged))
    finished = fit(
        learner, images, folder, monitor, steps=steps, precision=precision, devices=devices, resume=bool(resume),
        use_distributed_sampler=False,
    )  # fmt: skip
    if not finished:
        return 130
    if leads:
        _write_results(
            folder, task, images, network.options, monitor, f"{model.architecture}, {model.backbone} on {data}"
        )
    return 0


def _write_results(
    folder: Path, task: str, images: "DetectionData", options: DetectorOptions, monitor: "Monitor", title: str
) -> None:
    """Write weights, figures and pictures of the best epoch, and print the precision and where things are."""
    from van.analysis.detection_pictures import detection_curves
    from van.cli.evaluate.detection import measure
    from van.cli.run_folder import best_epoch, print_files, read_epochs
    from van.inference.detection import DetectionPredictor
    from van.models.task_weights import TaskWeights, write_task_weights

    tensors = tensors_of_best(folder)
    extra = {"category_ids": images.category_ids}
    weights = write_task_weights(
        TaskWeights(task, asdict(options), images.class_names, tensors, extra), folder / "weights.safetensors"
    )
    rows = read_epochs(folder / "metrics.csv")
    detection_curves(rows, title).savefig(folder / "curves.png", dpi=130)
    predictor = DetectionPredictor(weights, batch_size=images.batch_size)
    measure(predictor, images.val, folder, title, images.workers)
    best = best_epoch(rows, monitor.key)
    seconds = sum(row["seconds"] for row in rows)
    print(f"best of {len(rows)} epochs: {best['epoch']:.0f}; {seconds:.0f} s of training")
    print_files(weights, ["evaluation.json", "per_class.csv", "detections.json"], ["predictions.png"])


def model_of_recipe(path: Path) -> tuple["Detector", tuple[int, int, int], str]:
    """Build the detector of a training recipe without its weights.

    Returns:
        The detector on the meta device, the size (C, H, W) of the image to count with, and its name.

    Raises:
        VanError: there is no such recipe, or it does not say how many classes there are.
    """
    from van.cli import command_parser

    arguments = ["--config", str(path)]
    parser = command_parser("train", arguments)[0]
    options = parser.instantiate(parser.parse_args(arguments))
    if options.num_classes is None:
        raise VanError(f"{path} does not say num_classes, on which the size of the model depends. Add it.")
    detector = options.model.build(options.num_classes, device="meta")
    return detector, detector.input_size, f"{options.model.architecture} with {options.model.backbone}"
