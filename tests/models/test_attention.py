"""An attention from outside the package: with branches, a norm of its own, and names in a published layout."""

from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import van
from van.analysis.cam import lka_attention
from van.analysis.counting import complexity, layer_costs, theoretical_extent
from van.errors import WeightsError
from van.models import Attention, Checkpoint, LargeKernelAttention, LayerNames, read_checkpoint, write_checkpoint
from van.models.attention import SameSizeConv2d

SMALL = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 5}


class MultiScaleAttention(Attention):
    """Strip convolutions of several lengths, summed, as in SegNeXt."""

    kinds: ClassVar = {"local": "local", "strips": "strips", "mix": "mix"}
    layer_names = (
        LayerNames("local", "conv0"),
        LayerNames("strips.0.0", "conv0_1"),
        LayerNames("strips.0.1", "conv0_2"),
        LayerNames("strips.1.0", "conv1_1"),
        LayerNames("strips.1.1", "conv1_2"),
        LayerNames("norm", "norm"),
        LayerNames("mix", "conv3"),
    )

    def __init__(self, dim, lengths=(3, 7), device=None, dtype=None):
        super().__init__()
        dd = {"device": device, "dtype": dtype}

        def strip(*kernel):
            return nn.Conv2d(dim, dim, kernel, padding=[k // 2 for k in kernel], groups=dim, **dd)

        self.local = SameSizeConv2d(dim, dim, 5, groups=dim, **dd)
        self.strips = nn.ModuleList(nn.Sequential(strip(1, k), strip(k, 1)) for k in lengths)
        self.norm = nn.BatchNorm2d(dim, **dd)
        self.mix = nn.Conv2d(dim, dim, 1, bias=False, **dd)
        self.lengths = lengths

    def attention(self, x):
        x = self.local(x)
        return self.mix(self.norm(x + sum(strip(x) for strip in self.strips)))

    def forward_fused(self, x):
        return self.attention(x).mul_(x)

    def reach(self):
        return 4 + max(self.lengths) - 1


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = van.VAN(**SMALL, attn_layer=MultiScaleAttention)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = [p.clone() for p in model.parameters()]
    F.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return model.eval()


def test_attention_with_branches_is_fused(model):
    fused, x = van.fuse(model), torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x), rtol=1e-5, atol=1e-5)
    assert any(isinstance(m, MultiScaleAttention) for m in fused.modules())


def test_attention_with_branches_is_counted(model):
    rows = layer_costs(van.VAN(**SMALL, attn_layer=MultiScaleAttention, device="meta"), (3, 64, 64))
    first = {row.name: row for row in rows if row.name.startswith("stages.0.blocks.0.attn.lka.")}
    assert {row.kind for row in first.values()} == {"local", "strips", "mix", "norm"}
    assert first["stages.0.blocks.0.attn.lka.strips.1.0"].macs == 7 * 8 * 16 * 16
    assert (
        sum(row.macs for row in rows) == complexity(van.VAN(**SMALL, attn_layer=MultiScaleAttention), (3, 64, 64)).macs
    )
    assert theoretical_extent(van.VAN(**SMALL, attn_layer=partial(MultiScaleAttention, lengths=(3,)))) < (
        theoretical_extent(model)
    )


def test_theoretical_extent_is_that_of_the_gradient():
    model = van.VAN(in_chans=1, embed_dims=(2,), depths=(1,), mlp_ratios=(1,), attn_layer=MultiScaleAttention)
    model = model.double().eval()
    x = torch.rand(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
    model.forward_features(x)[0, 0, 20, 20].backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero()
    assert rows.max() - rows.min() + 1 == theoretical_extent(model)


def test_attention_with_branches_is_saved_and_loaded(model, tmp_path):
    state = model.state_dict()
    args = {key: list(SMALL[key]) for key in ("embed_dims", "depths", "mlp_ratios")}
    ckpt = Checkpoint(state, "van", None, 5, 3, args, layer_names=MultiScaleAttention.layer_names)
    path = write_checkpoint(ckpt, tmp_path / "weights.safetensors")
    again = van.create_model("van_b0", path, attn_layer=MultiScaleAttention)
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.state_dict().items())
    with pytest.raises(WeightsError, match=r"stages\.0\.blocks\.0\.attn\.lka"):
        van.create_model("van_b0", path)

    official = write_checkpoint(ckpt, tmp_path / "official.pth", "official")
    keys = torch.load(official, weights_only=True)["state_dict"]
    assert "block1.0.attn.spatial_gating_unit.conv1_2.weight" in keys
    again = van.VAN(**SMALL, attn_layer=MultiScaleAttention)
    van.load_weights(again, official)
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.state_dict().items())
    again = van.create_model("van_b0", official, attn_layer=partial(MultiScaleAttention, lengths=(3, 7)))
    assert torch.equal(again.head.fc.weight, state["head.fc.weight"])
    with pytest.raises(WeightsError, match="does not know"):
        read_checkpoint(official)
    with pytest.raises(WeightsError, match="mmpretrain format has no name"):
        write_checkpoint(ckpt, tmp_path / "mm.pth", "mmpretrain")


def test_attention_maps_of_any_attention(model):
    maps = lka_attention(model, torch.randn(1, 3, 64, 64))
    assert [m.shape for m in maps.values()] == [(1, 16 // 2**i, 16 // 2**i) for i in range(4)]


@pytest.mark.parametrize("layer", [nn.Identity, lambda dim, **dd: nn.Conv2d(dim, dim, 3, padding=1, **dd)])
def test_any_module_is_an_attention(layer):
    model, x = van.VAN(**SMALL, attn_layer=layer).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(van.fuse(model)(x), model(x), rtol=1e-5, atol=1e-5)
    kinds = {row.kind for row in layer_costs(model, (3, 64, 64)) if ".lka" in row.name}
    assert kinds <= {"convolution"}


@pytest.mark.parametrize("argument", [{"kernel_size": 7}, {"dilation": 2}, {"lka_variant": "sum"}])
def test_arguments_that_the_attention_lacks(argument):
    [name] = argument
    with pytest.raises(ValueError, match=rf"{name} is .*MultiScaleAttention"):
        van.VAN(**SMALL, **argument, attn_layer=MultiScaleAttention)
    van.VAN(**SMALL, **argument, attn_layer=LargeKernelAttention)
    with pytest.raises(ValueError, match=name):
        van.VAN(**SMALL, **argument, attn_layer=partial(MultiScaleAttention, lengths=(3,)))


def test_arguments_go_to_a_partial():
    model = van.VAN(**SMALL, kernel_size=7, attn_layer=partial(LargeKernelAttention, variant="sum"))
    lka = model.stages[0].blocks[0].attn.lka
    assert (lka.variant, lka.dw_conv.kernel_size) == ("sum", (3, 3))
