"""What the recipes of DUTS set, read off the objects that use it: EDN's train.py as its train.sh runs it."""

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from van.data.saliency import SaliencySplit
from van.data.transforms import RandomTrim
from van.engine.api import train_options
from van.engine.config import list_recipes
from van.engine.fit import length
from van.networks.saliency import EDN
from van.tasks.saliency.data import SaliencyData
from van.tasks.saliency.learner import SaliencyLearner
from van.tasks.saliency.task import TASK

RECIPES = {"edn_van_b1_duts": "van_b1", "edn_van_b2_duts": "van_b2"}
IMAGES = 10553  # of DUTS-TR
STEPS = 3 * 439  # an epoch is a pass at each of three sizes, in batches of 24


def test_every_recipe_of_duts_is_here():
    assert {f"saliency/{name}" for name in RECIPES} == {name for name in list_recipes("saliency") if "duts" in name}


@pytest.mark.parametrize("name", RECIPES)
class TestEveryRecipe:
    @pytest.fixture
    def options(self, name):
        return train_options(config=f"saliency/{name}")[1]

    @pytest.fixture
    def data(self, options):
        split = SaliencySplit([None] * IMAGES, [None] * IMAGES)
        return SaliencyData(options, 1, split, split)

    def test_network(self, name, options):
        network, size, _ = TASK.counted(options, 1)
        assert isinstance(network, EDN)
        assert size == (3, 384, 384)
        assert options.model.backbone == RECIPES[name]
        assert options.pretrained == "hub"
        assert network.dice_weight == 1
        assert len(network.classifiers) == 5

    def test_passes(self, options, data):
        assert (*length(options), options.batch_size) == (30, None, 24)
        assert data.steps(1) == STEPS
        sampler = data.train_dataloader().sampler
        batches = list(sampler)
        assert len(batches) == STEPS
        for size in range(3):
            indices = [index for batch in batches[size * 439 : (size + 1) * 439] for _, index in batch]
            assert len(set(indices)) == 439 * 24
            assert {index // IMAGES for index in indices} == {size}

    def test_augmentation(self, data):
        for side, dataset in zip((320, 352, 384), data.passes, strict=True):
            resize, trim, horizontal, vertical = dataset.transform.transforms
            assert resize.size == [side, side]
            assert trim.p == 0.5
            assert isinstance(trim.transforms[0], RandomTrim)
            assert int(trim.transforms[0].fraction * side) == {320: 10, 352: 11, 384: 12}[side]
            assert isinstance(horizontal, v2.RandomHorizontalFlip)
            assert isinstance(vertical, v2.RandomVerticalFlip)
            assert (horizontal.p, vertical.p) == (0.0, 0.5)

    def test_optimizer_and_schedule(self, options):
        learner = SaliencyLearner(nn.Conv2d(3, 3, 1), options).plan(30, STEPS)
        (optimizer,), (schedule,) = learner.configure_optimizers()
        assert type(optimizer) is torch.optim.Adam
        assert [(group["betas"], group["weight_decay"]) for group in optimizer.param_groups] == [((0.9, 0.99), 1e-4)]
        rates = []
        for step in (0, 100, 200, 20_000, 30 * STEPS - 1):
            schedule["scheduler"].step_update(step)
            rates.append(optimizer.param_groups[0]["lr"])
        expected = [0, 2.5e-5, *(5e-5 * (1 - step / (30 * STEPS)) ** 0.9 for step in (200, 20_000, 30 * STEPS - 1))]
        assert rates == pytest.approx(expected, rel=1e-6)
        assert options.optimization.weight_decay == 1e-4

    def test_evaluation(self, options):
        view = options.inference
        assert tuple(view.image_size) == (384, 384)
        assert (view.slide, view.scales, view.flip_test) == (False, [1.0], False)
        assert {metric.key for metric in SaliencyLearner(nn.Conv2d(3, 3, 1), options).metrics} >= {
            "max_F_of_means",
            "MAE",
        }
