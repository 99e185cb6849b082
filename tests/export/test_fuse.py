import copy
import pickle

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import van
from van.export.fuse import FusedVANBlock
from van.models import Checkpoint, write_checkpoint

ABLATIONS = ["no_dw", "no_dw_d", "no_product", "sum", "no_pointwise", "sigmoid", "dense"]
SHALLOW = {"depths": (1, 1, 1, 1)}
TINY = SHALLOW | {"embed_dims": (8, 16, 24, 32), "num_classes": 5}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(name="van_b0", **kwargs):
    """A network whose statistics, scales and biases are as far from their first values as training may take them."""
    torch.manual_seed(0)
    return disturbed(van.create_model(name, **kwargs))


def disturbed(model):
    generator = torch.Generator().manual_seed(1)

    def fill(tensor, low, high):
        if tensor is not None:
            tensor.copy_(torch.empty(tensor.shape).uniform_(low, high, generator=generator))

    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                fill(module.running_mean, -3, 3)
                fill(module.running_var, 0.05, 9)
                fill(module.weight, -1.5, 1.5)
            if name.endswith(("ls1", "ls2")):
                fill(getattr(module, "gamma", None), -1, 1)
            fill(getattr(module, "bias", None), -1, 1)
    return model.eval()


def image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def error(ours, expected):
    """Largest difference, as a part of the largest value."""
    return ((ours - expected).abs().max() / expected.abs().max()).item()


def batch_norms(model):
    return sum(isinstance(m, _BatchNorm) for m in model.modules())


@pytest.mark.parametrize(
    ("name", "kwargs", "size"),
    [("van_b0", {}, 224), ("van_b1", {}, 96)] + [(f"van_b{i}", SHALLOW, 64) for i in range(2, 7)],
)
def test_every_variant_agrees(name, kwargs, size):
    model = trained(name, num_classes=10, **kwargs)
    fused = van.fuse(model)
    x = image(2, 3, size, size - 24)
    with torch.inference_mode():
        assert error(fused(x), model(x)) <= 1e-5
        ours, theirs = (m.forward_intermediates(x, intermediates_only=True) for m in (fused, model))
    assert all(error(o, t) <= 1e-5 for o, t in zip(ours, theirs, strict=True))
    assert type(fused) is type(model)
    assert batch_norms(fused) == 0
    assert not any(p.requires_grad for p in fused.parameters())


@pytest.mark.parametrize(
    "kwargs",
    [{"lka_variant": variant} for variant in ABLATIONS]
    + [
        {"ls_init_value": None},
        {"kernel_size": 7, "dilation": 2},
        {"kernel_size": 28, "dilation": 4},  # 7x7, and an even reach of the dilated kernel's neighbours
        {"kernel_size": 8, "dilation": 1},  # an even kernel
        {"num_classes": 0},
        {"num_classes": 0, "global_pool": ""},
        {"in_chans": 1},
        {"drop_rate": 0.5, "proj_drop_rate": 0.5, "drop_path_rate": 0.5},
    ],
    ids=str,
)
def test_every_kind_of_network_agrees(kwargs):
    if "lka_variant" in kwargs and kwargs["lka_variant"] == "dense":
        kwargs = kwargs | {"kernel_size": 7}
    model = trained(**(TINY | kwargs))
    x = image(2, kwargs.get("in_chans", 3), 75, 64)
    with torch.inference_mode():
        assert error(van.fuse(model)(x), model(x)) <= 1e-5


def test_published_code_agrees(golden_fill, official_b0, tmp_path, request):
    torch.save({"state_dict": official_b0}, tmp_path / "b0.pth")
    model = van.create_model("van_b0", pretrained=tmp_path / "b0.pth").eval()
    golden = np.load(request.path.parents[1] / "golden" / "van_b0.npz")
    for size in ("224x224", "96x160"):
        x = torch.from_numpy(golden_fill.image(*map(int, size.split("x"))))
        with torch.inference_mode():
            logits = van.fuse(model)(x)
        assert error(logits, torch.from_numpy(golden[f"logits_{size}"])) <= 1e-5


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.bfloat16, 0.1)])
def test_types(dtype, bound):
    model = trained(**TINY).to(dtype)
    fused = van.fuse(model)
    x = image(2, 3, 64, 64).to(dtype)
    assert {t.dtype for t in fused.state_dict().values()} == {dtype}
    with torch.inference_mode():
        outputs = fused(x)
        assert outputs.dtype == dtype
        # the same numbers in double precision: bfloat16 itself is no measure for its own rounding
        assert error(outputs.double(), model.double()(x.double())) <= bound


def test_autocast():
    model = trained(**TINY)
    x = image(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = van.fuse(model)(x)
            assert outputs.dtype == model(x).dtype
    assert error(outputs.float(), expected) <= 0.1


def test_meta_device():
    fused = van.fuse(van.create_model("van_b0", device="meta").eval())
    assert fused(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_a_batch_is_its_images(batch):
    fused = van.fuse(trained(**TINY))
    x = image(batch, 3, 512, 448)  # large enough to be processed in chunks
    before = x.clone()
    with torch.inference_mode():
        outputs = fused(x)
        assert outputs.shape == (batch, 5)
        for i in range(batch):
            assert error(outputs[i], fused(x[i : i + 1])[0]) <= 1e-6
    assert torch.equal(x, before)


def test_a_block_leaves_its_input_alone():
    block = next(m for m in van.fuse(trained(**TINY)).modules() if isinstance(m, FusedVANBlock))
    x = image(2, 8, 20, 20)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


def test_weights_are_channels_last():
    fused = van.fuse(trained(**TINY))
    weights = [m.weight for m in fused.modules() if isinstance(m, nn.Conv2d)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_the_model_stays():
    model = trained(**TINY)
    before = copy.deepcopy(model.state_dict())
    x = image(1, 3, 64, 64)
    expected = model(x)
    expected.sum().backward()
    fused = van.fuse(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(x), expected)
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in fused.parameters())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in fused.parameters()}


def test_methods_for_inference():
    model = trained(**TINY)
    fused = van.fuse(model)
    x = image(2, 3, 64, 40)
    with torch.inference_mode():
        features = fused.forward_features(x)
        assert error(features, model.forward_features(x)) <= 1e-5
        torch.testing.assert_close(fused.forward_head(features), fused(x))
        pooled = fused.forward_head(features, pre_logits=True)
        torch.testing.assert_close(fused.get_classifier()(pooled), fused(x))
    assert fused.feature_info == model.feature_info


@pytest.mark.parametrize("cls", ["list", "dict", "getter"])
def test_features_only(cls):
    features = disturbed(
        timm.create_model("van_b0", features_only=True, feature_cls=cls, out_indices=(1, 3), **SHALLOW)
    )
    fused = van.fuse(features)
    x = image(1, 3, 64, 96)
    with torch.inference_mode():
        ours, theirs = (list(m(x).values()) if cls == "dict" else m(x) for m in (fused, features))
    assert batch_norms(fused) == 0
    assert all(error(o, t) <= 1e-5 for o, t in zip(ours, theirs, strict=True))


def test_copies():
    fused = van.fuse(trained(**TINY))
    x = image(1, 3, 64, 64)
    with torch.inference_mode():
        expected = fused(x)
        assert torch.equal(copy.deepcopy(fused)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(fused))(x), expected)


@pytest.mark.parametrize(
    ("backend", "sizes"),
    [
        ("eager", [(3, 3, 96, 96)]),
        # other sizes compile it once more, for dynamic ones
        pytest.param("aot_eager", [(3, 3, 96, 96), (2, 3, 64, 80), (4, 3, 50, 70)], marks=pytest.mark.slow),
    ],
)
def test_compile_has_no_graph_break(backend, sizes):
    fused = van.fuse(trained(**TINY))
    torch.compiler.reset()
    compiled = torch.compile(fused, fullgraph=True, backend=backend)
    for size in sizes:
        x = image(*size)
        with torch.no_grad():
            assert error(compiled(x), fused(x)) <= 1e-5


def test_export():
    fused = van.fuse(trained(**TINY))
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        exported = torch.export.export(fused, (image(2, 3, 64, 64),), dynamic_shapes=({0: batch},)).module()
        other = image(5, 3, 64, 64)
        assert error(exported(other), fused(other)) <= 1e-5


def without_statistics():
    model = van.create_model(**({"name": "van_b0"} | TINY)).eval()
    model.stages[1].blocks[0].norm2 = nn.BatchNorm2d(16, track_running_stats=False).eval()
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: van.create_model("van_b0", **TINY), r"training mode.*model\.eval\(\)"),
        (lambda: trained(**TINY).stages.train(), r"training mode"),
        (lambda: timm.create_model("resnet10t").eval(), r"ResNet has no VAN inside.*create_model"),
        (lambda: van.fuse(trained(**TINY)), r"fused already"),
        (lambda: torch.compile(trained(**TINY)), r"compiled.*torch\.compile\(van\.fuse\(model\)\)"),
        (without_statistics, r"no running statistics"),
    ],
)
def test_refusals(model, message):
    with pytest.raises(van.VanError, match=message):
        van.fuse(model())


def test_a_stage_left_in_training_is_refused():
    model = trained(**TINY)
    model.stages[2].blocks[0].norm1.train()
    with pytest.raises(van.VanError, match="training mode"):
        van.fuse(model)


@pytest.mark.parametrize("variant", ["full", "sum", "sigmoid", "no_product"])
def test_gradient_of_the_image(variant):
    """Saliency maps need it; the operations in place must not falsify it."""
    model = trained(**TINY, lka_variant=variant)
    gradients = []
    for network in (model, van.fuse(model)):
        x = image(2, 3, 64, 64).requires_grad_()
        network(x).square().sum().backward()
        gradients.append(x.grad)
    assert error(gradients[1], gradients[0]) <= 1e-5


def test_fused_tensors_are_no_checkpoint(tmp_path):
    model = trained("van_b0")
    fused = van.fuse(model)
    with pytest.raises(van.WeightsError, match=r"fused for inference.*fuse afterwards"):
        write_checkpoint(Checkpoint(fused.state_dict(), "van", "van_b0", 1000, 3), tmp_path / "fused.safetensors")
    assert list(tmp_path.iterdir()) == []
    torch.save(fused.state_dict(), tmp_path / "fused.pth")
    with pytest.raises(van.WeightsError, match=r"fused\.pth is fused for inference"):
        van.load_weights(model, tmp_path / "fused.pth")


def test_weights_do_not_go_into_a_fused_model(tmp_path):
    model = trained("van_b0")
    fused = van.fuse(model)
    before = copy.deepcopy(fused.state_dict())
    file = write_checkpoint(Checkpoint(model.state_dict(), "van", "van_b0", 1000, 3), tmp_path / "b0.safetensors")
    with pytest.raises(van.WeightsError, match="The model is fused for inference"):
        van.load_weights(fused, file)
    assert all(torch.equal(v, before[k]) for k, v in fused.state_dict().items())


def test_everything_of_the_copy_is_in_evaluation_mode():
    assert not any(m.training for m in van.fuse(trained(**TINY)).modules())
