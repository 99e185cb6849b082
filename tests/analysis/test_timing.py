import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from van import ops
from van.analysis import timing as measuring
from van.analysis.timing import Case, OpCase, Result, baseline, exact_depthwise, measure, plan, plan_ops, ratio
from van.errors import VanError
from van.models.variants import VARIANTS

SMALL = {"batch_size": 2, "image_size": (32, 32)}


def measured(*cases, rounds=2, **options):
    results = [Result(case) for case in cases]
    measure(results, rounds, warmup=0, **options)
    return results


def broken(model):
    with torch.no_grad():
        model.stages[1].norm.bias.add_(0.3)
    return model


def fake(model, seconds, **case):
    return Result(Case(model, **case), seconds=seconds)


# ------------------------------------------------------------------------------------------------ plan


def test_plan_holds_every_case_that_there_is():
    cases = plan(["van_b0", "reference:van_b0", "resnet50"], ["inference", "training"], ["eager", "fused"])
    assert [(case.model, case.task, case.mode) for case in cases] == [
        ("van_b0", "inference", "eager"),
        ("reference:van_b0", "inference", "eager"),
        ("resnet50", "inference", "eager"),
        ("van_b0", "inference", "fused"),
        ("van_b0", "training", "eager"),
        ("reference:van_b0", "training", "eager"),
        ("resnet50", "training", "eager"),
    ]


def test_what_is_said_twice_is_measured_once():
    assert len(plan(["van_b0", "van_b0"], modes=["eager", "eager"], batch_sizes=[1, 1])) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ["van_b7"]}, ["van_b7", "Did you mean van_b"]),
        ({"models": ["reference:resnet50"]}, ["reference:resnet50"]),
        ({"models": ["resnet5O"]}, ["resnet5O", "Did you mean resnet50"]),
        ({"models": []}, ["Nothing to measure"]),
        ({"tasks": []}, ["Nothing to measure"]),
        ({"tasks": ["sleeping"]}, ["sleeping", "inference, training"]),
        ({"modes": ["fast"]}, ["fast", "eager, compiled, fused, onnxruntime, openvino"]),
        ({"modes": ["fused"], "tasks": ["training"]}, ["fused", "for inference"]),
        ({"modes": ["openvino"], "tasks": ["training"]}, ["openvino", "are for inference"]),
        ({"modes": ["compiled"], "models": ["reference:van_b0"]}, ["compiled", "eager mode only"]),
        ({"precisions": ["int8"]}, ["int8", "float32, bfloat16, float16"]),
        ({"precisions": ["float16"]}, ["float16", "Use bfloat16"]),
        ({"batch_sizes": [1, 0]}, ["[1, 0]"]),
        ({"image_size": (0, 32)}, ["(0, 32)"]),
        ({"device": "cuda:99"}, ["cuda:99", "Try cpu"]),
        ({"device": "tpu"}, ["tpu", "cpu, cuda"]),
    ],
)
def test_errors_of_a_plan(changes, words):
    with pytest.raises(VanError) as error:
        plan(**{"models": ["van_b0"], **changes})
    assert all(word in str(error.value) for word in words)


def test_plan_of_operations():
    cases = plan_ops(["van_b1", "van_b2"])
    assert len({case.shape for case in cases}) == 12  # B1 and B2 have the same
    assert "7x7 d3, 64x56x56" in {case.shape for case in cases}
    assert "3x3, 2048x7x7" in {case.shape for case in cases}
    assert {case.direction for case in cases} == set(measuring.DIRECTIONS)
    dilated = {case.method for case in cases if case.dilation == 3}
    assert {"torch", "torch NCHW", "phase"} <= dilated
    with pytest.raises(VanError, match="resnet50"):
        plan_ops(["resnet50"])


# ------------------------------------------------------------------------------------------------ measuring


def test_cases_of_a_group_take_turns():
    results = [Result(case) for case in plan(["van_b0", "reference:van_b0", "test_resnet"], **GROUPS)]
    said = []
    measure(results, 2, warmup=0, tick=said.append)
    first = [str(r.case) for r in results[:3]]
    second = [str(r.case) for r in results[3:]]
    assert [r.case.batch_size for r in results] == [1, 1, 1, 2, 2, 2]
    assert said == [
        *(f"preparing {name}" for name in first),
        *first * 2,
        *(f"preparing {n}" for n in second),
        *second * 2,
    ]
    assert all(len(r.seconds) == 2 and min(r.seconds) > 0 for r in results)


GROUPS = {"image_size": (32, 32), "batch_sizes": [1, 2]}


def test_what_was_measured_before_an_interruption_is_kept():
    results = [Result(Case(name, **SMALL)) for name in ("test_resnet", "test_vit")]
    steps = iter(range(100))

    def tick(text):
        if next(steps) == 5:  # 2 preparations, then A B A
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(results, 10, warmup=0, tick=tick)
    assert [len(r.seconds) for r in results] == [2, 1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_right_paths_pass(precision, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # one block per stage shows the same as all of them, and converts in a third of the time
    monkeypatch.setitem(VARIANTS, "van_b0", {**VARIANTS["van_b0"], "depths": (1, 1, 1, 1)})
    results = measured(
        Case("van_b0", precision=precision, **SMALL),
        Case("van_b0", mode="fused", precision=precision, **SMALL),
        Case("reference:van_b0", precision=precision, **SMALL),
        Case("reference:van_b0:channels_last", precision=precision, **SMALL),
        Case("van_b0", mode="openvino", precision=precision, **SMALL),
    )
    assert [r.failure for r in results] == [None] * 5
    assert all(r.error < measuring.BOUNDS[precision] for r in results)
    assert [r.bound is None for r in results] == [False, False, True, True, False]
    assert [r.memory is None for r in results] == [False] * 4 + [True]
    if precision == "float32":
        assert results[0].error > 0  # it was not compared with itself


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_wrong_fast_path_is_not_timed(precision, monkeypatch):
    monkeypatch.setattr(measuring, "fuse", broken)
    wrong, right = measured(
        Case("van_b0", mode="fused", precision=precision, **SMALL),
        Case("van_b0", precision=precision, **SMALL),
    )
    assert wrong.seconds == []
    assert "wrong result" in wrong.failure
    assert "reference:van_b0" in wrong.failure
    assert len(right.seconds) == 2


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_step(precision, batch_size):
    [result] = measured(Case("van_b0", "training", precision=precision, batch_size=batch_size, image_size=(64, 64)))
    assert result.failure is None
    assert 0 < result.error < result.bound


def test_half_precision_may_round_as_the_plain_network_does(monkeypatch):
    def bound(own):
        def difference(ours, theirs):
            return own if difference.calls.append(0) or len(difference.calls) > 1 else 0.05

        difference.calls = []
        monkeypatch.setattr(measuring, "_difference", difference)
        [result] = measured(Case("van_b0", precision="bfloat16", **SMALL))
        return result.bound, result.failure is None

    assert bound(own=0.001) == (0.02, False)
    assert bound(own=0.03) == (pytest.approx(0.09), True)
    assert bound(own=1e18) == (pytest.approx(0.2), True)  # such a network says nothing about rounding


def test_wrong_gradient_is_not_timed(monkeypatch):
    def scaled(self, x):
        y = x * self.gamma.view(-1, 1, 1)
        return y + 0.1 * (y - y.detach())  # the right value with a wrong gradient

    monkeypatch.setattr("van.models.van.LayerScale2d.forward", scaled)
    [result] = measured(Case("van_b0", "training", **SMALL))
    assert result.seconds == []
    assert "wrong result" in result.failure


def test_other_networks_are_compared_with_themselves():
    eager, fused = measured(Case("test_resnet", **SMALL), Case("test_resnet", precision="bfloat16", **SMALL))
    assert eager.error == 0
    assert fused.error > 0
    assert eager.bound is None


def test_network_that_cannot_run_is_reported_and_the_others_go_on():
    # BatchNorm cannot train on one value per channel
    refused, fine = measured(
        Case("van_b0", "training", batch_size=1, image_size=(32, 32)),
        Case("test_vit", "training", batch_size=1, image_size=(32, 32)),
    )
    assert "more than 1 value per channel" in refused.failure
    assert len(fine.seconds) == 2


def test_weights_are_the_same_at_every_call_and_nothing_is_neutral():
    torch.manual_seed(3)
    first = measuring.build("van_b0").state_dict()
    torch.manual_seed(4)
    second = measuring.build("van_b0").state_dict()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    assert all(t.std() > 0 for k, t in first.items() if t.ndim == 1)


def test_building_leaves_the_random_numbers_of_the_program_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    measuring.build("test_resnet")
    assert torch.equal(torch.rand(3), expected)


def test_network_of_fixed_size_is_built_for_the_size_asked_for():
    model = measuring.build("swin_tiny_patch4_window7_224", (64, 64)).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_peak_memory_is_that_of_the_tensors():
    def step():
        a = torch.ones(1000, 250)  # 1 MB
        b = a + 1  # 1 MB more
        del a
        return b * 2  # never more than two at once

    assert measuring.peak_memory(step, "cpu", held=500) == pytest.approx(2_000_500, abs=100)


def test_memory_of_a_training_step_holds_weights_gradients_and_optimiser():
    # on smaller images BatchNorm sees so few numbers that gradients round by more than the bound
    [result] = measured(Case("van_b0", "training", batch_size=4, image_size=(64, 64)))
    assert result.failure is None
    weights = 4 * 4_105_800
    assert 4 * weights < result.memory < 6 * weights


@pytest.mark.slow
def test_compiled_network():
    result, other = measured(Case("van_b0", mode="compiled", **SMALL), Case("test_resnet", mode="compiled", **SMALL))
    assert (result.failure, other.failure) == (None, None)
    assert result.first_call > 5 * max(result.seconds)
    assert 0 < result.error < 1e-4


# ------------------------------------------------------------------------------------------------ operations


@pytest.mark.parametrize(("kernel_size", "dilation"), [(5, 1), (7, 3), (4, 1), (4, 3)])
def test_exact_convolution_is_torchs_in_float64(kernel_size, dilation):
    torch.manual_seed(0)
    x, gradient = torch.randn(2, 3, 9, 11).double(), torch.randn(2, 3, 9, 11).double()
    weight, bias = torch.randn(3, 1, kernel_size, kernel_size).double(), torch.randn(3).double()
    found = exact_depthwise(x, weight, bias, gradient, dilation)
    x.requires_grad_()
    weight.requires_grad_()
    y = ops.depthwise_conv2d(x, weight, bias, dilation, "torch")
    wanted = (y, *torch.autograd.grad(y, (x, weight), gradient))
    for ours, theirs in zip(found["forward_backward"], wanted, strict=True):
        torch.testing.assert_close(ours, theirs.detach())
    assert [len(found[d]) for d in measuring.DIRECTIONS] == [1, 1, 1, 3]


def test_operations():
    cases = [case for case in plan_ops(["van_b0"], image_size=(32, 32), batch_sizes=[2]) if case.channels in (32, 256)]
    results = measured(*cases)
    assert [r.failure for r in results if r.failure] == []
    assert all(r.error < 1e-5 and len(r.seconds) == 2 for r in results)


def test_wrong_operation_is_not_timed(monkeypatch):
    monkeypatch.setattr(ops, "depthwise_conv2d", lambda x, w, b, d, backend: F.conv2d(x, w, b, 1, 9, d, 32) + x * 1e-3)
    phase, torchs = measured(*(OpCase(backend, 7, 3, 32, (8, 8), batch_size=2) for backend in ("phase", "torch")))
    assert "wrong result" in phase.failure
    assert phase.seconds == []
    assert torchs.failure is None


# ------------------------------------------------------------------------------------------------ statistics


def test_statistics_by_hand():
    result = fake("van_b0", [0.5, 0.1, 0.2, 0.3, 0.4], batch_size=6)
    assert result.percentile(50) == pytest.approx(0.3)
    assert result.percentile(5) == pytest.approx(0.12)
    assert result.percentile(95) == pytest.approx(0.48)
    assert result.images_per_second == pytest.approx(20)
    assert ratio(result, fake("van_b1", [0.6, 0.9, 0.2])) == pytest.approx(2)
    assert ratio(result, None) is None
    assert ratio(fake("van_b0", []), result) is None


def test_share_of_the_matrix_rate_by_hand():
    case = {"macs": 1024**3, "products": [0.5, 0.25, 0.1]}  # a product takes as many as an image
    inference = Result(Case("van_b0", batch_size=2), seconds=[1.0], **case)
    training = Result(Case("van_b0", "training", batch_size=2), seconds=[3.0], **case)
    assert inference.share == pytest.approx(0.5)
    assert training.share == pytest.approx(0.5)
    assert Result(Case("van_b0"), macs=1).share is None


def test_networks_take_turns_with_the_matrix_product():
    single, half = measured(Case("van_b0", **SMALL), Case("van_b0", precision="bfloat16", **SMALL), rounds=3)
    assert single.products is not half.products
    assert [len(r.products) for r in (single, half)] == [3, 3]
    assert 0 < single.share < 1.5


def test_baseline():
    fast, half = fake("van_b0", [1]), fake("van_b0", [1], precision="bfloat16")
    other, reference = fake("resnet50", [1]), fake("reference:van_b1", [1])
    own, own_half = fake("reference:van_b0", [1]), fake("reference:van_b0", [1], precision="bfloat16")
    larger, failed = fake("reference:van_b0", [1], batch_size=2), fake("reference:van_b0", [])
    assert baseline(fast, [fast, reference, own]) is own  # of the same variant
    assert baseline(fast, [fast, reference]) is reference
    assert baseline(other, [other, reference, own]) is reference
    assert baseline(half, [half, own, own_half]) is own
    assert baseline(half, [half, own, own_half], "bfloat16") is own_half
    assert baseline(fast, [other, fast, larger, failed]) is other  # there is no reference


# ------------------------------------------------------------------------------------------------ picture


def test_picture():
    results = [
        fake(name, [0.1, 0.2, 0.4], batch_size=batch, precision=precision, mode=mode)
        for name, mode in (
            ("van_b0", "eager"),
            ("van_b0", "fused"),
            ("reference:van_b0", "eager"),
            ("resnet50", "eager"),
        )
        for precision in ("float32", "bfloat16")
        for batch in (1, 4)
    ]
    results += [fake("test_resnet", [0.1], batch_size=8), fake("van_b0", [0.1], task="training", batch_size=8)]
    figure = measuring.throughput_plot(results, {"van_b0": 75.4, "resnet50": 76.5}, "a title")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=40)
    assert np.asarray(Image.open(buffer).convert("RGB")).std() > 5
    assert [axes.get_title() for axes in figure.axes] == [
        "eager, float32",
        "fused, float32",
        "eager, bfloat16",
        "fused, bfloat16",
    ]
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[0].lines]
    assert points == [(20, 75.4), (20, 75.4), (20, 76.5)]  # the largest batch with an accuracy
    assert "quoted" in figure.axes[0].get_ylabel()
    assert "measured" in figure.axes[2].get_xlabel()
    assert [text.get_text() for text in figure.axes[0].texts] == ["van_b0", "van_b0", "resnet50"]


def test_no_picture_without_accuracies():
    assert measuring.throughput_plot([fake("test_resnet", [0.1])], {"van_b0": 75.4}, "") is None
