import numpy as np
import pytest
import torch

import van
from van.errors import VanError
from van.export.openvino import OpenVINOEngine

SMALL = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 7}


def network(**options):
    torch.manual_seed(0)
    return van.create_model("van_b0", **(SMALL | options)).eval()


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def difference(ours, theirs):
    return (ours - theirs).abs().max().item() / theirs.abs().max().item()


@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_openvino_agrees(precision, bound):
    model, x = network(), images(2, 3, 64, 96)
    engine = OpenVINOEngine(model, x.to(memory_format=torch.channels_last), precision, threads=1)
    with torch.no_grad():
        expected = model(x)
    for layout in (torch.contiguous_format, torch.channels_last):
        logits = engine(x.to(memory_format=layout))
        assert logits.dtype == torch.float32
        assert difference(logits, expected) < bound


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch.jit and OpenVINO
@pytest.mark.parametrize("fused", [False, True])
def test_openvino_converts_from_an_example_with_gradients_enabled(fused, monkeypatch):
    import openvino

    monkeypatch.setattr("van.export.fuse._HIDDEN_BYTES_PER_THREAD", 1)  # every batch would be cut into images
    model = van.fuse(network()) if fused else network()
    x = images(2, 3, 64, 96)
    converted = openvino.convert_model(model, example_input=x)
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for other in (x, images(5, 3, 64, 96)):
        expected = model(other).detach()
        assert difference(torch.from_numpy(compiled([other.numpy()])[0]), expected) < 1e-5


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_trace_of_the_fused_network_takes_any_batch(monkeypatch):
    monkeypatch.setattr("van.export.fuse._HIDDEN_BYTES_PER_THREAD", 1)
    fused = van.fuse(network())
    traced = torch.jit.trace(fused, images(3, 3, 64, 64))
    x = images(5, 3, 64, 96)
    with torch.no_grad():
        assert difference(traced(x), fused(x)) < 1e-5


def test_openvino_answers_are_kept_apart():
    engine = OpenVINOEngine(network(), images(1, 3, 64, 64), threads=1)
    first = engine(images(1, 3, 64, 64))
    before = first.clone()
    engine(torch.ones(1, 3, 64, 64))
    assert torch.equal(first, before)


def test_what_the_engine_cannot_do_is_refused():
    model = network()
    with pytest.raises(VanError, match="training mode"):
        OpenVINOEngine(network().train(), images(1, 3, 64, 64))
    with pytest.raises(VanError, match="precision is 'int8', expected one of float32, bfloat16"):
        OpenVINOEngine(model, images(1, 3, 64, 64), "int8")
    with pytest.raises(VanError, match=r"\(2, 3, 64, 64\), the engine was built for \(1, 3, 64, 64\)"):
        OpenVINOEngine(model, images(1, 3, 64, 64))(images(2, 3, 64, 64))


def test_engine_takes_no_gradient_from_the_images():
    x = images(1, 3, 64, 64).requires_grad_()
    logits = OpenVINOEngine(network(), x, threads=1)(x)
    assert not logits.requires_grad
    assert np.isfinite(logits.numpy()).all()
