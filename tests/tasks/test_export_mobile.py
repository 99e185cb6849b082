"""Files for phones compute what the network computes, for every task. They need the extras executorch and coreml."""

import json

import pytest
import torch
from tests.tasks.conftest import TINY

import van
from van.engine.api import load
from van.errors import VanError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # of the converters, about newer versions of their packages
]


CORE_ML = ["classification", "detection", "pose", "semantic"]


def difference(predictor, found, size):
    """Return how far outputs are from the network's, on the images that compare takes first."""
    graph = predictor.task.graph(predictor, False, False).eval()
    inputs = graph.inputs(1, size)
    with torch.no_grad():
        expected = graph(*inputs)
    return max(graph.differences(expected, found(*inputs)).values())


# Mask R-CNN takes more than ten minutes to convert
@pytest.mark.parametrize("task", [task for task in TINY if task != "instances"])
def test_executorch_programs_agree_and_know_their_classes(run_of, task, tmp_path):
    runtime = pytest.importorskip("executorch.runtime")
    folder = run_of(task).folder
    path = van.export(folder, "executorch", tmp_path / "file.pte", image_size=(64, 96))
    program = runtime.Runtime.get().load_program(path)
    forward = program.load_method("forward")
    predictor = load(folder, "cpu")
    assert difference(predictor, lambda *inputs: forward.execute(list(inputs)), (64, 96)) < 1e-4
    [names], [header] = (program.load_method(name).execute([]) for name in ("names", "van"))
    assert json.loads(names) == list(predictor.class_names or ())
    assert json.loads(header)["export"]["image_size"] == [64, 96]


@pytest.mark.parametrize("task", CORE_ML)
def test_core_ml_packages_agree_and_know_their_classes(run_of, task, tmp_path, cli):
    tools = pytest.importorskip("coremltools")
    from coremltools.converters.mil.frontend.milproto.load import load as program_of

    folder = run_of(task).folder
    status, _, _ = cli("export", folder, "--format", "coreml", "--output", "file.mlpackage", "--image-size", "64", "96")
    assert status == 0
    model = tools.models.MLModel(str(tmp_path / "file.mlpackage"), skip_model_load=True)
    spec = model.get_spec()
    function = program_of(spec, spec.specificationVersion, model.weights_dir).functions["main"]
    predictor = load(folder, "cpu")
    assert difference(predictor, lambda *inputs: evaluated(function, inputs), (64, 96)) < 1e-4
    said = dict(spec.description.metadata.userDefined)
    assert json.loads(said["names"]) == list(predictor.class_names or ())
    assert json.loads(said["van"])["export"]["image_size"] == [64, 96]
    with pytest.raises(VanError, match="Leave out preprocess"):
        van.export(folder, "coreml", tmp_path / "other.mlpackage", preprocess=True)


def evaluated(function, inputs):
    """Compute what a Core ML package says, operation by operation: Core ML itself runs on macOS alone."""
    values = dict(zip(function.inputs, inputs, strict=True))

    def value(one):
        if isinstance(one, list | tuple):
            return [value(each) for each in one]
        return values[one.name] if one.name in values else constant(one.val)

    def constant(found):
        return torch.as_tensor(found) if getattr(found, "ndim", 0) and found.dtype.kind in "fiu" else found

    for op in function.operations:
        if op.op_type == "const":
            continue
        given = {name: value(one) for name, one in op.inputs.items() if one is not None}
        results = OPERATIONS[op.op_type](given)
        for variable, result in zip(op.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            assert tuple(result.shape) == tuple(variable.shape), op.op_type
            values[variable.name] = result
    return [values[one.name] for one in function.outputs]


def ints(values):
    return [int(one) for one in values]


def convolution(x):
    pads = ints(x["pad"]) if x["pad_type"] == "custom" else [0] * 4
    padded = torch.nn.functional.pad(x["x"], (pads[2], pads[3], pads[0], pads[1]))
    steps, spread = ints(x["strides"]), ints(x["dilations"])
    return torch.nn.functional.conv2d(padded, x["weight"], x.get("bias"), steps, 0, spread, int(x["groups"]))


def transposed_convolution(x):
    top, bottom, left, right = ints(x["pad"])
    steps, spread = ints(x["strides"]), ints(x["dilations"])
    whole = torch.nn.functional.conv_transpose2d(x["x"], x["weight"], x["bias"], steps, 0, 0, int(x["groups"]), spread)
    return whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]


def normalized(x):
    numbers = (x["mean"], x["variance"], x["gamma"], x["beta"])
    return torch.nn.functional.batch_norm(x["x"], *numbers, eps=float(x["epsilon"]))


def enlarged(x, **how):
    factors = (float(x["scale_factor_height"]), float(x["scale_factor_width"]))
    return torch.nn.functional.interpolate(x["x"], scale_factor=factors, **how)


OPERATIONS = {
    "conv_transpose": transposed_convolution,
    "batch_norm": normalized,
    "upsample_nearest_neighbor": lambda x: enlarged(x, mode="nearest"),
    "upsample_bilinear": lambda x: enlarged(x, mode="bilinear", align_corners=bool(x["align_corners"])),
    "relu": lambda x: x["x"].relu(),
    "sub": lambda x: x["x"] - x["y"],
    "square": lambda x: x["x"].square(),
    "sqrt": lambda x: x["x"].sqrt(),
    "real_div": lambda x: x["x"] / x["y"],
    "concat": lambda x: torch.cat(x["values"], int(x["axis"])),
    "conv": convolution,
    "gelu": lambda x: torch.nn.functional.gelu(x["x"]),
    "mul": lambda x: x["x"] * x["y"],
    "add": lambda x: x["x"] + x["y"],
    "transpose": lambda x: x["x"].permute(ints(x["perm"])),
    "layer_norm": lambda x: torch.nn.functional.layer_norm(
        x["x"], [len(x["gamma"])], x["gamma"], x["beta"], float(x["epsilon"])
    ),
    "reduce_mean": lambda x: x["x"].mean(ints(x["axes"]), keepdim=bool(x["keep_dims"])),
    "reshape": lambda x: x["x"].reshape(ints(x["shape"])),
    "linear": lambda x: torch.nn.functional.linear(x["x"], x["weight"], x["bias"]),
}
