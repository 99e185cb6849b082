import collections
import json
import sys

import onnx
import pytest
import torch

import van
from van.errors import VanError

SMALL = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 7}
NAMES = [*(f"class {i}" for i in range(6)), "三角"]


def network(**options):
    torch.manual_seed(0)
    return van.create_model("van_b0", **(SMALL | options)).eval()


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def difference(ours, theirs):
    return (ours - theirs).abs().max().item() / theirs.abs().max().item()


def test_onnx_file_has_plain_convolutions(tmp_path):
    torch.save(van.create_model("van_b0", num_classes=7).state_dict(), tmp_path / "van.pth")
    content = onnx.load(van.export(tmp_path / "van.pth", "onnx", tmp_path / "new" / "van.onnx", (64, 64)))
    assert len(json.loads({entry.key: entry.value for entry in content.metadata_props}["names"])) == 7
    graph = content.graph
    kinds = collections.Counter()
    for node in graph.node:
        if node.op_type == "Conv":
            numbers = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if numbers["group"] > 1:
                kinds[(numbers["kernel_shape"][0], numbers["dilations"][0], numbers["pads"][0])] += 1
    assert kinds == {(5, 1, 2): 13, (7, 3, 9): 13, (3, 1, 1): 13}
    assert not {"Pad", "Slice", "ScatterND", "SpaceToDepth"} & {node.op_type for node in graph.node}
    assert [value.name for value in (*graph.input, *graph.output)] == ["images", "logits"]


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


def test_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    torch.save(van.create_model("van_b0").state_dict(), tmp_path / "van.pth")
    with pytest.raises(VanError, match=r"onnx is missing.*pip install 'visual-attention-network\[export\]'"):
        van.export(tmp_path / "van.pth", "onnx", tmp_path / "van.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["van.pth"]
