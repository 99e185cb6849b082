"""From weight files to networks, and back: one way for all tasks."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from van.errors import VanError, WeightsError
from van.models.weight_file import Header, read_header, read_weights
from van.networks.registry import from_dict

if TYPE_CHECKING:
    import torch
    from torch import nn

    from van.engine.data import DataModule
    from van.engine.task import Task


def rebuild(task: "Task", weights: str | Path) -> tuple["nn.Module", Header]:
    """Build the network that a weight file of ours describes, and load it.

    Args:
        task: That of the file.
        weights: The file, or a run folder with one.

    Returns:
        The network, and what the file says.

    Raises:
        WeightsError: the file cannot be read or is for another version, or its tensors do not fit its description.
    """
    header, tensors = read_weights(weights)
    try:
        network = from_dict(task.name, header.model).build(task.outputs(header))
        network.load_state_dict(tensors)
    except (VanError, TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"{weights} describes a network that this version cannot build: {error}") from error
    except RuntimeError as error:
        raise WeightsError(f"The tensors of {weights} do not fit the network it describes: {error}") from error
    return network, header


def start_network(task: "Task", options: Any, data: "DataModule") -> tuple["nn.Module", str]:
    """Build a network with its first weights: random, those of its backbone, or all of another run's.

    Args:
        task: What is trained.
        options: Of training.
        data: Says how many outputs there are.

    Returns:
        The network, and a sentence that says where its weights come from.

    Raises:
        WeightsError: the weights cannot be read or belong to another network.
    """
    pretrained, model, outputs = options.pretrained, options.model, task.outputs(data)
    if pretrained is None:
        return model.build(outputs), "Starting from random weights."
    header = None if pretrained == "hub" or not Path(pretrained).exists() else read_header(pretrained)
    if header is None or header.task != task.name:
        source = "the published weights" if pretrained == "hub" else pretrained
        return model.build(outputs, pretrained), f"Fine-tuning: the backbone starts from {source}."
    header, tensors = read_weights(pretrained)
    known = from_dict(task.name, header.model)
    theirs, ours = ((o.architecture, o.backbone) for o in (known, model))
    if theirs != ours:
        raise WeightsError(
            f"{pretrained} is {theirs[0]} with {theirs[1]}, not {ours[0]} with {ours[1]}. Set model.architecture and "
            "model.backbone to those of the weights."
        )
    # what belongs to the weights comes with them
    args = {**{k: v for k, v in known.backbone_args.items() if k == "norm_eps"}, **model.backbone_args}
    network = replace(model, backbone_args=args, mean=model.mean or known.mean, std=model.std or known.std).build(
        outputs
    )
    own = network.state_dict()
    other = [key for key, tensor in own.items() if key not in tensors or tensors[key].shape != tensor.shape]
    if other and (outputs == task.outputs(header) or len(other) > len(own) // 10):
        key = other[0]
        have = tuple(tensors[key].shape) if key in tensors else "missing"
        raise WeightsError(
            f"{pretrained} does not fit these model options: {key} is {have} there, expected {tuple(own[key].shape)}. "
            "Use the options of the run that wrote it."
        )
    network.load_state_dict({**own, **{k: v for k, v in tensors.items() if k in own and k not in other}})
    kept = not other and header.class_names == list(data.class_names)
    return network, (
        f"Fine-tuning: starting from the whole network {pretrained}; "
        + ("its classes are kept." if kept else f"{len(other)} tensors for {outputs} classes are new.")
    )


def counted_network(
    task: "Task", options: Any, num_classes: int | None
) -> tuple["nn.Module", tuple[int, int, int], str]:
    """Build the network of training options without its weights, for counting.

    Args:
        task: What is trained.
        options: Of training.
        num_classes: Number of classes or keypoints.

    Returns:
        The network on the meta device, the size (C, H, W) of the image to count with, and its name.

    Raises:
        VanError: the number of classes is not known.
    """
    if num_classes is None:
        raise VanError("The options do not say num_classes, on which the size of the model depends. Add it.")
    network: Any = options.model.build(num_classes, device="meta")
    return network, network.input_size, task.title(options)


def best_tensors(folder: Path) -> dict[str, "torch.Tensor"]:
    """Return the network's tensors of the best checkpoint of a run.

    Args:
        folder: Run folder.
    """
    import torch

    state = torch.load(folder / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    return {key.removeprefix("model."): cast(Any, value) for key, value in state.items() if key.startswith("model.")}
