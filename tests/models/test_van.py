import copy
import math
import pickle

import pytest
import timm
import torch
from timm.models import get_notrace_functions, get_notrace_modules, group_parameters
from timm.optim import param_groups_layer_decay
from timm.utils import AttentionExtract
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import van
from van.models.reference import ReferenceVAN
from van.models.weights import Checkpoint, to_format

PARAMETERS = {
    "van_b0": 4105800,
    "van_b1": 13861800,
    "van_b2": 26578472,
    "van_b3": 44765608,
    "van_b4": 60283176,
    "van_b5": 89967688,
    "van_b6": 199829416,
}
REDUCTIONS = [4, 8, 16, 32]
SMALL = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}


def fx_model(model):
    """The symbolic trace of a model up to its last node, as timm's own tests take it."""
    tracer = {
        "leaf_modules": get_notrace_modules(),
        "autowrap_functions": get_notrace_functions(),
        "param_shapes_constant": True,
    }
    train, evaluation = get_graph_node_names(model, tracer_kwargs=tracer)
    return create_feature_extractor(
        model, train_return_nodes=[train[-1]], eval_return_nodes=[evaluation[-1]], tracer_kwargs=tracer
    )


def blocks_of(model):
    return [block for stage in model.stages for block in stage.blocks]


LARGE = ("van_b3", "van_b4", "van_b5", "van_b6")


# B3 to B6 differ from the others in numbers only, and take most of the time
@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in PARAMETERS]
)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    """One network a variant for the tests that leave it as it is; its gradients may be changed."""
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=42).eval()


class TestEveryVAN:
    """What timm's own tests ask of a model, for each registered VAN."""

    @pytest.mark.parametrize("name", PARAMETERS)
    def test_parameter_count(self, name):
        model = timm.create_model(name, device="meta")
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
        assert all(p.is_meta for p in model.parameters())

    def test_default_cfg(self, name):
        for tag in timm.list_models(f"{name}*", include_tags=True):
            model = timm.create_model(tag, device="meta")
            cfg, state = model.default_cfg, model.state_dict()
            assert model.num_features == model.head_hidden_size > 0
            assert cfg["architecture"] == name
            assert cfg["first_conv"] + ".weight" in state
            assert model.num_classes == cfg["num_classes"]
            assert (cfg["classifier"] + ".weight" in state) == (cfg["num_classes"] > 0)
            assert (cfg["interpolation"], cfg["crop_pct"]) == ("bicubic", 0.9)
            features = model.forward_features(torch.empty(1, *cfg["input_size"], device="meta"))
            assert features.shape[1:] == (model.num_features, *cfg["pool_size"])

    def test_forward_and_checkpointing(self, model):
        x = torch.randn(1, 3, 64, 40)
        with torch.inference_mode():
            outputs = model(x)
            assert outputs.shape == (1, 42)
            assert outputs.isfinite().all()
            model.set_grad_checkpointing()
            again = model(x)
            model.set_grad_checkpointing(False)
        torch.testing.assert_close(again, outputs, rtol=0, atol=0)

    def test_forward_features_and_head(self, model):
        x = torch.randn(2, 3, 64, 40)
        with torch.inference_mode():
            features = model.forward_features(x)
            pooled = model.forward_head(features, pre_logits=True)
            torch.testing.assert_close(model.forward_head(features), model(x))
            assert features.shape == (2, model.num_features, 2, 2)
            torch.testing.assert_close(pooled, features.mean((2, 3)))
            torch.testing.assert_close(model.get_classifier()(pooled), model.forward_head(features))

    def test_backward(self, model):
        outputs = model(torch.randn(2, 3, 33, 57))
        outputs.mean().backward()
        missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        model.zero_grad()
        assert missing == []
        assert outputs.shape == (2, 42)

    def test_forward_intermediates(self, model):
        x = torch.randn(1, 3, 64, 72)
        with torch.inference_mode():
            last, maps = model.forward_intermediates(x)
            features = model.forward_features(x)
        assert [m.shape[1] for m in maps] == [f["num_chs"] for f in model.feature_info]
        assert [f["reduction"] for f in model.feature_info] == REDUCTIONS
        for m, r in zip(maps, REDUCTIONS, strict=True):
            assert m.shape[2:] == (math.ceil(64 / r), math.ceil(72 / r))
        assert torch.equal(last, features)
        assert torch.equal(maps[-1], features)

    def test_fx_trace(self, name):
        # Tracing takes the square of the number of blocks in time, and all blocks of a stage are alike.
        depths = {} if name in ("van_b0", "van_b1", "van_b2") else {"depths": (2, 1, 3, 1)}
        model = timm.create_model(name, **depths).eval()
        x = torch.randn(1, 3, 48, 40)
        with torch.inference_mode():
            traced = fx_model(model)(x)
            assert torch.equal(torch.cat(tuple(traced.values())), model(x))

    def test_parameter_groups(self, name):
        model = timm.create_model(name, device="meta")
        parameters = dict(model.named_parameters())
        for coarse in (False, True):
            layers = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
            assert set(layers) == set(parameters)
            assert layers["stages.0.patch_embed.proj.weight"] == 0
            assert layers["head.fc.weight"] == max(layers.values())
            order = [layers[n] for n in parameters]
            assert order == sorted(order), "from the stem to the head"
            blocks = sum(len(stage.blocks) for stage in model.stages)
            assert max(layers.values()) >= (len(model.stages) if coarse else blocks)
        groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.9)
        assert sum(len(g["params"]) for g in groups) == len(parameters)
        assert min(g["lr_scale"] for g in groups) < 0.9 < max(g["lr_scale"] for g in groups) == 1.0

    def test_no_weight_decay_names_layer_scales(self, name):
        model = timm.create_model(name, device="meta")
        blocks = sum(len(stage.blocks) for stage in model.stages)
        assert len(model.no_weight_decay()) == 2 * blocks
        assert model.no_weight_decay() <= {n for n, p in model.named_parameters() if p.ndim == 1}

    def test_features_only(self, name):
        x = torch.empty(1, 3, 64, 40, device="meta")
        for cls in ("list", "getter"):
            features = timm.create_model(name, features_only=True, feature_cls=cls, device="meta")
            maps = features(x)
            assert features.feature_info.reduction() == REDUCTIONS
            assert [m.shape[1] for m in maps] == features.feature_info.channels()
            assert [tuple(m.shape[2:]) for m in maps] == [(16, 10), (8, 5), (4, 3), (2, 2)]

    def test_classifier_is_replaced_and_removed(self, name):
        x = torch.empty(2, 3, 64, 40, device="meta")
        model = timm.create_model(name, device="meta")
        model.reset_classifier(10)
        assert model.num_classes == 10
        assert model(x).shape == (2, 10)
        model.reset_classifier(0)
        assert isinstance(model.get_classifier(), nn.Identity)
        assert model(x).shape == (2, model.head_hidden_size)
        model.reset_classifier(0, "")
        assert model(x).shape == (2, model.num_features, 2, 2)

    def test_without_classifier_from_the_start(self, name):
        x = torch.empty(2, 3, 33, 40, device="meta")
        model = timm.create_model(name, num_classes=0, device="meta")
        assert model(x).shape == (2, model.num_features)
        model = timm.create_model(name, num_classes=0, global_pool="", device="meta")
        assert model(x).shape == (2, model.num_features, 2, 2)


@pytest.fixture
def b0():
    torch.manual_seed(0)
    return timm.create_model("van_b0").eval()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (33, 57), (224, 224), (96, 160)])
@pytest.mark.parametrize("in_chans", [1, 2, 4])
def test_any_image(in_chans, height, width):
    model = timm.create_model("van_b0", in_chans=in_chans, num_classes=10).eval()
    with torch.inference_mode():
        outputs = model(torch.randn(1, in_chans, height, width))
        maps = model.forward_intermediates(torch.randn(1, in_chans, height, width), intermediates_only=True)
    assert outputs.shape == (1, 10)
    assert outputs.isfinite().all()
    assert [tuple(m.shape[2:]) for m in maps] == [(math.ceil(height / r), math.ceil(width / r)) for r in REDUCTIONS]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype(dtype, b0):
    model = timm.create_model("van_b0", num_classes=7, dtype=dtype).eval()
    assert {p.dtype for p in model.parameters()} == {dtype}
    model.reset_classifier(5)
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        outputs = model(x.to(dtype))
        assert outputs.dtype == dtype
        assert outputs.shape == (1, 5)
        expected = b0(x)
        torch.testing.assert_close(b0.to(dtype)(x.to(dtype)).float(), expected, rtol=0.1, atol=0.1)


def test_dtype_float64_agrees_closely(b0):
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        expected = b0(x)
        torch.testing.assert_close(b0.double()(x.double()).float(), expected)


@pytest.mark.parametrize("indices", [None, 1, 2, [0, 2], [-1], (1,)])
def test_forward_intermediates_indices(b0, indices):
    x = torch.randn(1, 3, 64, 64)
    wanted = {None: [0, 1, 2, 3], 1: [3], 2: [2, 3], (1,): [1]}.get(indices if not isinstance(indices, list) else 0)
    wanted = wanted or [i % 4 for i in indices]
    with torch.inference_mode():
        everything = b0.forward_intermediates(x, intermediates_only=True)
        maps = b0.forward_intermediates(x, indices=indices, norm=True, intermediates_only=True)
    assert isinstance(maps, list)
    assert len(maps) == len(wanted)
    assert all(torch.equal(m, everything[i]) for m, i in zip(maps, wanted, strict=True))


def test_forward_intermediates_stops_early(b0):
    x = torch.randn(1, 3, 64, 64)
    ran = []
    for i, stage in enumerate(b0.stages):
        stage.register_forward_hook(lambda *_, i=i: ran.append(i))
    with torch.inference_mode():
        last, maps = b0.forward_intermediates(x, indices=[0, 1], stop_early=True)
        assert ran == [0, 1]
        assert torch.equal(last, maps[-1])
        last, maps = b0.forward_intermediates(x, indices=[0, 1])
    assert ran == [0, 1, 0, 1, 2, 3]
    assert last.shape[1] == 256


def test_forward_intermediates_refuses_other_formats(b0):
    with pytest.raises(ValueError, match="'NLC', expected 'NCHW'"):
        b0.forward_intermediates(torch.randn(1, 3, 32, 32), output_fmt="NLC")


def test_prune_intermediate_layers(b0):
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = b0.forward_intermediates(x, indices=[1, 2], intermediates_only=True)
        assert b0.prune_intermediate_layers([1, 2]) == [1, 2]
        maps = b0.forward_intermediates(x, indices=[1, 2], intermediates_only=True)
        assert all(map(torch.equal, maps, expected))
        assert len(b0.stages) == 3
        assert isinstance(b0.get_classifier(), nn.Identity)
        assert b0.num_features == b0.head_hidden_size == b0(x).shape[1] == 160
        b0.reset_classifier(5, "avg")
        assert b0(x).shape == (1, 5)


def test_prune_keeps_the_head_only_where_it_fits(b0):
    assert b0.prune_intermediate_layers(2, prune_head=False) == [2, 3]
    assert b0(torch.randn(1, 3, 32, 32)).shape == (1, 1000)
    b0.prune_intermediate_layers([0], prune_head=False)
    assert b0(torch.randn(1, 3, 32, 32)).shape == (1, 32, 8, 8)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_pooling(pool):
    model = timm.create_model("van_b0", global_pool=pool, num_classes=3).eval()
    x = torch.randn(2, 3, 64, 64)
    assert model(x).shape == (2, 3)
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.head_hidden_size)
    model.reset_classifier(4, "catavgmax")
    assert model(x).shape == (2, 4)
    assert model.head_hidden_size == 2 * model.num_features


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3), (2,)])
@pytest.mark.parametrize("cls", ["list", "dict", "getter", "fx"])
def test_features_only_gives_the_maps_of_the_reference(out_indices, cls):
    torch.manual_seed(0)
    features = timm.create_model("van_b0", features_only=True, out_indices=out_indices, feature_cls=cls).eval()
    torch.manual_seed(0)
    model = timm.create_model("van_b0").eval()
    reference = ReferenceVAN("van_b0").eval()
    reference.load_state_dict(to_format(Checkpoint(model.state_dict(), "van", "van_b0", 1000, 3), "official"))
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        maps = features(x)
        expected = [reference.forward_stages(x)[i] for i in out_indices]
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    assert len(maps) == len(expected)
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_fx_backward():
    model = timm.create_model("van_b0", num_classes=42).train()
    traced = fx_model(model)
    outputs = torch.cat(tuple(traced(torch.randn(2, 3, 64, 64)).values()))
    outputs.mean().backward()
    assert outputs.shape == (2, 42)
    assert [n for n, p in traced.named_parameters() if p.grad is None] == []


def training_step(checkpointing):
    torch.manual_seed(3)
    model = timm.create_model("van_b0", num_classes=5, drop_path_rate=0.2, proj_drop_rate=0.1).train()
    model.set_grad_checkpointing(checkpointing)
    x = torch.randn(3, 3, 40, 56)
    torch.manual_seed(4)  # drop path and dropout of both runs agree
    outputs = model(x)
    outputs.square().sum().backward()
    return model, outputs.detach()


def test_checkpointing_changes_nothing_but_memory():
    plain, plain_outputs = training_step(False)
    saving, saving_outputs = training_step(True)
    assert torch.equal(plain_outputs, saving_outputs)
    for (key, ours), theirs in zip(saving.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key
    counts = [v.item() for k, v in saving.state_dict().items() if k.endswith("num_batches_tracked")]
    assert set(counts) == {1}
    assert len(counts) == 4 + 2 * 13
    for (key, p), q in zip(saving.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=key)


def test_checkpointing_keeps_fewer_activations():
    def saved(checkpointing):
        model = timm.create_model("van_b0", num_classes=5).train()
        model.set_grad_checkpointing(checkpointing)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(torch.randn(2, 3, 64, 64))
        return sum(sizes)

    assert saved(True) < 0.5 * saved(False)


def test_copies(b0):
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        expected = b0(x)
        assert torch.equal(copy.deepcopy(b0)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(b0))(x), expected)
        other = timm.create_model("van_b0").eval()
        other.load_state_dict(b0.state_dict())
        assert torch.equal(other(x), expected)


def test_compile_has_no_graph_break():
    model = timm.create_model("van_b0", **SMALL).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.compiler.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))


def test_export(b0):
    x = torch.randn(2, 3, 64, 64)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        exported = torch.export.export(b0, (x,), dynamic_shapes=({0: batch},)).module()
        other = torch.randn(5, 3, 64, 64)
        torch.testing.assert_close(exported(other), b0(other))


def test_drop_path_rises_linearly_over_all_blocks():
    model = timm.create_model("van_b0", drop_path_rate=0.24, device="meta")
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for b in blocks_of(model)]
    assert rates == pytest.approx([0.24 * i / 12 for i in range(13)])


def test_layer_scale_starts_at_its_value():
    blocks = blocks_of(timm.create_model("van_b0"))
    assert all((b.ls1.gamma == 0.01).all() and (b.ls2.gamma == 0.01).all() for b in blocks)
    blocks = blocks_of(timm.create_model("van_b0", ls_init_value=0.5))
    assert all((b.ls1.gamma == 0.5).all() and (b.ls2.gamma == 0.5).all() for b in blocks)


# timm.create_model drops arguments that are None, so it needs another word for "no layer scale".
@pytest.mark.parametrize(
    "model",
    [
        lambda: timm.create_model("van_b0", ls_init_value=0),
        lambda: van.create_model("van_b0", ls_init_value=None),
        lambda: van.VAN(ls_init_value=None),
    ],
)
def test_layer_scale_is_left_out(model):
    model = model().eval()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS["van_b0"] - 2 * 1600
    assert model.no_weight_decay() == set()
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_initial_weights(b0):
    for name, module in b0.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            expected = 0.02
            if isinstance(module, nn.Conv2d):
                expected = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels / module.groups))
            count = module.weight.numel()
            assert module.weight.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * count)), name
            assert abs(module.weight.mean().item()) < 4.5 * expected / math.sqrt(count), name
            assert not module.bias.any(), name
        elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            assert (module.weight == 1).all(), name
            assert not module.bias.any(), name


def test_head_init_scale():
    torch.manual_seed(1)
    full = timm.create_model("van_b0", num_classes=10)
    torch.manual_seed(1)
    scaled = timm.create_model("van_b0", num_classes=10, head_init_scale=0.001)
    torch.testing.assert_close(scaled.get_classifier().weight, 0.001 * full.get_classifier().weight)
    torch.testing.assert_close(scaled.stages[0].patch_embed.proj.weight, full.stages[0].patch_embed.proj.weight)
    scaled.reset_classifier(30)
    assert scaled.get_classifier().weight.std().item() == pytest.approx(0.02 * 0.001, rel=0.1)


def test_seed_decides_everything():
    def state(seed):
        torch.manual_seed(seed)
        return timm.create_model("van_b0").state_dict()

    first, same, other = state(5), state(5), state(6)
    assert all(map(torch.equal, first.values(), same.values()))
    assert not torch.equal(first["head.fc.weight"], other["head.fc.weight"])


def test_maps_are_channels_last(b0):
    with torch.inference_mode():
        for m in b0.forward_intermediates(torch.randn(2, 3, 64, 96), intermediates_only=True):
            assert m.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_input_and_weights_change_nothing(b0):
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = b0(x)
        last = b0.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected)


def test_dropout_rates_reach_their_layers():
    model = timm.create_model("van_b0", drop_rate=0.3, proj_drop_rate=0.1, device="meta")
    assert model.head.drop.p == 0.3
    assert {b.mlp.drop.p for b in blocks_of(model)} == {0.1}


def test_stage_lists_of_different_length_are_an_error():
    with pytest.raises(ValueError, match="have 4, 3 and 4 entries, expected one per stage"):
        timm.create_model("van_b0", depths=(1, 1, 1))


class TestOutputStride:
    @pytest.mark.parametrize(("output_stride", "strides"), [(8, [4, 8, 8, 8]), (16, [4, 8, 16, 16])])
    def test_maps_are_those_of_the_network_at_its_own_positions(self, output_stride, strides):
        torch.manual_seed(0)
        model = timm.create_model("van_b0").eval()
        dense = timm.create_model("van_b0", output_stride=output_stride).eval()
        dense.load_state_dict(model.state_dict())
        x = torch.randn(1, 3, 104, 72)
        with torch.no_grad():
            ours = dense.forward_intermediates(x, intermediates_only=True)
            expected = model.forward_intermediates(x, intermediates_only=True)
        assert [entry["reduction"] for entry in dense.feature_info] == strides
        for m, e, stride, own in zip(ours, expected, strides, REDUCTIONS, strict=True):
            assert tuple(m.shape[2:]) == (math.ceil(104 / stride), math.ceil(72 / stride))
            step = own // stride
            torch.testing.assert_close(m[..., ::step, ::step], e, rtol=1e-4, atol=1e-4)

    def test_features_and_fusion(self):
        torch.manual_seed(0)
        model = timm.create_model("van_b0", features_only=True, output_stride=8, **SMALL).eval()
        assert model.feature_info.reduction() == [4, 8, 8, 8]
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            for ours, theirs in zip(van.fuse(model)(x), model(x), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("output_stride", [4, 64, 12])
    def test_other_strides_are_refused(self, output_stride):
        with pytest.raises(ValueError, match=f"output_stride is {output_stride}, expected 8, 16 or 32"):
            timm.create_model("van_b0", output_stride=output_stride)

    @pytest.mark.parametrize("name", ["DeepLabV3", "DeepLabV3Plus", "PAN"])
    def test_segmentation_models_pytorch(self, name):
        smp = pytest.importorskip("segmentation_models_pytorch")
        model = getattr(smp, name)("tu-van_b0", encoder_weights=None, classes=3).eval()
        with torch.no_grad():
            assert model(torch.randn(1, 3, 128, 160)).shape == (1, 3, 128, 160)


def test_wrong_arguments_are_named():
    with pytest.raises(van.VanError, match=r"van\.create_model\('van_b0'\)"):
        van.VAN("van_b0")
    with pytest.raises(van.VanError, match=r"no img_size .*any size"):
        timm.create_model("van_b0", img_size=384)
    for indices in ((0, 4), (-5,), 5):
        with pytest.raises(van.VanError, match=r"out_indices is .*from 0 to 3"):
            timm.create_model("van_b0", features_only=True, out_indices=indices)
    assert len(timm.create_model("van_b0", features_only=True, out_indices=2, **SMALL)(torch.zeros(2, 3, 64, 64))) == 2


@pytest.mark.parametrize("method", ["fx", "hook"])
def test_attention_maps_by_name(method):
    torch.manual_seed(0)
    model = timm.create_model("van_b0", **SMALL).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = AttentionExtract(model, names=["*.attn.lka.pw_conv"], method=method)(x)
        stage = model.stages[0]
        block = stage.blocks[0]
        gate = block.attn.act(block.attn.proj_1(block.norm1(stage.patch_embed(x))))
        assert len(maps) == 4
        torch.testing.assert_close(maps["stages.0.blocks.0.attn.lka.pw_conv"], block.attn.lka.attention(gate))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_trace_with_gradients_enabled():
    torch.manual_seed(0)
    model = timm.create_model("van_b0", **SMALL).eval()
    traced = torch.jit.trace(model, torch.randn(2, 3, 64, 64))
    x = torch.randn(3, 3, 96, 40)
    torch.testing.assert_close(traced(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:There is a performance drop:UserWarning")
def test_torch_func():
    torch.manual_seed(0)
    model = timm.create_model("van_b0", **SMALL).double().eval()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(parameters, x):
        return torch.func.functional_call(model, (parameters, buffers), (x,)).square().sum()

    images = torch.randn(3, 1, 3, 40, 48, dtype=torch.float64)
    each = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, images)
    outputs = torch.vmap(model)(images)
    for i, x in enumerate(images):
        torch.testing.assert_close(outputs[i], model(x))
        expected = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
        torch.testing.assert_close([each[name][i] for name in parameters], list(expected))
    tangent = torch.randn_like(images[0])
    _, forward = torch.func.jvp(model, (images[0],), (tangent,))
    _, pull = torch.func.vjp(model, images[0])
    torch.testing.assert_close((forward * forward).sum(), (pull(forward)[0] * tangent).sum())
