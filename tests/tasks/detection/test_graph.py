"""What exported detectors compute: the graph, and the files that runtimes make of it."""

import warnings

import numpy as np
import pytest
import torch
from tests.networks.test_detection import ARGUMENTS, tiny

from van.engine.predictor import Predictor
from van.errors import VanError
from van.export.torch import without_limits
from van.models.weight_file import Header
from van.tasks.detection.task import DETECTION, INSTANCES

EVERY = list(ARGUMENTS)
BOUND = 1e-3  # as a share: a mask has a few pixels at its threshold
SIZES = [(2, (64, 96)), (1, (75, 123)), (3, (161, 60))]
# RetinaNet in other runtimes than PyTorch takes images with a scaled side of 160 or more: below, its highest level has
# a single position
LARGER = {"min_size": [160], "max_size": 256}
SMALLER_SIZES = [(2, (64, 96)), (1, (96, 160)), (3, (160, 64))]
LARGER_SIZES = [(2, (160, 192)), (1, (192, 256)), (3, (256, 160))]


def predictor(architecture: str, **options) -> Predictor:
    options |= {} if architecture == "mask2former" else {"score_threshold": 0.0}
    detector = tiny(architecture, detections_per_image=25, **options).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)  # scores differ everywhere
    task = INSTANCES if detector.has_masks else DETECTION
    return Predictor(task, detector, Header(task.name, ["a", "b", "c"]), "cpu")


def graph_of(architecture: str, preprocess: bool, postprocess: bool, **options):
    one = predictor(architecture, **options)
    return one.task.graph(one, preprocess, postprocess).eval()


@pytest.mark.parametrize("architecture", EVERY)
def test_the_graph_finds_what_the_detector_finds(architecture):
    graph = graph_of(architecture, True, True)
    for batch, size in SIZES:
        (images,) = graph.inputs(batch, size)
        with torch.no_grad():
            found = dict(zip(graph.output_names, graph(images), strict=True))
            expected = graph.network(list(images))
        for i, one in enumerate(expected):
            count = len(one["scores"])
            assert 0 < count == int((found["scores"][i] > 0).sum())
            torch.testing.assert_close(found["boxes"][i, :count], one["boxes"], atol=1e-2, rtol=1e-4)
            torch.testing.assert_close(found["scores"][i, :count], one["scores"], atol=1e-5, rtol=1e-4)
            assert torch.equal(found["labels"][i, :count], one["labels"])
            assert not any(values[i, count:].any() for values in found.values())
            if "masks" in one:
                masks = found["masks"][i, :count]
                assert masks.dtype == torch.uint8
                assert ((one["masks"][:, 0] >= 0.5) != masks.bool()).float().mean() < 1e-3


@pytest.mark.parametrize("architecture", EVERY)
def test_an_engine_takes_the_place_of_the_core(architecture):
    detector = predictor(architecture).model
    image, core, seen = torch.rand(3, 70, 90), detector.core, []
    with torch.no_grad():
        expected = detector([image])

        def engine(*inputs):
            seen.append([tuple(x.shape) for x in inputs])
            return core(*inputs)

        detector.core = engine
        found = detector([image])
    assert len(seen) == 1
    assert len(seen[0]) == len(detector.core_inputs)
    assert all(torch.equal(values, found[0][name]) for name, values in expected[0].items())


def test_objects_are_compared_in_any_order():
    graph = graph_of("fcos", True, True)
    with torch.no_grad():
        outputs = graph(*graph.inputs(2, (64, 96)))
    order = torch.randperm(25)
    mixed = [values[:, order] for values in outputs]
    assert max(graph.differences(outputs, mixed).values()) == 0
    moved = [mixed[0] + 0.5, *mixed[1:]]
    assert 0 < graph.differences(outputs, moved)["boxes"] < 0.02
    other = [mixed[0], (mixed[1] + 1) % 3, mixed[2]]
    assert graph.differences(outputs, other)["labels"] == float("inf")


def test_a_detector_without_a_core_is_refused():
    one = predictor("fcos")
    one.model.core_inputs  # noqa: B018 - it has one
    one.model = torch.nn.Identity()
    one.model.options = tiny("gfl").options
    with pytest.raises(VanError, match="gfl cannot be exported"):
        one.task.graph(one)


def runs(graph, format: str, folder):
    """What runs the graph in a format, from tensors to tensors."""
    example = graph.inputs(2, (150, 210) if graph.preprocess else (160, 224))
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple(dict.fromkeys(axes, dynamic) for axes in graph.dynamic_shapes())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters' own code
        program = torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)
        if format == "torch":
            # the layout of tiny maps is all that the guards are about
            return without_limits(program).module(check_guards=False)
        path = folder / "detector.onnx"
        names = {"input_names": list(graph.input_names), "output_names": list(graph.output_names)}
        torch.onnx.export(program, dynamo=True, verbose=False, **names).save(path)
    if format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        wanted = [one.name for one in session.get_inputs()]

        def run(*inputs):
            given = dict(zip(graph.input_names, inputs, strict=True))
            return [torch.from_numpy(x) for x in session.run(None, {name: given[name].numpy() for name in wanted})]

        return run
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = openvino.convert_model(path if graph.through_onnx else program)
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def run_openvino(*inputs):
        outputs = compiled([x.numpy() for x in inputs][: len(compiled.inputs)])
        return [torch.from_numpy(np.array(outputs[i])) for i in range(len(compiled.outputs))]

    return run_openvino


CASES = [
    (architecture, runtime, preprocess, postprocess)
    for architecture in EVERY
    for runtime in ("torch", "onnx", "openvino")
    for preprocess, postprocess in ((False, False), (True, False), (False, True), (True, True))
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "format", "preprocess", "postprocess"), CASES)
def test_every_runtime_computes_the_graph(architecture, format, preprocess, postprocess, tmp_path):
    for package in {"torch": (), "onnx": ("onnxscript", "onnxruntime"), "openvino": ("openvino",)}[format]:
        pytest.importorskip(package)
    larger = architecture == "retinanet" and format != "torch"
    graph = graph_of(architecture, preprocess, postprocess, **(LARGER if larger else {}))
    run = runs(graph, format, tmp_path)
    for batch, size in SIZES if preprocess else LARGER_SIZES if larger else SMALLER_SIZES:
        inputs = graph.inputs(batch, size, seed=1)
        with torch.no_grad():
            differences = graph.differences(graph(*inputs), run(*inputs))
        assert max(differences.values()) < BOUND, differences
