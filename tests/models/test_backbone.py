import copy

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

import van
from van.errors import VanError, WeightsError
from van.models.backbone import Backbone

TINY = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}


@pytest.mark.parametrize(("name", "channels"), [("van_b0", [64, 160, 256]), ("resnet18", [128, 256, 512])])
def test_maps_have_the_strides_asked_for(name, channels):
    backbone = Backbone(name, out_indices=(1, 2, 3)).eval()
    assert (backbone.channels, backbone.strides) == (channels, [8, 16, 32])
    maps = backbone(torch.rand(1, 3, 70, 100))
    sizes = zip(channels, (8, 16, 32), strict=True)
    assert [tuple(m.shape[1:]) for m in maps] == [(c, -(-70 // s), -(-100 // s)) for c, s in sizes]


def test_a_network_with_channels_last_maps_is_turned():
    backbone = Backbone("swin_tiny_patch4_window7_224", img_size=(64, 96), device="meta").eval()
    maps = backbone(torch.empty(1, 3, 64, 96, device="meta"))
    assert [tuple(m.shape[1:]) for m in maps] == [(96 * 2**i, 16 // 2**i, 24 // 2**i) for i in range(4)]


def test_maps_are_those_of_the_network(official_b0, tmp_path):
    torch.save({"state_dict": official_b0}, tmp_path / "b0.pth")
    backbone = Backbone("van_b0", tmp_path / "b0.pth").eval()
    model = van.create_model("van_b0", tmp_path / "b0.pth").eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps = model.forward_intermediates(image, intermediates_only=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(backbone(image), maps, strict=True))
    assert backbone.mean == (0.5, 0.5, 0.5)
    assert backbone.model_args == {"norm_eps": 1e-6}


def test_weights_of_another_variant_are_refused(official_b0, tmp_path):
    torch.save({"state_dict": official_b0}, tmp_path / "b0.pth")
    with pytest.raises(WeightsError, match="van_b0"):
        Backbone("van_b1", tmp_path / "b0.pth")


@pytest.mark.parametrize("name", ["van_b0", "resnet18"])
def test_frozen_stages_do_not_change(name):
    backbone = Backbone(name, frozen_stages=2, **(TINY if name == "van_b0" else {}))
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.SGD(backbone.parameters(), 0.1, weight_decay=0.1)
    backbone.train()
    sum(m.mean() for m in backbone(torch.rand(2, 3, 64, 64))).backward()
    optimizer.step()
    changed = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    first = ("body.stages_0", "body.stages_1", "body.conv1", "body.bn1", "body.layer1", "body.layer2")
    assert changed
    assert not [key for key in changed if key.startswith(first)]
    assert any("running_mean" in key for key in changed)  # of the stages that train


def test_freeze_norm_freezes_every_batch_norm_and_nothing_else():
    backbone = Backbone(freeze_norm=True, **TINY).train()
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)
    frozen = {id(p) for norm in norms for p in norm.parameters()}
    assert {id(p) for p in backbone.parameters() if not p.requires_grad} == frozen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "van_b7x"}, "van_b7x"),
        ({"out_indices": (2, 1)}, "ascending order"),
        ({"out_indices": ()}, "ascending order"),
        ({"frozen_stages": -1}, "frozen_stages is -1"),
        ({"kernel": 21}, "'kernel'"),
        ({"kernel_size": 0}, "kernel_size is 0"),
        ({"embed_dims": (8, 8), "depths": (1, 1), "mlp_ratios": (2, 2)}, "2 stages"),
        ({"name": "vit_tiny_patch16_224"}, "strides"),
    ],
)
def test_what_cannot_be_built_is_named(arguments, message):
    with pytest.raises(VanError, match=message):
        Backbone(**arguments)
