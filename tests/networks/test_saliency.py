from dataclasses import asdict

import pytest
import torch

import van  # noqa: F401 - registers the backbones
from van.analysis.counting import complexity
from van.errors import DataError, VanError
from van.networks.options import EDNOptions
from van.networks.saliency import ExtremelyDownsampledBlock, ScaleCorrelatedPyramidConv, saliency_loss

TINY = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}


def tiny(**arguments):
    torch.manual_seed(0)
    return EDNOptions(**{"backbone_args": TINY, "channels": 16, "global_channels": 16, **arguments}).build(1)


def batch(size=(64, 64)):
    """Two images with a red square each on green, and the square."""
    masks = torch.zeros(2, *size)
    masks[0, 8:40, 8:40] = 1
    masks[1, 24:60, 16:56] = 1
    colours = torch.tensor([[0.1, 0.8, 0.1], [0.9, 0.2, 0.1]])
    return colours[masks.long()].permute(0, 3, 1, 2).contiguous(), masks


def test_sizes_of_the_papers_networks():
    for backbone, params in (("van_b1", 17.86), ("van_b2", 30.57)):
        model = EDNOptions(backbone=backbone).build(1, device="meta")
        counted = complexity(model, model.input_size)
        assert model.input_size == (3, 384, 384)
        assert counted.params / 1e6 == pytest.approx(params, abs=0.01)
        assert counted.macs > 5e9


def test_any_size_gives_a_probability_for_each_pixel():
    model = tiny().eval()
    for size in ((64, 64), (33, 47), (1, 200)):
        images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
        with torch.no_grad():
            maps = model(images)
            torch.testing.assert_close(model(images / 255), maps)
        assert maps.shape == (1, 1, *size)
        assert 0 <= maps.min() <= maps.max() <= 1


def test_extremely_downsampled_maps_are_at_64_and_128():
    half, quarter = ExtremelyDownsampledBlock(8, 16).eval()(torch.rand(1, 8, 12, 9))
    assert half.shape == (1, 16, 6, 5)
    assert quarter.shape == (1, 16, 3, 3)


def test_a_part_of_the_pyramid_convolution_sees_what_the_one_before_made():
    module = ScaleCorrelatedPyramidConv(8, 8, (1, 2)).eval()
    seen = []
    module.parts[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.rand(1, 8, 9, 9)
    with torch.no_grad():
        module(x)
        first, second = module.reduce(x).chunk(2, 1)
        torch.testing.assert_close(seen[0], second + module.parts[0](first))
    assert [part[0].dilation for part in module.parts] == [(1, 1), (2, 2)]


def test_every_level_is_supervised():
    model = tiny().train()
    losses = model(*batch())
    assert set(losses) == {"saliency", "supervision"}
    losses["supervision"].backward()
    assert [c.weight.grad is not None for c in model.classifiers] == [False] + [True] * 5
    (losses := model(*batch()))["saliency"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_loss_is_cross_entropy_and_dice_of_the_pixels_that_count():
    logits, mask = torch.tensor([2.0, -1.0, 5.0]).view(1, 1, 1, 3), torch.tensor([1.0, 0.0, 0.0]).view(1, 1, 1, 3)
    counts = torch.tensor([True, True, False]).view(1, 1, 1, 3)
    p = torch.tensor([2.0, -1.0]).sigmoid()
    entropy = -(p[0].log() + (1 - p[1]).log()) / 2
    dice = 1 - (2 * p[0] + 1) / (p.sum() + 1 + 1)
    assert saliency_loss(logits, mask, counts, 0.5).item() == pytest.approx((entropy + 0.5 * dice).item(), rel=1e-5)


def test_ignored_pixels_change_nothing_and_all_ignored_is_zero():
    model = tiny().train()
    images, masks = batch()
    masks[:, :20] = 255
    first = model(images, masks)
    assert all(loss.isfinite() for loss in first.values())
    losses = model(images, torch.full_like(masks, 255))
    assert all(loss.item() == 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_learns_to_find_the_square():
    model = tiny().train()
    images, masks = batch()
    images = torch.cat([images, images.flip(2), images.flip(3)])  # the coarsest map has one position an image
    masks = torch.cat([masks, masks.flip(1), masks.flip(2)])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(50):
        loss = torch.stack(list(model(images, masks[:, None]).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(images)[:, 0] > 0.5
    assert (found == masks.bool()).float().mean() > 0.95


def test_state_comes_back_from_the_completed_options():
    model = tiny().eval()
    again = EDNOptions(**asdict(model.options)).build(1).eval()
    again.load_state_dict(model.state_dict())
    images, _ = batch()
    with torch.no_grad():
        torch.testing.assert_close(again(images), model(images), rtol=0, atol=0)


def test_wrong_targets_and_options_are_named():
    model = tiny().train()
    images, masks = batch()
    with pytest.raises(DataError, match="by 255"):
        model(images, (masks * 255).byte())
    with pytest.raises(DataError, match=r"of shape \(2, 64, 64\)"):
        model(images, masks[:, :8])
    with pytest.raises(DataError, match="Raise the batch size"):
        model(images[:1], masks[:1])
    with pytest.raises(VanError, match="channels a multiple"):
        tiny(channels=18)
    with pytest.raises(VanError, match="2 outputs"):
        EDNOptions().build(2)
