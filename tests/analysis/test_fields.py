import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import van
from van.analysis.counting import theoretical_extent
from van.analysis.fields import ReceptiveField, random_crops, receptive_field, square_side
from van.errors import VanError

SMALL = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}


def field_of(network, layer, *sizes):
    generator = torch.Generator().manual_seed(0)
    return receptive_field(network, [torch.randn(3, *size, generator=generator) for size in sizes], layer)


def test_one_convolution_by_hand():
    """ReLU open everywhere: the energy is the absolute weight, at the place of the central output."""
    conv = nn.Conv2d(3, 4, 3, padding=1)
    nn.init.constant_(conv.bias, 100.0)
    field = field_of(nn.Sequential(conv), "0", (9, 11))
    expected = np.zeros((9, 11))
    expected[3:6, 4:7] = conv.weight.sum(0).abs().sum(0).detach().numpy()
    np.testing.assert_allclose(field.energy, expected / expected.sum(), atol=1e-6)
    assert field.energy.sum() == pytest.approx(1)
    assert square_side(field.energy, 0.99) == 3
    assert field.area_ratios()[0.99] == 9 / 99


def test_mean_over_images_is_the_mean_of_each():
    torch.manual_seed(0)
    model = van.create_model("van_b0", num_classes=0, ls_init_value=1.0, **SMALL)
    images = [torch.randn(3, 64, 64) for _ in range(2)]
    both = receptive_field(model, images)
    single = [receptive_field(model, [image]) for image in images]
    assert both.images == 2
    assert both.layer == "stages.3"
    # energies are normalised last: the mean is weighted by how strong each gradient is
    low = np.minimum(single[0].energy, single[1].energy)
    high = np.maximum(single[0].energy, single[1].energy)
    assert ((both.energy >= low * (1 - 1e-3) - 1e-9) & (both.energy <= high * (1 + 1e-3) + 1e-9)).all()


def test_nothing_outside_the_theoretical_extent():
    torch.manual_seed(0)
    model = van.create_model("van_b0", num_classes=0, ls_init_value=1.0, kernel_size=3, dilation=1, **SMALL)
    short = van.create_model("van_b0", num_classes=0, kernel_size=3, dilation=1, embed_dims=(8,), depths=(1,),
                             mlp_ratios=(2,), ls_init_value=1.0)  # fmt: skip
    # 7 by the embedding; at stride 4: 1x1 and 3x3 of LKA and 3x3 of the feed-forward half
    assert theoretical_extent(short) == 7 + 4 * (2 + 2)
    field = field_of(short, None, (64, 64))
    rows = np.flatnonzero(field.energy.sum(1))
    assert rows[-1] - rows[0] + 1 == 23
    assert theoretical_extent(model) > 23
    assert theoretical_extent(van.create_model("van_b2", device="meta")) == 7839


def test_checkpointing_changes_nothing_but_memory():
    torch.manual_seed(0)
    model = van.create_model("van_b0", num_classes=0, ls_init_value=1.0, **SMALL).train()
    image = torch.randn(3, 64, 64)
    ours = receptive_field(model, [image], "stages.1.blocks.0.attn.lka")
    assert model.training
    assert not any(stage.grad_checkpointing for stage in model.stages)
    model.eval()
    x = image[None].requires_grad_()
    maps = []
    model.stages[1].blocks[0].attn.lka.register_forward_hook(lambda m, i, o: maps.append(o))
    model(x)
    (gradient,) = torch.autograd.grad(maps[0][0, :, 4, 4].relu().sum(), x)
    expected = gradient.abs().sum((0, 1)).numpy()
    np.testing.assert_allclose(ours.energy, expected / expected.sum(), atol=1e-7)


def test_other_networks():
    torch.manual_seed(0)
    network = timm.create_model("resnet10t")
    assert field_of(network, None, (64, 64)).energy.shape == (64, 64)


def test_squares_are_around_the_centre_of_the_image():
    energy = np.zeros((9, 9))
    energy[4, 4], energy[4, 6], energy[2, 4] = 0.5, 0.25, 0.25
    assert [square_side(energy, share) for share in (0.2, 0.5, 0.51, 1.0)] == [1, 1, 5, 5]
    aside = np.zeros((9, 9))
    aside[1, 1] = 1.0  # wherever the energy is
    assert square_side(aside, 0.2) == 7


def test_centre_of_even_sizes_is_the_pixel_behind_the_middle():
    energy = np.zeros((8, 6))
    energy[4, 3] = 1.0
    assert square_side(energy, 1.0) == 1
    energy[4, 3], energy[3, 2] = 0.0, 1.0
    assert square_side(energy, 1.0) == 3


def test_area_outside_the_image_does_not_count():
    energy = np.zeros((8, 16))
    energy[4, 8], energy[4, 2] = 0.6, 0.4
    # 13 pixels around column 8, of which the 8 rows of the image hold 8
    assert ReceptiveField(energy, 1, "x").area_ratios([0.5, 1.0]) == {0.5: 1 / 128, 1.0: 8 * 13 / 128}


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_share_out_of_range(share):
    with pytest.raises(VanError, match="share is"):
        square_side(np.ones((3, 3)), share)


def test_zero_is_said():
    with pytest.raises(VanError, match="zero everywhere"):
        square_side(np.zeros((3, 3)), 0.5)
    dead = nn.Conv2d(3, 4, 3)
    nn.init.constant_(dead.bias, -100.0)
    with pytest.raises(VanError, match="gradient of layer 0 of Sequential is zero everywhere"):
        field_of(nn.Sequential(dead), "0", (8, 8))


def test_bad_images():
    model = van.create_model("van_b0", num_classes=0, **SMALL)
    with pytest.raises(VanError, match="no images"):
        receptive_field(model, [])
    with pytest.raises(VanError, match="one size"):
        field_of(model, None, (32, 32), (64, 64))
    with pytest.raises(VanError, match="smaller than the stride 32"):
        field_of(model, None, (16, 32))
    with pytest.raises(VanError, match="has no layer 'nose'"):
        field_of(model, "nose", (32, 32))


def test_time_limit_stops_after_an_image():
    model = van.create_model("van_b0", num_classes=0, **SMALL)
    done = []
    field = receptive_field(model, [torch.randn(3, 32, 32)] * 5, max_seconds=0.0, progress=done.append)
    assert field.images == 1
    assert done == [1]


def test_random_crops_repeat_and_have_the_size():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    first, second = (list(random_crops([picture], 3, (32, 64), seed=7)) for _ in range(2))
    assert [p.size for p in first] == [(64, 32)] * 3
    assert [p.tobytes() for p in first] == [p.tobytes() for p in second]
    assert first[0].tobytes() != first[1].tobytes()
