"""What the recipes of ImageNet set, read off the objects that use it: the published commands and their code."""

import pytest
import torch
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.layers.drop import DropPath
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from van.engine.api import train_options
from van.engine.config import list_recipes
from van.engine.fit import length
from van.tasks.classification.learner import ClassificationLearner
from van.tasks.classification.task import TASK, _preprocessing

# rate of stochastic depth
FROM_SCRATCH = {f"van_b{i}_imagenet": rate for i, rate in enumerate((0.1, 0.1, 0.1, 0.2, 0.2))}
IN22K = {f"van_b{i}_imagenet22k": 0.1 for i in (4, 5, 6)}
TUNED = {f"van_b{i}_imagenet_from22k_{size}": 0.3 if i == 6 else 0.2 for i in (4, 5, 6) for size in (224, 384)}
ALL = FROM_SCRATCH | IN22K | TUNED
DEPTHS = {"van_b0": 13, "van_b1": 10, "van_b2": 21, "van_b3": 38, "van_b4": 52, "van_b5": 33, "van_b6": 108}
USUAL = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def options_of(name):
    return train_options(config=f"classification/{name}")[1]


def preprocessing_of(options):
    return _preprocessing(options.model, None, 3, options)


def learner_of(options):
    epochs, _ = length(options)
    return ClassificationLearner(torch.nn.Conv2d(3, 3, 1), options.num_classes, options).plan(epochs, 10)


def by_type(transform):
    return {type(step): step for step in transform.transforms}


def test_every_recipe_of_imagenet_is_here():
    assert {f"classification/{name}" for name in ALL} == {n for n in list_recipes("classification") if "imagenet" in n}


@pytest.mark.parametrize("name", ALL)
class TestEveryRecipe:
    def test_network(self, name):
        options = options_of(name)
        network, size, variant = TASK.counted(options, options.num_classes)
        paths = [block.drop_path for block in network.modules() if hasattr(block, "drop_path")]
        rates = [path.drop_prob if isinstance(path, DropPath) else 0.0 for path in paths]
        assert rates == pytest.approx(torch.linspace(0, ALL[name], DEPTHS[variant]).tolist(), abs=1e-6)
        assert network.num_classes == (21841 if name in IN22K else 1000)
        assert network.head_init_scale == 1.0
        side = 384 if name.endswith("384") else 224
        assert size == (3, side, side)
        assert (options.pretrained is None) == (name not in TUNED)

    def test_augmentation(self, name):
        options = options_of(name)
        steps = by_type(options.augmentation.transform(preprocessing_of(options)))
        crop = steps[RandomResizedCropAndInterpolation]
        assert (crop.scale, crop.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
        random = {InterpolationMode.BILINEAR, InterpolationMode.BICUBIC}
        if name in FROM_SCRATCH:
            assert set(crop.interpolation) == random
        else:
            assert crop.interpolation == InterpolationMode.BICUBIC
        assert steps[transforms.RandomHorizontalFlip].p == 0.5
        policy = steps[RandAugment]
        assert policy.num_layers == 2
        assert {(op.magnitude, op.hparams["magnitude_std"]) for op in policy.ops} == {(9, 0.5)}
        assert transforms.ColorJitter not in steps
        mean, std = ((0.5,) * 3,) * 2 if name in FROM_SCRATCH else USUAL
        normalize = steps[transforms.Normalize]
        assert torch.as_tensor(normalize.mean).tolist() == pytest.approx(mean)
        assert torch.as_tensor(normalize.std).tolist() == pytest.approx(std)
        # timm's loader erases what was mixed before; the code for ImageNet-22K erases each image, and mixes then
        learner = learner_of(options)
        erasing = learner.change.erase if name in FROM_SCRATCH else steps[RandomErasing]
        assert (erasing.probability, erasing.mode, erasing.max_count) == (0.25, "pixel", 1)
        assert (RandomErasing in steps) == (name not in FROM_SCRATCH)
        assert (learner.change.erase is None) == (name not in FROM_SCRATCH)

    def test_loss(self, name):
        learner = learner_of(options_of(name))
        assert learner.label_smoothing == 0.1
        if name in TUNED:
            assert learner.change.mix is None
            return
        mix = learner.change.mix
        assert (mix.mixup_alpha, mix.cutmix_alpha, mix.mix_prob, mix.switch_prob, mix.mode) == (
            0.8, 1.0, 1.0, 0.5, "batch"
        )  # fmt: skip

    def test_optimizer_and_schedule(self, name):
        options = options_of(name)
        (optimizer,), (schedule,) = learner_of(options).configure_optimizers()
        assert isinstance(optimizer, torch.optim.AdamW)
        epochs, batch, high, decay, warmup, cooldown = (
            (300, 1024, 1e-3, 0.05, 5, 10) if name in FROM_SCRATCH
            else (90, 8192, 4e-3, 0.05, 5, 0) if name in IN22K
            else (30, 512, 5e-5, 1e-8, 0, 0)
        )  # fmt: skip
        given = options.optimization
        assert (options.epochs, options.batch_size, given.cooldown_epochs) == (epochs, batch, cooldown)
        assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, decay}
        for step, rate in ((0, 1e-6 if warmup else high), (warmup * 10, high), (epochs * 10, 1e-6)):
            schedule["scheduler"].step_update(step)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-2)
        assert given.ema_decay is None
        assert given.clip_grad is None

    def test_validation(self, name):
        options = options_of(name)
        preprocessing = preprocessing_of(options)
        steps = by_type(create_transform(**preprocessing))
        resize, crop = steps[transforms.Resize], steps[transforms.CenterCrop]
        assert resize.interpolation == InterpolationMode.BICUBIC
        if name in FROM_SCRATCH:
            assert (resize.size, crop.size) == (248, (224, 224))  # timm's crop of 0.9
        elif name.endswith("384"):
            assert (tuple(resize.size), crop.size) == ((384, 384), (384, 384))  # both edges, nothing is cut off
        else:
            assert (resize.size, crop.size) == (256, (224, 224))
        assert (preprocessing["mean"], preprocessing["std"]) == (
            ((0.5,) * 3, (0.5,) * 3) if name in FROM_SCRATCH else USUAL
        )
