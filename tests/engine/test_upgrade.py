import pytest

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
    old, new = {"size": [16, 16], "margin": 4}, {"crop_size": [16, 16], "crop_margin": 4}
    assert upgraded({"augmentation": old}, "saliency")["augmentation"] == new
