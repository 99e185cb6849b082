"""Model repositories of Triton say what the file in them says, in the server's own schema."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tests.tasks.conftest import cli, data, empty_folder, options_of, run_of  # noqa: F401 - fixtures

import van
from van.export import format_named
from van.export.triton import config

TYPES = {"tensor(float)": "TYPE_FP32", "tensor(uint8)": "TYPE_UINT8", "tensor(int64)": "TYPE_INT64"}


def parsed(text):
    """Understand a configuration as the server does."""
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    return text_format.Parse(text, model_config.ModelConfig())


def type_name(tensor):
    return type(tensor).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name


def test_a_repository_describes_its_file(run_of, tmp_path, monkeypatch, cli):  # noqa: F811
    folder = run_of("classification").folder
    status, output, _ = cli(
        "export", folder, "--layout", "triton", "--output", "models/digits", "--preprocess", "--postprocess"
    )
    assert status == 0
    assert "models/digits: " in output
    model = tmp_path / "models" / "digits"
    files = sorted(str(one.relative_to(model)) for one in model.rglob("*") if one.is_file())
    assert files == ["1/model.onnx", "config.pbtxt", "labels.txt"]
    assert [one.name for one in model.parent.iterdir()] == ["digits"]
    names = van.load(folder).class_names
    assert (model / "labels.txt").read_text().splitlines() == names
    found, session = parsed((model / "config.pbtxt").read_text()), onnxruntime.InferenceSession(model / "1/model.onnx")
    assert (found.name, found.backend) == ("digits", "onnxruntime")
    assert found.max_batch_size > 1
    assert found.HasField("dynamic_batching")
    for ours, theirs in ((found.input, session.get_inputs()), (found.output, session.get_outputs())):
        assert [one.name for one in ours] == [one.name for one in theirs]
        assert [type_name(one) for one in ours] == [TYPES[one.type] for one in theirs]
        assert [[-1, *one.dims] for one in ours] == [
            [n if isinstance(n, int) else -1 for n in one.shape] for one in theirs
        ]
    assert found.output[0].label_filename == "labels.txt"
    with pytest.raises(van.VanError, match="exists"):
        van.export(folder, layout="triton", output=model)


def file_with(path, batch):
    """Write an ONNX file with one input, and an output of one number for each image."""
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, "height", "width"])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("means", [batch, 3]), ("best", [batch]))
    ]
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["means"], keepdims=0),
        helper.make_node("ReduceMax", ["means", "one"], ["best"], keepdims=0),
    ]
    weights = [helper.make_tensor(name, TensorProto.INT64, [len(v)], v) for name, v in (("axes", [2, 3]), ("one", [1]))]
    graph = helper.make_graph(nodes, "means", [image], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    session = onnxruntime.InferenceSession(path)
    assert session.run(None, {"images": np.ones((1, 3, 4, 5), np.float32)})[0].shape == (1, 3)


@pytest.mark.parametrize("form", ["onnx", "openvino"])  # OpenVINO reads ONNX, too
@pytest.mark.parametrize("batch", ["batch", 1])
def test_batches_are_as_the_backend_takes_them(form, batch, tmp_path):
    file_with(tmp_path / "file.onnx", batch)
    found = parsed(config("means", format_named(form), tmp_path / "file.onnx", 3))
    labels = [one.label_filename for one in found.output]
    dims = [list(one.dims) for one in (*found.input, *found.output)]
    if form == "onnx" and batch == "batch":
        assert (found.backend, found.max_batch_size > 0) == ("onnxruntime", True)
        assert dims == [[3, -1, -1], [3], [1]]
        assert [one.HasField("reshape") for one in found.output] == [False, True]
        assert list(found.output[1].reshape.shape) == []
    else:
        first = -1 if batch == "batch" else 1
        assert (found.max_batch_size, found.HasField("dynamic_batching")) == (0, False)
        assert dims == [[first, 3, -1, -1], [first, 3], [first]]
    assert labels == ["labels.txt", ""]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "torch", "output": "model"}, "no backend for torch files"),
        ({}, "Give output"),
        ({"layout": "tritn", "output": "model"}, "layout is 'tritn'"),
        ({"output": "model", "postprocess": True, "features": True}, "features have no postprocessing"),
    ],
)
def test_what_is_no_repository_is_refused_and_leaves_nothing(options, message, run_of, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    with pytest.raises(van.VanError, match=message):
        van.export(run_of("classification").folder, **({"layout": "triton"} | options))
    assert list(tmp_path.iterdir()) == []
