"""Every value of the recipes for COCO at the object that it is meant for."""

import pytest
import torch
from tests.tasks.recipe_values import drop_rates, network_of, options_of, rates

from van.data.shapes import KEYPOINTS
from van.engine.config import list_recipes
from van.networks.pose import CONFIDENT
from van.tasks.pose.options import PoseInference

RECIPES = [name for name in list_recipes("pose") if "_coco_" in name]
pytestmark = pytest.mark.parametrize("name", RECIPES)


def test_schedule_is_that_of_mmpose(name):
    options = options_of(name)
    assert (options.epochs, options.batch_size) == (210, 512)  # 64 on each of 8 GPUs
    optimizer, (start, half, *after) = rates(name, 293, 0, 250 / 293, 500 / 293, 169.9, 170.1, 200.1)
    assert type(optimizer) is torch.optim.Adam
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}
    assert start == pytest.approx(5e-7)
    assert half == pytest.approx(2.5e-4, rel=0.02)
    assert after == pytest.approx([5e-4, 5e-4, 5e-5, 5e-6])
    assert (options.optimization.clip_grad, options.optimization.ema_decay) == (None, None)


def test_drop_path_rises_to_the_rate(name):
    found = drop_rates(network_of(name))
    assert found == pytest.approx(torch.linspace(0, 0.2 if "b3" in name else 0.1, len(found)).tolist())


def test_random_changes(name):
    options = options_of(name)
    changes = options.augmentation.transform(list(KEYPOINTS), options.model.image_size).options
    assert (changes.shift, changes.shift_probability) == (0.16, 0.3)
    assert (changes.scale, changes.rotation, changes.rotation_probability) == (0.5, 40.0, 0.6)
    assert (changes.hflip, changes.half_body, changes.upper_half) == (0.5, 0.3, 0.69)


def test_network_and_loss(name):
    network = network_of(name)
    height, width = (384, 288) if "384" in name else (256, 192)
    sigma = 3 if "384" in name else 2
    assert network.input_size == (3, height, width)
    assert network.stride == 4
    assert (network.options.mean, network.options.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    # one labeled keypoint of 17: its Gaussian is on the nearest pixel, ends after 3 sigma, and the others count as 0
    keypoints = torch.zeros(1, 17, 3)
    keypoints[0, 3] = torch.tensor([101.3, 98.9, 2.0])
    steps = torch.arange(-3 * sigma, 3 * sigma + 1.0)
    square = torch.exp(-(steps**2) / sigma**2).sum() ** 2
    loss = network.loss(torch.zeros(1, 17, height // 4, width // 4), keypoints)
    assert loss.item() == pytest.approx(square.item() / (height * width / 16 * 17))


def test_own_evaluation_is_the_published_test(name):
    inference = PoseInference()
    assert (inference.flip_test, inference.oks_threshold, CONFIDENT) == (True, 0.9, 0.2)
