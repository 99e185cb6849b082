from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

import van  # noqa: F401 - registers the backbones
from van.analysis.counting import complexity
from van.errors import DataError, VanError
from van.networks.options import EDNOptions
from van.networks.registry import architectures, from_dict
from van.networks.saliency import ExtremelyDownsampledBlock, ScaleCorrelatedPyramidConv, saliency_loss

TINY = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}


def tiny(**arguments):
    torch.manual_seed(0)
    return EDNOptions(**{"backbone_args": TINY, "channels": [16] * 6, "global_channels": 16, **arguments}).build(1)


def batch(size=(64, 64)):
    """Two images with a red square each on green, and the square."""
    masks = torch.zeros(2, *size)
    masks[0, 8:40, 8:40] = 1
    masks[1, 24:60, 16:56] = 1
    colours = torch.tensor([[0.1, 0.8, 0.1], [0.9, 0.2, 0.1]])
    return colours[masks.long()].permute(0, 3, 1, 2).contiguous(), masks


class Maps(nn.Module):
    """Stands for a backbone: gives the maps that it is told to."""

    def forward(self, images):
        return list(self.maps)


@pytest.mark.parametrize(("backbone", "params"), [("van_b1", 18.45), ("van_b2", 31.16)])
def test_the_head_has_the_published_size(backbone, params):
    model = EDNOptions(backbone=backbone).build(1, device="meta")
    head = [p for name, p in model.named_parameters() if not name.startswith("backbone.")]
    convolutions = [m for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and "backbone" not in name]
    assert (sum(p.numel() for p in head), len(convolutions)) == (5_095_301, 92)
    counted = complexity(model, model.input_size)
    assert model.input_size == (3, 384, 384)
    assert counted.params / 1e6 == pytest.approx(params, abs=0.01)
    assert counted.macs > 5e9


def test_published_code_agrees(golden_fill, request):
    """The head returns what the published one returns for the same weights and maps.

    Weights are filled by the names of the state dict, maps are map-0 to map-3, salient is what exceeds 0.4 in mask. The
    file holds every eighth value of the finest level, and the loss of each level in training mode.
    """
    golden = np.load(request.path.parents[1] / "golden" / "edn.npz")
    size = (192, 352)  # whose coarsest maps are rounded down
    model = EDNOptions(backbone="van_b1").build(1)
    model.backbone = Maps()
    model.backbone.maps = []
    for i, (channels, stride) in enumerate(((64, 4), (128, 8), (320, 16), (512, 32))):
        shape = (2, channels, size[0] // stride, size[1] // stride)
        values = golden_fill.unit(f"map-{i}", int(np.prod(shape))).reshape(shape)
        model.backbone.maps.append(torch.from_numpy(values.astype(np.float32)))
    state = model.state_dict()
    model.load_state_dict({k: torch.from_numpy(np.asarray(golden_fill.fill(k, tuple(state[k].shape)))) for k in state})
    images, mask = torch.zeros(2, 3, *size), torch.from_numpy(golden_fill.unit("mask", 2 * size[0] * size[1]) > 0.4)
    with torch.no_grad():
        saliency = model.eval()(images)
        losses = model.train()(images, mask.reshape(2, *size))
    np.testing.assert_allclose(saliency[:, 0, ::8, ::8], golden["saliency"], atol=1e-5)
    finest, *others = golden["losses"]
    assert losses["saliency"].item() == pytest.approx(finest, abs=1e-5)
    assert losses["supervision"].item() == pytest.approx(sum(others), abs=1e-5)


def test_any_size_gives_a_probability_for_each_pixel():
    model = tiny().eval()
    for size in ((64, 64), (33, 47), (1, 200)):
        images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
        with torch.no_grad():
            maps = model(images)
            torch.testing.assert_close(model(images / 255), maps)
        assert maps.shape == (1, 1, *size)
        assert 0 <= maps.min() <= maps.max() <= 1


def test_extremely_downsampled_maps_are_halved_rounding_down_to_1():
    block = ExtremelyDownsampledBlock(8, 16).eval()
    sizes = ((12, 9), (2, 1))
    shapes = [[tuple(x.shape[-2:]) for x in block(torch.rand(1, 8, *size))] for size in sizes]
    assert shapes == [[(6, 4), (3, 2)], [(1, 1), (1, 1)]]


def test_a_part_of_the_pyramid_convolution_sees_what_the_one_before_made():
    module = ScaleCorrelatedPyramidConv(8, 3, (1, 2)).eval()
    seen = []
    module.parts[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.rand(1, 8, 9, 9)
    with torch.no_grad():
        assert module(x).shape == x.shape
        first, second = module.expand(x).chunk(2, 1)
        torch.testing.assert_close(seen[0], second + module.parts[0](first))
    assert [part[0].dilation for part in module.parts] == [(1, 1), (2, 2)]


def test_every_level_but_the_coarsest_is_supervised():
    model = tiny().train()
    losses = model(*batch())
    assert set(losses) == {"saliency", "supervision"}
    losses["supervision"].backward()
    assert [c.weight.grad is not None for c in model.classifiers] == [False] + [True] * 4
    (losses := model(*batch()))["saliency"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_loss_is_cross_entropy_and_dice_of_the_pixels_that_count_in_all_images():
    logits, mask = torch.tensor([2.0, -1.0, 5.0]).view(3, 1, 1, 1), torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1, 1)
    counts = torch.tensor([True, True, False]).view(3, 1, 1, 1)
    p = torch.tensor([2.0, -1.0]).sigmoid()
    entropy = -(p[0].log() + (1 - p[1]).log()) / 2
    dice = 1 - 2 * p[0] / (p.sum() + 1)
    assert saliency_loss(logits, mask, counts, 0.5).item() == pytest.approx((entropy + 0.5 * dice).item(), rel=1e-4)


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
    for channels in ([16] * 5, [16] * 5 + [15], [16] * 5 + [2]):
        with pytest.raises(VanError, match="six even numbers"):
            tiny(channels=channels)
    with pytest.raises(VanError, match="2 outputs"):
        EDNOptions().build(2)


def test_networks_of_earlier_versions_are_built_and_trained():
    old = {"backbone_args": TINY, "arguments": {"channels": 16, "global_channels": 8}}
    options = from_dict("saliency", old)
    typed = asdict(options) | {"architecture": "edn"}  # as it was called before
    assert options == from_dict("saliency", typed)
    assert options.architecture == "edn_legacy"
    assert architectures("saliency") == ["edn"]
    model = options.build(1).train()
    model(*batch())["supervision"].backward()
    assert [c.weight.grad is not None for c in model.classifiers] == [False] + [True] * 5
    assert model.eval()(batch()[0]).shape == (2, 1, 64, 64)
