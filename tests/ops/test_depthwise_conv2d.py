"""Every backend against a sum over shifted maps in float64: outputs and all gradients."""

import warnings

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils.flop_counter import FlopCounterMode

import van
from van.data.digits import DigitSamples
from van.ops import depthwise_conv2d, use_backend, why_not

BACKENDS = ["torch", "phase"]
# (batch, channels, height, width): divisible by the dilation and not, smaller than the kernel, one pixel, no image
SHAPES = [(2, 3, 9, 12), (1, 4, 14, 13), (3, 2, 7, 7), (2, 5, 2, 4), (2, 3, 1, 1), (0, 3, 5, 5)]
# (kernel, dilation): of K = 21, 35, 28 and 7, an even kernel with an odd dilation, corner cases, the undilated ones
KERNELS = [(7, 3), (9, 4), (7, 4), (4, 2), (4, 3), (2, 3), (1, 5), (3, 1), (5, 1), (4, 1)]
COMBINATIONS = [(b, k, d) for b in BACKENDS for k, d in KERNELS]


def make(shape, kernel, dtype=torch.float64):
    generator = torch.Generator().manual_seed(kernel + sum(shape))
    sizes = (shape, (shape[1], 1, kernel, kernel), (shape[1],))
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


def by_hand(x, weight, bias, dilation):
    kernel = weight.shape[-1]
    before = dilation * (kernel - 1) // 2
    batch, channels, height, width = x.shape
    padded = torch.nn.functional.pad(x, (before, dilation * kernel, before, dilation * kernel))
    out = torch.zeros_like(x) if bias is None else bias.view(1, -1, 1, 1).expand(batch, channels, height, width)
    for i in range(kernel):
        for j in range(kernel):
            shifted = padded[:, :, i * dilation : i * dilation + height, j * dilation : j * dilation + width]
            out = out + weight[:, 0, i, j].view(1, -1, 1, 1) * shifted
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("backend", "kernel", "dilation"), COMBINATIONS)
class TestEveryBackend:
    def test_output_and_gradients_in_float64(self, backend, kernel, dilation, shape):
        inputs = make(shape, kernel)
        outputs = [depthwise_conv2d(*inputs, dilation, backend), by_hand(*inputs, dilation)]
        torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
        cotangent = torch.randn(shape, dtype=torch.float64)
        gradients = [torch.autograd.grad(out, inputs, cotangent) for out in outputs]
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
    def test_float32_in_every_layout(self, backend, kernel, dilation, shape, layout):
        x, weight, bias = make(shape, kernel, torch.float32)
        exact = by_hand(*(t.detach().double() for t in (x, weight, bias)), dilation)
        if layout == "channels_last":
            x = x.detach().contiguous(memory_format=torch.channels_last)
        elif layout == "strided":
            x = torch.stack([x.detach(), x.detach()], dim=-1)[..., 0]
        out = depthwise_conv2d(x, weight, bias, dilation, backend)
        torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5)


# Sides around the distances of the weights from the centre, where another ring of them is left out
SMALL_MAPS = [(1, 1), (2, 2), (3, 3), (4, 4), (7, 7), (8, 8), (14, 14), (1, 9), (9, 1), (2, 5)]


@pytest.mark.parametrize("size", SMALL_MAPS)
@pytest.mark.parametrize(("kernel", "dilation"), [(7, 3), (5, 1), (3, 1), (4, 2), (4, 3), (2, 3)])
class TestMapsSmallerThanTheKernel:
    @pytest.mark.parametrize("channels_last", [False, True])
    @pytest.mark.parametrize("backend", ["auto", *BACKENDS])
    def test_output_and_gradients(self, backend, channels_last, size, kernel, dilation):
        inputs = make((3, 4, *size), kernel)
        if channels_last:
            inputs[0] = inputs[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        outputs = [depthwise_conv2d(*inputs, dilation, backend), by_hand(*inputs, dilation)]
        torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
        cotangent = torch.randn_like(outputs[0])
        gradients = [torch.autograd.grad(out, inputs, cotangent) for out in outputs]
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)

    def test_autocast(self, size, kernel, dilation):
        inputs = make((3, 4, *size), kernel, torch.float32)
        exact_inputs = [t.detach().bfloat16().double().requires_grad_() for t in inputs]
        with torch.autocast("cpu", torch.bfloat16):
            out = depthwise_conv2d(*inputs, dilation)
        exact = by_hand(*exact_inputs, dilation)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.double(), exact, rtol=2e-2, atol=5e-2)
        cotangent = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
        gradients = torch.autograd.grad(out, inputs, cotangent)
        wanted = torch.autograd.grad(exact, exact_inputs, cotangent.double())
        for ours, theirs in zip(gradients, wanted, strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), theirs, rtol=2e-2, atol=2e-2 * max(1, theirs.abs().max().item()))


def test_weights_beyond_the_map_cost_nothing():
    def arithmetic(size, kernel, dilation):
        x, weight, bias = make((1, 3, size, size), kernel)
        with FlopCounterMode(display=False) as counter:
            depthwise_conv2d(x, weight, bias, dilation, "torch")
        return counter.get_total_flops() // (2 * 3 * size * size)

    assert [arithmetic(size, 7, 3) for size in (10, 9, 7, 6, 4, 3)] == [49, 25, 25, 9, 9, 0]
    assert [arithmetic(size, 5, 1) for size in (3, 2, 1)] == [25, 9, 0]
    assert [arithmetic(size, 4, 2) for size in (4, 3, 1)] == [16, 4, 4]


@pytest.mark.parametrize(("backend", "sizes"), [("torch", (12, 7, 4, 2)), ("phase", (2,))])
def test_compiled_for_small_maps_too(backend, sizes):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *t: depthwise_conv2d(*t, 3, backend), fullgraph=True, dynamic=len(sizes) > 1, backend="eager"
    )
    for size in sizes:
        inputs = make((2, 3, size, size), 7)
        torch.testing.assert_close(compiled(*inputs), by_hand(*inputs, 3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "shape", [(2, 32, 56, 56), (2, 64, 28, 28), (2, 160, 14, 14), (2, 256, 7, 7), (9, 32, 200, 61)]
)
def test_phase_split_is_bit_equal_to_torch_in_float32(shape):
    x, weight, bias = (t.detach() for t in make(shape, 7, torch.float32))
    x = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(depthwise_conv2d(x, weight, bias, 3, "phase"), depthwise_conv2d(x, weight, bias, 3, "torch"))


@pytest.mark.parametrize("kernel", [5, 7])
@pytest.mark.parametrize("dilation", [1, 3])
def test_large_maps(kernel, dilation, monkeypatch):  # copied phase by phase and in chunks
    monkeypatch.setattr("van.ops.phase_split._LARGE_BYTES", 1000)
    monkeypatch.setattr("van.ops.phase_split._CHUNK_BYTES", 20_000)
    inputs = make((5, 8, 14, 13), kernel)
    with torch.no_grad():
        torch.testing.assert_close(
            depthwise_conv2d(*inputs, dilation, "phase"), by_hand(*inputs, dilation), rtol=1e-12, atol=1e-12
        )
    outputs = [depthwise_conv2d(*inputs, dilation, backend) for backend in BACKENDS]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn(5, 8, 14, 13, dtype=torch.float64)
    torch.testing.assert_close(
        *(torch.autograd.grad(out, inputs, cotangent) for out in outputs), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("backend", BACKENDS)
class TestAutogradAndCompilers:
    def test_gradcheck(self, backend):
        inputs = make((2, 2, 5, 4), 4)
        assert torch.autograd.gradcheck(lambda *t: depthwise_conv2d(*t, 3, backend), inputs)
        assert torch.autograd.gradgradcheck(lambda *t: depthwise_conv2d(*t, 3, backend), inputs)

    def test_second_derivative_where_phases_are_copied(self, backend, monkeypatch):
        monkeypatch.setattr("van.ops.phase_split._LARGE_BYTES", 0)
        inputs = make((2, 2, 5, 4), 5)
        assert torch.autograd.gradcheck(lambda *t: depthwise_conv2d(*t, 3, backend), inputs)
        assert torch.autograd.gradgradcheck(lambda *t: depthwise_conv2d(*t, 3, backend), inputs)

    def test_without_bias(self, backend):
        x, weight, _ = make((2, 3, 8, 8), 7)
        out = depthwise_conv2d(x, weight, None, 3, backend)
        torch.testing.assert_close(out, by_hand(x, weight, None, 3), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, backend, dtype):
        x, weight, bias = make((2, 4, 10, 11), 7, dtype)
        exact = by_hand(*(t.detach().double() for t in (x, weight, bias)), 3)
        out = depthwise_conv2d(x, weight, bias, 3, backend)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), exact, rtol=2e-2, atol=0.15)

    def test_autocast(self, backend):
        x, weight, bias = make((2, 4, 10, 11), 7, torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = depthwise_conv2d(x, weight, bias, 3, backend)
        assert out.dtype == torch.bfloat16
        out.float().sum().backward()
        assert all(t.grad.dtype == torch.float32 for t in (x, weight, bias))

    def test_compiles_whole_and_once_for_all_sizes(self, backend):
        torch._dynamo.reset()
        counter = CompileCounter()
        compiled = torch.compile(
            lambda *t: depthwise_conv2d(*t, 3, backend), fullgraph=True, dynamic=True, backend=counter
        )
        for shape in ((2, 3, 9, 12), (3, 3, 14, 13), (2, 3, 10, 10)):
            inputs = make(shape, 7)
            torch.testing.assert_close(compiled(*inputs), by_hand(*inputs, 3), rtol=1e-12, atol=1e-12)
        assert counter.frame_count == 1


@pytest.mark.parametrize("side", [9, 2])  # the smaller map would not need the whole kernel
def test_export_is_a_plain_convolution(side):
    class Layer(torch.nn.Module):
        def forward(self, x, weight):
            return depthwise_conv2d(x, weight, None, 3)

    x, weight, _ = (t.detach() for t in make((1, 3, side, side), 7, torch.float32))
    program = torch.export.export(Layer(), (x, weight))
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called == ["aten.conv2d.default"]


def test_automatic_choice_can_be_forced():
    x, weight, bias = make((1, 3, 12, 12), 7)
    names = []
    for backend in BACKENDS:
        with use_backend(backend), torch.profiler.profile() as profile:
            depthwise_conv2d(x, weight, bias, 3)
        names.append({event.key for event in profile.key_averages()})
    assert "aten::constant_pad_nd" not in names[0]
    assert names[0] != names[1]


def test_reasons_and_wrong_backends():
    x, weight, _ = make((1, 3, 9, 9), 7)
    assert why_not("auto", x, weight) is None
    assert why_not("phase", x, weight, 3) is None
    for wrong in (lambda: why_not("cuda", x, weight), lambda: use_backend("fast").__enter__()):
        with pytest.raises(ValueError, match=r"backend is '(cuda|fast)', expected one of auto, torch, phase"):
            wrong()


def test_short_training_on_digits_is_the_same_with_each_backend():
    digits = DigitSamples()
    batches = [
        (
            torch.stack([torch.from_numpy(digits.load(i)) for i in indices]),
            torch.tensor([digits.labels[i] for i in indices]),
        )
        for indices in torch.arange(8 * 32).split(32)
    ]
    losses = {}
    for backend in BACKENDS:
        torch.manual_seed(0)
        model = van.create_model("van_b0", num_classes=10, in_chans=1, embed_dims=(8, 16, 16, 16), depths=(1, 1, 1, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        losses[backend] = []
        with use_backend(backend):
            for images, target in batches:
                images = torch.nn.functional.interpolate(images[:, None] / 255, size=(32, 32), mode="bilinear")
                loss = torch.nn.functional.cross_entropy(model(images), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses[backend].append(loss.item())
    assert losses["torch"] == pytest.approx(losses["phase"], rel=1e-4)
    assert losses["torch"][-1] < losses["torch"][0]


def loss(backend, x, weight, bias):
    return depthwise_conv2d(x, weight, bias, 3, backend).sin().sum()


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # of torch itself, at its first use of forward mode
@pytest.mark.parametrize("large", [False, True])  # large maps are copied phase by phase
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
class TestTorchFunc:
    @pytest.fixture(autouse=True)
    def copied(self, large, monkeypatch):
        if large:
            monkeypatch.setattr("van.ops.phase_split._LARGE_BYTES", 0)

    def inputs(self, kernel=5):
        return [t.detach() for t in make((2, 2, 5, 4), kernel)]

    @pytest.mark.parametrize("kernel", [4, 5])
    def test_first_derivatives(self, backend, kernel):
        inputs, f = self.inputs(kernel), lambda *t: depthwise_conv2d(*t, 3, backend)
        out, pull = torch.func.vjp(f, *inputs)
        leaves = [t.clone().requires_grad_() for t in inputs]
        torch.testing.assert_close(pull(out.cos()), torch.autograd.grad(f(*leaves), leaves, out.cos()))
        tangents = [torch.randn_like(t) for t in inputs]
        _, forward = torch.func.jvp(f, tuple(inputs), tuple(tangents))
        product = sum((g * t).sum() for g, t in zip(pull(out.cos()), tangents, strict=True))
        torch.testing.assert_close((forward * out.cos()).sum(), product)
        assert torch.autograd.gradcheck(f, leaves, check_forward_ad=True)

    @pytest.mark.parametrize("kernel", [4, 5])
    def test_jacobians_and_hessian(self, backend, kernel):
        x, weight, bias = self.inputs(kernel)
        f = lambda w: depthwise_conv2d(x, w, bias, 3, backend)  # noqa: E731
        torch.testing.assert_close(torch.func.jacrev(f)(weight), torch.func.jacfwd(f)(weight))
        g = lambda x: loss(backend, x, weight, bias)  # noqa: E731
        hessian = torch.autograd.functional.hessian(g, x)
        torch.testing.assert_close(torch.func.hessian(g)(x), hessian)
        torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(g))(x), hessian)

    def test_gradient_of_each_sample(self, backend):
        maps, weight, bias = torch.randn(3, 2, 4, 9, 8), torch.randn(4, 1, 5, 5), torch.randn(4)
        each = torch.vmap(torch.func.grad(loss, argnums=(1, 2, 3)), (None, 0, None, None))(backend, maps, weight, bias)
        for i, x in enumerate(maps):
            leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
            expected = torch.autograd.grad(loss(backend, *leaves), leaves)
            torch.testing.assert_close([g[i] for g in each], list(expected), rtol=1e-4, atol=1e-4)
        outputs = torch.vmap(lambda x: depthwise_conv2d(x, weight, bias, 3, backend))(maps)
        torch.testing.assert_close(outputs[1], depthwise_conv2d(maps[1], weight, bias, 3, backend))


def test_a_trace_is_a_plain_convolution_with_gradients_enabled():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3, 1, 7, 7))

        def forward(self, x):
            return depthwise_conv2d(x, self.weight, None, 3)

    layer, x = Layer(), torch.randn(1, 3, 9, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; the size of the kernel becomes a constant
        traced = torch.jit.trace(layer, x)
    assert [node.kind() for node in traced.graph.nodes() if "conv" in node.kind()] == ["aten::_convolution"]
    torch.testing.assert_close(traced(torch.ones(2, 3, 12, 8)), layer(torch.ones(2, 3, 12, 8)))
