import numpy as np
import pytest
import timm
import torch
from captum.attr import LayerGradCam
from torch import nn

import van
from van.analysis.cam import grad_cam, lka_attention
from van.analysis.networks import default_layer
from van.errors import VanError

SMALL = {"embed_dims": (8, 8, 16, 16), "depths": (1, 2, 1, 1), "mlp_ratios": (2, 2, 2, 2)}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return van.create_model("van_b0", num_classes=5, ls_init_value=1.0, **SMALL)


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def captum(network, images, layer, classes):
    target = torch.as_tensor(classes)
    return LayerGradCam(network.eval(), network.get_submodule(layer)).attribute(images, target, relu_attributions=True)


@pytest.mark.parametrize("layer", [None, "stages.1", "stages.2.blocks.0.attn.lka", "stages.0.patch_embed.proj"])
def test_agrees_with_captum(model, images, layer):
    """Other layers: behind a norm, inside a block, before a norm."""
    ours = grad_cam(model, images, layer=layer)
    theirs = captum(model, images, layer or "stages.3", ours.classes)
    assert ours.maps.max() > 0
    np.testing.assert_allclose(ours.maps, theirs[:, 0].detach().numpy(), rtol=1e-4, atol=1e-5 * ours.maps.max())


def test_other_networks_agree_with_captum(images):
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=4)
    ours = grad_cam(network, images, classes=3)
    theirs = captum(network, images, "layer4", [3, 3])
    np.testing.assert_allclose(ours.maps, theirs[:, 0].detach().numpy(), rtol=1e-4, atol=1e-7)


def test_tokens_and_channels_last_maps_become_maps():
    torch.manual_seed(0)
    tokens = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=(32, 64), depth=2, embed_dim=48)
    assert default_layer(tokens) == "blocks.1.norm1"
    assert grad_cam(tokens, torch.randn(1, 3, 32, 64)).maps.shape == (1, 2, 4)
    windows = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, img_size=64, window_size=2,
                                depths=(1, 1, 1, 1), embed_dim=24)  # fmt: skip
    assert grad_cam(windows, torch.randn(1, 3, 64, 64), layer="layers.1").maps.shape == (1, 8, 8)


def test_predicted_class_and_one_class_for_each_image(model, images):
    predicted = grad_cam(model, images)
    assert predicted.classes.tolist() == model.eval()(images).argmax(1).tolist()
    np.testing.assert_allclose(predicted.probabilities.sum(axis=1), 1, rtol=1e-5)
    both = grad_cam(model, images, [1, 4]).maps
    np.testing.assert_allclose(both[1], grad_cam(model, images[1:], 4).maps[0], rtol=1e-3, atol=1e-6)


def test_model_is_left_as_it_was(model, images):
    model.train()
    model.stages[0].eval()
    model.head.fc.weight.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grad_cam(model, images)
    lka_attention(model, images)
    assert model.training
    assert not model.stages[0].training
    assert [p.requires_grad for p in model.head.parameters()] == [False, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model.head.fc.weight.requires_grad_(True)


def test_rounding_is_not_drawn(images):
    """The mean over LayerNorm's channels is constant: the gradient that is left of it is rounding (design, trap 11)."""

    class MeanOfNormalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 4, 4)
            self.norm = nn.GroupNorm(1, 8)

        def forward(self, x):
            total = self.norm(self.conv(x)).mean((1, 2, 3))
            return torch.stack([total, -total], 1)

    cam = grad_cam(MeanOfNormalised(), images, 0, "conv")
    assert cam.is_zero.all()
    assert (cam.maps == 0).all()


def test_no_evidence_is_zero(model, images):
    negative = van.create_model("van_b0", num_classes=2, **SMALL)
    with torch.no_grad():
        negative.head.fc.weight.zero_()
    assert grad_cam(negative, images).is_zero.all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layer": "stages.7"}, ["no layer 'stages.7'", "stages.0.patch_embed", "head.fc"]),
        ({"classes": 5}, ["Class 5", "5 classes, 0 to 4"]),
        ({"classes": -1}, ["Class -1"]),
        ({"classes": [1, 2, 3]}, ["3 classes", "2 images"]),
        ({"layer": "head.fc"}, ["head.fc", "no map"]),
        ({"layer": "head.global_pool"}, ["head.global_pool", "no map"]),
    ],
)
def test_bad_arguments(model, images, arguments, words):
    with pytest.raises(VanError) as error:
        grad_cam(model, images, **arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_image_smaller_than_a_stride(model):
    with pytest.raises(VanError, match=r"31 x 64 pixels are smaller than the stride 32 of stages\.3"):
        grad_cam(model, torch.randn(1, 3, 31, 64))
    with pytest.raises(VanError, match="stride 32"):
        lka_attention(model, torch.randn(1, 3, 16, 64))
    assert grad_cam(model, torch.randn(1, 3, 31, 64), layer="stages.0").maps.shape == (1, 8, 16)


def test_network_for_one_size_only(images):
    network = nn.Sequential(nn.Conv2d(3, 2, 4, 4), nn.Flatten(), nn.Linear(8, 4))
    assert grad_cam(network, torch.randn(1, 3, 8, 8), 0, "0").maps.shape == (1, 2, 2)
    with pytest.raises(VanError, match=r"Sequential cannot take images of 64 x 96 pixels \(.*\)\. Give another size"):
        grad_cam(network, images, 0, "0")


def test_network_without_maps():
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    with pytest.raises(VanError, match="does not list its feature maps"):
        grad_cam(network, torch.randn(1, 3, 4, 4))
    with pytest.raises(VanError, match="no map with height and width"):
        grad_cam(network, torch.randn(1, 3, 4, 4), layer="0")


def test_layer_that_is_not_used(images):
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)

        def forward(self, x):
            return self.used(x).mean((2, 3))

    with pytest.raises(VanError, match="not used"):
        grad_cam(Idle(), images, 0, "idle")


def test_attention_is_the_gate_of_the_block(model, images):
    model.eval()
    maps = lka_attention(model, images)
    assert {name: m.shape for name, m in maps.items()} == {
        "stages.0.blocks.0.attn.lka": (2, 16, 24),
        "stages.1.blocks.1.attn.lka": (2, 8, 12),
        "stages.2.blocks.0.attn.lka": (2, 4, 6),
        "stages.3.blocks.0.attn.lka": (2, 2, 3),
    }
    with torch.no_grad():
        block = model.stages[0].blocks[0]
        x = block.attn.act(block.attn.proj_1(block.norm1(model.stages[0].patch_embed(images))))
        gate = block.attn.lka(x) / x  # Eq. 2: the output is attention times x
    expected = gate.abs().mean(1).numpy()
    near = np.abs(x.numpy()).min(axis=1) > 1e-4  # where the quotient is exact enough
    np.testing.assert_allclose(maps["stages.0.blocks.0.attn.lka"][near], expected[near], rtol=1e-2)
    assert near.any()


def test_attention_of_other_blocks_and_networks(model, images):
    with pytest.raises(VanError, match=r"stages\.0 has 1 blocks"):
        lka_attention(model, images, block=1)
    with pytest.raises(VanError, match="no large kernel attention"):
        lka_attention(nn.Conv2d(3, 3, 1), images)
