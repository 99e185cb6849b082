"""Weight files of detectors, pose networks and the like: tensors with all that it takes to build the model again."""

import json
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from van.errors import WeightsError

_FORMAT = "van-task"
WEIGHTS_FILE = "weights.safetensors"


@dataclass
class TaskWeights:
    """Contents of a weight file of a task.

    Attributes:
        task: detection, instances, pose, ...
        model: Options that the model is built from.
        class_names: Names in the order of the labels.
        tensors: The model's state dict.
        extra: More that prediction needs, such as the names of keypoints; what JSON can hold.
    """

    task: str
    model: dict[str, Any]
    class_names: list[str]
    tensors: dict[str, torch.Tensor] = field(repr=False)
    extra: dict[str, Any] = field(default_factory=dict)


def write_task_weights(weights: TaskWeights, path: str | Path) -> Path:
    """Write a weight file (.safetensors), complete or not at all.

    Args:
        weights: What goes in; options may be a dataclass.
        path: The file.

    Raises:
        WeightsError: the ending is another one.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} should end in .safetensors: the model's options are written into the file.")
    model: Any = weights.model
    about = {
        "task": weights.task,
        "model": asdict(model) if is_dataclass(model) and not isinstance(model, type) else model,
        "class_names": list(weights.class_names),
        "extra": weights.extra,
    }
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        safetensors.torch.save_file(tensors, unfinished, {"format": _FORMAT, "van": json.dumps(about)})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path / WEIGHTS_FILE if path.is_dir() else path


def _about(file: Path) -> dict[str, Any] | None:
    """Return what the file says of its task; None where it is no such file."""
    try:
        with safetensors.safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
        return json.loads(metadata["van"]) if metadata.get("format") == _FORMAT else None
    except (safetensors.SafetensorError, OSError, ValueError):
        return None


def task_of_weights(path: str | Path) -> str:
    """Return the task that a weight file or run folder is for; "classification" where it says none.

    Args:
        path: Weight file or run folder.
    """
    about = _about(_file(path))
    return about["task"] if about else "classification"


def read_task_weights(path: str | Path) -> TaskWeights:
    """Read a weight file that write_task_weights wrote.

    Args:
        path: The file, or a run folder with weights.safetensors.

    Raises:
        WeightsError: there is no such file, or it is another kind of weights.
    """
    file = _file(path)
    if not file.is_file():
        raise WeightsError(f"{file} does not exist. Give a weight file, or the folder of a run that has finished.")
    about = _about(file)
    if about is None:
        raise WeightsError(
            f"{file} is no weight file of a detector, pose or other task network, or it is damaged. Give what "
            f"van train --task ... wrote ({WEIGHTS_FILE})."
        )
    return TaskWeights(
        about["task"], about["model"], about["class_names"], safetensors.torch.load_file(file), about["extra"]
    )
