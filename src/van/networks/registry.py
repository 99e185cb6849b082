"""Every architecture of every task, by name. Imports no torch; an architecture's module loads when it is asked for."""

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from van.errors import VanError, nearest
from van.networks.options import NetworkOptions

# Architectures by task and name, each the module and class of its options; the first one is the task's default
_ARCHITECTURES: dict[str, dict[str, str | type[NetworkOptions]]] = {
    "detection": {
        "retinanet": "van.networks.detection.retinanet:RetinaNetOptions",
        "fcos": "van.networks.detection.fcos:FCOSOptions",
        "faster_rcnn": "van.networks.detection.faster_rcnn:FasterRCNNOptions",
        "atss": "van.networks.detection.atss:ATSSOptions",
        "gfl": "van.networks.detection.gfl:GFLOptions",
        "deformable_detr": "van.networks.detection.deformable_detr:DeformableDETROptions",
        "rt_detr": "van.networks.detection.rt_detr:RTDETROptions",
    },
    "instances": {
        "mask_rcnn": "van.networks.detection.mask_rcnn:MaskRCNNOptions",
        "cascade_mask_rcnn": "van.networks.detection.cascade_mask_rcnn:CascadeMaskRCNNOptions",
        "mask2former": "van.networks.detection.mask2former:Mask2FormerDetectorOptions",
    },
    "semantic": {
        "semantic_fpn": "van.networks.segmentation.options:SemanticFPNOptions",
        "upernet": "van.networks.segmentation.options:UPerNetOptions",
        "mask2former": "van.networks.segmentation.options:Mask2FormerOptions",
    },
    "panoptic": {"mask2former": "van.networks.segmentation.options:Mask2FormerOptions"},
    "pose": {"simple_baseline": "van.networks.options:SimpleBaselineOptions"},
    "saliency": {"edn": "van.networks.options:EDNOptions"},
}

# What only files of earlier versions name: not listed, and not offered for new runs
_LEGACY = {"saliency": {"edn_legacy": "van.networks.options:LegacyEDNOptions"}}

# Names that options had under arguments in weight files and run folders, before they were typed
_RENAMED = {
    "score_thresh": "score_threshold",
    "nms_thresh": "nms_threshold",
    "detections_per_img": "detections_per_image",
    "fg_iou_thresh": "foreground_iou",
    "bg_iou_thresh": "background_iou",
    "num_queries": "queries",
    "num_denoising": "denoising_queries",
    "feedforward": "feedforward_width",
}


def architectures(task: str) -> list[str]:
    """Return the names of a task's architectures, the default first.

    Raises:
        VanError: No architecture is registered for the task.
    """
    return list(_of_task(task))


def options_class(task: str, name: str) -> type[NetworkOptions]:
    """Return the class of an architecture's options.

    Args:
        task: Task, such as detection.
        name: Architecture, such as retinanet.

    Raises:
        VanError: There is no such task or architecture.
    """
    known = _of_task(task)
    if name in _LEGACY.get(task, {}):
        known = _LEGACY[task]
    if name not in known:
        others = [other for other, names in _ARCHITECTURES.items() if name in names]
        hint = f" It is one of the task {' or '.join(others)}." if others else nearest(name, known)
        raise VanError(f"There is no {task} architecture {name!r}, expected one of {', '.join(known)}.{hint}")
    found = known[name]
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = known[name] = getattr(import_module(module), attribute)
    return found


def register(task: str, name: str, options_class: type[NetworkOptions] | str) -> None:
    """Make an architecture known.

    Args:
        task: Task that the architecture is for; it may be a new one.
        name: Name of the architecture, the default of the class's architecture field.
        options_class: Class of the options, or "module:Class", which is imported when it is used.

    Raises:
        VanError: The name is taken.
    """
    known = _ARCHITECTURES.setdefault(task, {})
    if known.get(name, options_class) != options_class:
        raise VanError(f"The {task} architecture {name!r} is registered already. Choose another name.")
    known[name] = options_class


def from_dict(task: str, options: Mapping[str, Any]) -> NetworkOptions:
    """Return options from a weight file, run folder or recipe, also in the form before options were typed.

    Args:
        task: Task of the network.
        options: Options by name; without architecture the task's default.

    Raises:
        VanError: There is no such architecture, or it has no such option.
    """
    options = upgrade(options, task)
    cls = options_class(task, options.setdefault("architecture", architectures(task)[0]))
    known = [option.name for option in fields(cls)]
    for name in options:
        if name not in known:
            raise VanError(
                f"{options['architecture']} has no option {name!r}, it has {', '.join(known)}.{nearest(name, known)}"
            )
    return cls(**options)


def upgrade(options: Mapping[str, Any], task: str | None = None) -> dict[str, Any]:
    """Return options in today's form: those under arguments move up beside the others and take their new names.

    Args:
        options: Options as any version wrote them.
        task: Task of the network, where it is known.
    """
    flat = dict(options)
    if task == "saliency" and flat.get("architecture", "edn") == "edn" and {"arguments", "dilations"} & flat.keys():
        flat["architecture"] = "edn_legacy"  # what today's edn has no options for
    renamed = {**_RENAMED, "channels": "pyramid_channels"} if flat.get("architecture") == "mask2former" else _RENAMED
    arguments: dict[str, Any] = flat.pop("arguments", {})
    for name, value in arguments.items():
        flat[renamed.get(name, name)] = value
    return flat


def _of_task(task: str) -> dict[str, str | type[NetworkOptions]]:
    if task not in _ARCHITECTURES:
        raise VanError(
            f"No architecture is registered for the task {task!r}, only for {', '.join(_ARCHITECTURES)}."
            f"{nearest(task, _ARCHITECTURES)}"
        )
    return _ARCHITECTURES[task]
