"""What the recipes of ADE20K set, read off the objects that use it: VAN-Segmentation's configurations and test."""

import pytest
import torch
from timm.layers.drop import DropPath
from torchvision.transforms import v2

from van.data.transforms import PhotometricDistortion, RandomCropOrPad, RandomScale
from van.engine.api import train_options
from van.engine.config import list_recipes
from van.engine.fit import length
from van.networks.segmentation.semantic import semantic_loss
from van.tasks.semantic.learner import SemanticLearner
from van.tasks.semantic.task import TASK

pytest.importorskip("transformers")

# backbone, rate of stochastic depth, images per step
FPN = {
    "fpn_van_b0_ade20k": ("van_b0", 0.2, 32),
    "fpn_van_b1_ade20k": ("van_b1", 0.2, 32),
    "fpn_van_b2_ade20k": ("van_b2", 0.2, 32),
    "fpn_van_b3_ade20k": ("van_b3", 0.3, 32),
}
UPERNET = {
    "upernet_van_b0_ade20k": ("van_b0", 0.1, 16),
    "upernet_van_b1_ade20k": ("van_b1", 0.1, 16),
    "upernet_van_b2_ade20k": ("van_b2", 0.1, 16),
    "upernet_van_b3_ade20k": ("van_b3", 0.3, 16),
    "upernet_van_b4_ade20k": ("van_b4", 0.4, 32),
    "upernet_van_b4_in22k_ade20k": ("van_b4.mmseg_in22k", 0.4, 32),
    "upernet_van_b5_in22k_ade20k": ("van_b5.mmseg_in22k", 0.4, 16),
    "upernet_van_b6_in22k_ade20k": ("van_b6.mmseg_in22k", 0.5, 16),
}
DEPTHS = {"van_b0": 13, "van_b1": 10, "van_b2": 21, "van_b3": 38, "van_b4": 52, "van_b5": 33, "van_b6": 108}


def options_of(name):
    return train_options(config=f"semantic/{name}")[1]


def test_every_recipe_of_ade20k_is_here():
    assert {f"semantic/{name}" for name in FPN | UPERNET} == {n for n in list_recipes("semantic") if "ade20k" in n}


@pytest.mark.parametrize(("name", "expected"), (FPN | UPERNET).items())
class TestEveryRecipe:
    def test_network_and_loss(self, name, expected):
        backbone, rate, _ = expected
        options = options_of(name)
        network, _, _ = TASK.counted(options, 150)
        assert options.model.backbone == backbone
        assert options.pretrained == (None if name == "upernet_van_b4_ade20k" else "hub")
        rates = [block.drop_path for block in network.modules() if hasattr(block, "drop_path")]
        rates = [path.drop_prob if isinstance(path, DropPath) else 0.0 for path in rates]
        assert rates == pytest.approx(torch.linspace(0, rate, DEPTHS[backbone.partition(".")[0]]).tolist(), abs=1e-6)
        assert options.model.mean == [0.485, 0.456, 0.406]
        assert options.model.std == [0.229, 0.224, 0.225]
        # cross-entropy over all pixels: half of them are ignored, and the loss of the others is ln 150
        labels = torch.tensor([[[0, 255]]])
        loss = semantic_loss(torch.zeros(1, 150, 1, 2), labels, network.loss_over)
        assert loss.item() == pytest.approx(5.0106 / 2, abs=1e-4)
        drops = [module.p for module in network.modules() if isinstance(module, torch.nn.Dropout2d)]
        if name in UPERNET:
            assert (network.auxiliary_weight, drops) == (0.4, [0.1, 0.1])
            assert network.decode_head.fpn_bottleneck.conv.out_channels == 512
            assert network.auxiliary_head.convs[0].conv.out_channels == 256
        else:
            assert drops == [0.1]
            assert network.neck.inner_blocks[0][0].out_channels == 256
            assert network.head.classifier.in_channels == 128

    def test_augmentation(self, name, expected):
        scale, crop, flip, colors = options_of(name).augmentation.transform().transforms
        assert isinstance(scale, RandomScale)
        assert (tuple(scale.fit), tuple(scale.scale_range), scale.antialias) == ((512, 2048), (0.5, 2.0), False)
        assert isinstance(crop, RandomCropOrPad)
        assert (tuple(crop.size), crop.max_class_share) == ((512, 512), 0.75)
        assert isinstance(flip, v2.RandomHorizontalFlip)
        assert flip.p == 0.5
        assert isinstance(colors, PhotometricDistortion)
        assert colors.probability == 0.5
        assert colors.ranges == {
            "brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-18, 18)
        }  # fmt: skip

    def test_optimizer_and_schedule(self, name, expected):
        options = options_of(name)
        epochs, each = length(options)
        learner = SemanticLearner(torch.nn.Conv2d(3, 3, 1), ["a"], options).plan(epochs, each, by_steps=True)
        (optimizer,), (schedule,) = learner.configure_optimizers()
        assert isinstance(optimizer, torch.optim.AdamW)
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
        steps, high, decay, warmup, power = (
            (160000, 6e-5, 0.01, 1500, 1.0) if name in UPERNET else (40000, 2e-4, 1e-4, 0, 0.9)
        )
        assert (epochs, each) == (10, steps // 10)
        assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, decay}
        for step in (0, 750, 1499, 1500, 20000, steps - 1):
            schedule["scheduler"].step_update(step)
            rate = high * (step / warmup if step < warmup else (1 - step / steps) ** power)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-3)
        assert options.batch_size == expected[2]
        assert options.optimization.ema_decay is None
        assert options.optimization.clip_grad is None

    def test_validation_and_test(self, name, expected):
        options = options_of(name)
        view = SemanticLearner(torch.nn.Conv2d(3, 3, 1), ["a"], options).view
        assert not view.slide
        assert not view.antialias
        if name in UPERNET:
            assert view.flip_test
            # the sides that the published test gives an image of 480 x 640: fitted, then up to multiples of 32
            assert [view.size_for(480, 640, scale) for scale in view.scales] == [
                (256, 352), (384, 512), (512, 704), (640, 864), (768, 1024), (896, 1216)
            ]  # fmt: skip
        else:
            assert not view.flip_test
            assert [view.size_for(480, 640, scale) for scale in view.scales] == [(512, 704)]
