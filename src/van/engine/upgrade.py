"""Options in files that were written before the options got their present names, as they are called today."""

from collections.abc import Mapping
from typing import Any

_DETECTION: dict[str, str | None] = {
    "augmentation.jitter": "augmentation.scale_range",
    "augmentation.jitter_size": "augmentation.crop_size",
    "augmentation.min_box": "augmentation.min_box_size",
}

# old key (dotted) to the new one, by the task of the file; None drops what has no effect any more
_RENAMED: dict[str, dict[str, str | None]] = {
    "detection": _DETECTION,
    "instances": _DETECTION,
    "pose": {"augmentation.flip": "augmentation.hflip", "augmentation.rotated": "augmentation.rotation_probability"},
    "semantic": {
        "augmentation.scale": "augmentation.fit",
        "augmentation.ratio": "augmentation.scale_range",
        "augmentation.crop": "augmentation.crop_size",
        "augmentation.most": "augmentation.max_class_share",
    },
    "panoptic": {
        "augmentation.jitter": "augmentation.scale_range",
        "augmentation.size": "augmentation.crop_size",
        "inference.size": "inference.fit",
        "inference.object_threshold": "inference.score_threshold",
    },
    "saliency": {
        "augmentation.size": "augmentation.crop_size",
        "augmentation.margin": None,
        "augmentation.crop_margin": None,
    },
}

# what tells files that a run has written: they hold every option
_EVERY_RUN = {"schedule", "milestones", "gamma", "power", "warmup_epochs", "warmup_iterations", "min_lr"}


def upgraded(content: Mapping[str, Any], task: str | None = None) -> dict[str, Any]:
    """Return options with today's names; those that have them already stay as they are.

    Args:
        content: Nested mapping of options, as a file has it.
        task: What the options are for, where they do not say it themselves.
    """
    options = {key: dict(value) if isinstance(value, Mapping) else value for key, value in content.items()}
    task = content.get("task", task)
    if "on_problem" in options:
        what: Any = options.pop("on_problem")
        options.setdefault("on_bad_image", "error" if what == "refuse" else what)
    if task in ("detection", "instances") and isinstance(options.get("augmentation"), dict):
        _complete_jitter(options["augmentation"])
    for old, new in _RENAMED.get(task or "", {}).items():
        _rename(options, old, new)
    if task == "saliency" and "crop_size" in (augmentation := options.get("augmentation") or {}):
        augmentation["image_sizes"] = [augmentation.pop("crop_size")]
    _drop_idle(options)
    if isinstance(options.get("model"), dict):
        options["model"] = _model(options["model"], task)
    if task in ("semantic", "saliency") and isinstance(options.get("inference"), dict):
        options["inference"] = _view(options["inference"], proportions=task == "semantic")
    return options


def _rename(options: dict[str, Any], old: str, new: str | None) -> None:
    """Move an option of a group, or remove it."""
    group, _, name = old.rpartition(".")
    place = options.get(group) if group else options
    if isinstance(place, dict) and name in place:
        value = place.pop(name)
        if new is not None:
            place[new.rpartition(".")[2]] = value


def _drop_idle(options: dict[str, Any]) -> None:
    """Drop what had no effect in files of runs, which hold every option; hand-written ones are refused instead."""
    optimization = options.get("optimization")
    if not isinstance(optimization, dict) or not optimization.keys() >= _EVERY_RUN:
        return
    schedule = optimization["schedule"]
    without_effect = {"gamma": schedule != "step", "power": schedule != "poly", "milestones": schedule != "step"}
    if schedule == "step":
        warms_up = optimization["warmup_iterations"] or (
            optimization["warmup_iterations"] is None and optimization["warmup_epochs"] != 0
        )
        if optimization["min_lr"] is not None and warms_up:
            optimization["warmup_lr"] = optimization["min_lr"]  # all that it was for
        without_effect |= {"min_lr": True, "gamma": not optimization["milestones"]}
    without_effect["warmup_epochs"] = optimization["warmup_iterations"] is not None
    for name in (name for name, idle in without_effect.items() if idle):
        optimization[name] = [] if name == "milestones" else None
    if options.get("iterations") is not None:
        options.pop("epochs", None)
    augmentation = options.get("augmentation")
    if isinstance(augmentation, dict) and augmentation.get("auto_augment") and "color_jitter" in augmentation:
        augmentation["color_jitter"] = None


def _model(options: dict[str, Any], task: str | None) -> dict[str, Any]:
    """Return options of a network; where they do not name the architecture, those of the task's default at the time."""
    from van.networks.registry import architectures, upgrade

    if "arguments" not in options or "architecture" in options or task is None:
        return upgrade(options, task)
    default = architectures(task)[0]
    new = upgrade({"architecture": default, **options}, task)
    if new["architecture"] == default:
        new.pop("architecture")
    return new


def _complete_jitter(options: dict[str, Any]) -> None:
    """Give jitter the size that it had by default, and drop the size where there was no jitter."""
    if options.get("jitter") is not None:
        options.setdefault("jitter_size", [1024, 1024])
    elif "jitter" in options:
        options.pop("jitter_size", None)


def _view(options: dict[str, Any], proportions: bool) -> dict[str, Any]:
    """Return how a network sees images, from when size had two meanings and a mode stood for sliding windows."""
    new = dict(options)
    keep = new.pop("keep_ratio", proportions)
    if "size" in new:
        new["fit" if keep else "image_size"] = new.pop("size")
    if "flip" in new:
        new["flip_test"] = new.pop("flip")
    if "mode" in new:
        new["slide"] = new.pop("mode") == "slide"
        if not new["slide"]:  # windows had a size also where there were none
            new = {key: value for key, value in new.items() if key not in ("crop", "stride")}
    return new
