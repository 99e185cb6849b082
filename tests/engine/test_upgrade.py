import pytest

from van.engine.options import Optimization
from van.engine.upgrade import upgraded

OLD_VIEW = {"size": [512, 2048], "keep_ratio": True, "mode": "whole", "crop": [512, 512], "stride": [341, 341]}
OLD_VIEW |= {"scales": [1.0], "flip": True}


def view(task, options):
    return upgraded({"task": task, "inference": options})["inference"]


def test_whole_images():
    assert view("semantic", OLD_VIEW) == {"fit": [512, 2048], "slide": False, "scales": [1.0], "flip_test": True}
    assert view("semantic", {"size": None}) == {"fit": None}


def test_windows():
    found = view("semantic", {"mode": "slide", "crop": [300, 300], "stride": [200, 200]})
    assert found == {"slide": True, "crop": [300, 300], "stride": [200, 200]}


@pytest.mark.parametrize(("keep", "name"), [({"keep_ratio": False}, "image_size"), ({"keep_ratio": True}, "fit")])
@pytest.mark.parametrize("task", ["semantic", "saliency"])
def test_sizes_with_and_without_proportions(task, keep, name):
    assert view(task, {"size": [96, 128], **keep}) == {name: [96, 128]}


def test_saliency_did_not_keep_proportions_by_default():
    assert view("saliency", {"size": [96, 96]}) == {"image_size": [96, 96]}
    assert view("semantic", {"size": [96, 96]}) == {"fit": [96, 96]}


def test_panoptic():
    old = {"size": [800, 1333], "object_threshold": 0.7, "overlap_threshold": 0.6}
    assert view("panoptic", old) == {"fit": [800, 1333], "score_threshold": 0.7, "overlap_threshold": 0.6}


def test_options_of_architectures_lie_beside_the_others():
    old = {"task": "panoptic", "model": {"architecture": "mask2former", "arguments": {"channels": 64, "heads": 2}}}
    new = {"architecture": "mask2former", "pyramid_channels": 64, "heads": 2}
    assert upgraded(old) == {"task": "panoptic", "model": new}
    del old["model"]["architecture"], new["architecture"]
    assert upgraded(old) == {"task": "panoptic", "model": new}


@pytest.mark.parametrize(("old", "new"), [("refuse", "error"), ("skip", "skip")])
def test_bad_images_of_every_task(old, new):
    assert upgraded({"task": "classification", "on_problem": old}) == {"task": "classification", "on_bad_image": new}


def test_names_of_today_stay():
    new = {
        "task": "semantic",
        "model": {"channels": 8},
        "inference": {"image_size": [1, 2], "flip_test": True},
        "lr": 1,
    }
    assert upgraded(new) == new
    assert upgraded({"inference": {"flip": True}}, "saliency") == {"inference": {"flip_test": True}}


def test_augmentation():
    old = {"scale": [32, 32], "ratio": [0.5, 2.0], "crop": [16, 16], "most": 0.5, "hflip": 0.0}
    new = {"fit": [32, 32], "scale_range": [0.5, 2.0], "crop_size": [16, 16], "max_class_share": 0.5, "hflip": 0.0}
    assert upgraded({"augmentation": old}, "semantic")["augmentation"] == new
    new = {"image_sizes": [[16, 24]], "hflip": 0.0}
    for old in ({"size": [16, 24], "margin": 4, "hflip": 0.0}, {"crop_size": [16, 24], "crop_margin": 4, "hflip": 0.0}):
        assert upgraded({"augmentation": old}, "saliency")["augmentation"] == new
    assert upgraded({"augmentation": new}, "saliency")["augmentation"] == new


def test_saliency_keeps_the_network_of_its_time():
    old = {"backbone": "van_b0", "arguments": {"channels": 32, "global_channels": 64}}
    new = {"architecture": "edn_legacy", "backbone": "van_b0", "channels": 32, "global_channels": 64}
    assert upgraded({"model": old}, "saliency")["model"] == new
    typed = {"architecture": "edn", "channels": 32, "global_channels": 64, "dilations": [1, 2]}
    assert upgraded({"model": typed}, "saliency")["model"] == typed | {"architecture": "edn_legacy"}
    of_today = {"architecture": "edn", "channels": [32] * 6, "global_channels": 64}
    assert upgraded({"model": of_today}, "saliency")["model"] == of_today


RUN = {"optimizer": "adamw", "schedule": "cosine", "milestones": [], "gamma": 0.1, "power": 1.0, "warmup_epochs": 1.0}
RUN |= {"warmup_iterations": None, "cooldown_epochs": 0, "min_lr": 1e-6}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"gamma": None, "power": None}),
        ({"power": 0.9}, {"power": None, "gamma": None}),
        ({"schedule": "poly", "power": 0.9}, {"schedule": "poly", "power": 0.9, "gamma": None}),
        (
            {"schedule": "step", "milestones": [3], "min_lr": 1e-5},
            {"schedule": "step", "milestones": [3], "power": None, "min_lr": None, "warmup_lr": 1e-5},
        ),
        (
            {"schedule": "step", "warmup_epochs": 0},
            {"schedule": "step", "warmup_epochs": 0, "power": None, "gamma": None, "min_lr": None},
        ),
        ({"warmup_iterations": 500}, {"warmup_iterations": 500, "warmup_epochs": None, "gamma": None, "power": None}),
    ],
)
def test_runs_lose_what_had_no_effect(changes, expected):
    """Their files hold every option; the options that they stand for are accepted."""
    found = upgraded({"task": "detection", "optimization": {**RUN, **changes}})["optimization"]
    assert found == {**RUN, **changes, **expected}
    Optimization(**found).check(1e-3)
    assert upgraded({"optimization": found}) == {"optimization": found}


def test_runs_by_steps_have_no_epochs():
    run = {"task": "semantic", "epochs": 50, "iterations": 400, "optimization": dict(RUN)}
    assert "epochs" not in upgraded(run)
    assert upgraded({**run, "iterations": None})["epochs"] == 50


def test_runs_with_augmentation_policy_have_no_color_jitter():
    run = {"task": "classification", "optimization": dict(RUN)}
    policy = {"color_jitter": 0.4, "auto_augment": "rand-m9-mstd0.5-inc1"}
    assert upgraded({**run, "augmentation": policy})["augmentation"] == {**policy, "color_jitter": None}
    plain = {"color_jitter": 0.4, "auto_augment": None}
    assert upgraded({**run, "augmentation": plain})["augmentation"] == plain


def test_hand_written_files_keep_what_has_no_effect():
    """It is refused where the options are checked, not dropped without a word."""
    mine = {"optimization": {"schedule": "cosine", "power": 0.9}, "epochs": 3, "iterations": 5}
    assert upgraded(mine, "semantic") == mine
