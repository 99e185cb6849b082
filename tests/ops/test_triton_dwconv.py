"""The Triton kernels against torch in float64: on a CUDA GPU where there is one, always in Triton's interpreter.

The interpreter must be chosen before triton is first imported, so this module runs itself in a second process.
"""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from van.ops import depthwise_conv2d, reference, triton_dwconv, use_backend, why_not
from van.ops.triton_dwconv import TILES, Tiles, choose_tiles

TUNE = Path(__file__).parents[2] / "benchmarks" / "tune_triton.py"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_kernels = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="no CUDA GPU: checked in Triton's interpreter"
)
# (shape, kernel, dilation), each with the reason for it; tiles are made 16 pixels x 2 channels x 2 steps
CASES = {
    "LKA of VAN, neither size divisible by the dilation": ((2, 3, 7, 8), 7, 3),
    "undilated LKA, several programs": ((2, 3, 6, 7), 5, 1),
    "FFN": ((1, 2, 5, 4), 3, 1),
    "map smaller than the kernel": ((2, 4, 2, 3), 7, 3),
    "map on which three of seven weights meet something": ((1, 2, 4, 5), 7, 3),
    "one pixel": ((1, 1, 1, 1), 3, 2),
    "even kernel": ((1, 3, 5, 6), 4, 2),
    "even kernel that cannot be centred": ((1, 3, 6, 5), 4, 3),
    "kernel of one": ((2, 3, 3, 3), 1, 5),
    "no image": ((0, 3, 5, 5), 7, 3),
}


def make(shape, kernel, dtype=torch.float32, device=DEVICE):
    generator = torch.Generator().manual_seed(kernel + sum(shape))
    sizes = (shape, (shape[1], 1, kernel, kernel), (shape[1],))
    return [torch.randn(size, generator=generator).to(device, dtype).requires_grad_() for size in sizes]


def check(inputs, cotangent, dilation):
    """Compare the output and all gradients with torch's in float64."""
    exact_inputs = [None if t is None else t.detach().double().requires_grad_() for t in inputs]
    out = depthwise_conv2d(*inputs, dilation, "triton")
    exact = reference.conv2d(*exact_inputs, dilation)
    given = [out, *torch.autograd.grad(out, [t for t in inputs if t is not None], cotangent)]
    wanted = [exact, *torch.autograd.grad(exact, [t for t in exact_inputs if t is not None], cotangent.double())]
    assert all(t.dtype == inputs[0].dtype for t in given)
    # float32 sums whatever the type; the interpreter cuts bfloat16's last bit where a GPU rounds it
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[out.dtype]
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


@pytest.fixture
def small_tiles(monkeypatch):
    torch.manual_seed(0)
    for key in TILES:
        monkeypatch.setitem(TILES, key, Tiles(16, 2, 1, 2))


@needs_kernels
@pytest.mark.usefixtures("small_tiles")
class TestKernels:
    @pytest.mark.parametrize("case", CASES)
    def test_output_and_gradients(self, case):
        shape, kernel, dilation = CASES[case]
        inputs = make(shape, kernel)
        x = inputs[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        cotangent = torch.randn(shape, device=DEVICE).contiguous(memory_format=torch.channels_last)
        check([x, *inputs[1:]], cotangent, dilation)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, dtype):
        inputs = make((1, 3, 6, 5), 7, dtype)
        check(inputs, torch.randn((1, 3, 6, 5), device=DEVICE, dtype=dtype), 3)

    @pytest.mark.parametrize("layout", ["contiguous", "strided", "broadcast"])
    def test_every_layout(self, layout):
        inputs = make((2, 3, 5, 6), 3)
        x, cotangent = inputs[0].detach(), torch.randn((2, 3, 5, 6), device=DEVICE)
        if layout == "strided":  # width first, every other element, maps turned
            x = torch.stack([x, x], dim=-1).permute(3, 0, 4, 1, 2).contiguous().permute(1, 3, 4, 0, 2)[..., 0]
            cotangent = cotangent.transpose(2, 3).contiguous().transpose(2, 3)
        elif layout == "broadcast":  # what .sum().backward() sends
            x, cotangent = x[:, :1].expand(2, 3, 5, 6), torch.ones((), device=DEVICE).expand(2, 3, 5, 6)
        check([x.requires_grad_(), *inputs[1:]], cotangent, 2)

    def test_without_bias(self):
        x, weight, _ = make((1, 2, 4, 4), 3)
        check([x, weight, None], torch.randn((1, 2, 4, 4), device=DEVICE), 1)

    def test_table_of_tiles(self, monkeypatch):
        monkeypatch.undo()
        for kernel, dilation in ((3, 1), (5, 1), (7, 3)):
            inputs = make((2, 40, 7, 7), kernel)
            check(inputs, torch.randn((2, 40, 7, 7), device=DEVICE), dilation)

    def test_gradients_that_nobody_needs_are_not_computed(self, monkeypatch):
        x, weight, bias = make((1, 2, 4, 4), 3)
        out = depthwise_conv2d(x.detach(), weight, bias.detach(), 1, "triton")
        monkeypatch.setattr(triton_dwconv, "convolve", None)
        out.sum().backward()
        assert weight.grad is not None
        assert x.grad is None
        assert bias.grad is None

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own doing
    @pytest.mark.parametrize("shape", [(2, 2, 3, 4), (0, 2, 3, 4)])
    def test_opcheck(self, shape):
        x, weight, bias = make(shape, 3)
        torch.library.opcheck(triton_dwconv._forward, (x, weight, bias, 2))
        torch.library.opcheck(triton_dwconv._forward, (x, weight, None, 2))
        x, weight = x.detach().contiguous(memory_format=torch.channels_last), weight.detach()
        torch.library.opcheck(triton_dwconv._input_gradient, (x, weight, 2))
        torch.library.opcheck(triton_dwconv._weight_gradient, (x, x, 3, 2))

    def test_compiles_whole_and_once_for_all_sizes(self):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(
            lambda *t: depthwise_conv2d(*t, 2, "triton"), fullgraph=True, dynamic=True, backend=counter
        )
        for shape in ((2, 3, 4, 5), (3, 3, 5, 4), (2, 3, 6, 6)):
            inputs, again = make(shape, 3), make(shape, 3)
            results = [compiled(*inputs), depthwise_conv2d(*again, 2, "triton")]
            torch.testing.assert_close(*results)
            gradients = [
                torch.autograd.grad(out.square().sum(), t) for out, t in zip(results, (inputs, again), strict=True)
            ]
            torch.testing.assert_close(*gradients)
        assert counter.frame_count == 1

    def test_autocast(self):
        x, weight, bias = make((1, 2, 4, 4), 3)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            out = depthwise_conv2d(x, weight.bfloat16(), bias, 1, "triton")
            assert "x is torch.float64" in why_not("triton", x.double(), weight.double())  # autocast leaves it alone
        assert out.dtype == torch.bfloat16
        out.float().sum().backward()
        assert all(t.grad.dtype == torch.float32 for t in (x, weight, bias))

    def test_second_derivatives_are_refused(self):
        inputs = make((1, 2, 3, 3), 3)
        out = depthwise_conv2d(*inputs, 1, "triton")
        (gradient,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
        with pytest.raises(RuntimeError, match="no autograd formula was registered"):
            gradient.sum().backward()

    def test_wrong_inputs(self):
        x, weight, bias = make((1, 3, 4, 4), 3)
        assert "weight torch.bfloat16, expected one type" in why_not("triton", x, weight.bfloat16())
        assert "expected float32, bfloat16 or float16" in why_not("triton", x.double(), weight.double())
        assert "expected (3, 1, k, k)" in why_not("triton", x, weight[:2])
        assert "expected (B, C, H, W)" in why_not("triton", x[0], weight)
        assert "dilation is 0" in why_not("triton", x, weight, 0)
        assert "expected less than 2**31" in why_not("triton", x[:1, :, :1, :1].expand(1, 3, 2**16, 2**15), weight)
        with pytest.raises(ValueError, match=r"bias is \(2,\) in torch.float32, expected \(3,\) in torch.float32"):
            depthwise_conv2d(x, weight, bias[:2], 1, "triton")

    def test_tuning(self, tmp_path):
        tune = runpy.run_path(str(TUNE))
        report = dict.fromkeys(("gpu", "torch", "triton", "cuda", "cudnn", "date"), "none")
        report |= {"batch": 2, "copy_gb_per_s": 1.0, "rows": []}
        tiles = Tiles(16, 2, 1, 2)

        def timer(call):
            call()
            return 0.5

        for dtype in tune["BOUNDS"]:
            tensors = tune["inputs"](tune["Case"](2, 3, 3, 1), 2, dtype, DEVICE)
            for direction in tune["DIRECTIONS"]:
                row = tune["measure"](direction, tune["Case"](2, 3, 3, 1), tensors, [tiles], timer, 1e9)
                report["rows"].append(row)
                assert row["share_of_floor"] == pytest.approx(2 * 36 * dtype.itemsize / 1e9 / 0.5e-3)
        tune["write"](report, tmp_path)
        assert json.loads((tmp_path / "tune_triton.json").read_text())["rows"][0]["candidates"][0]["ms"] == 0.5
        page = (tmp_path / "tune_triton.md").read_text()
        assert '("weight_gradient", 3, False): Tiles(16, 2, 1, 2),' in page

        def wrong(*_, tiles):
            return triton_dwconv.convolve(tensors[0], tensors[1].neg(), None, 1, tiles=tiles)

        tune["measure"].__globals__["by_triton"] = wrong
        with pytest.raises(SystemExit, match="WRONG: forward"):
            tune["measure"]("forward", tune["Case"](2, 3, 3, 1), tensors, [tiles], timer, 1e9)

    def test_automatic_choice_is_another(self, monkeypatch):
        monkeypatch.setattr(triton_dwconv, "convolve", None)
        assert why_not("triton", *make((1, 2, 4, 4), 7)[:2], 3) is None
        depthwise_conv2d(*make((1, 2, 4, 4), 7), 3)


@pytest.mark.skipif(not triton_dwconv._INSTALLED, reason="triton is not installed")
@pytest.mark.skipif(INTERPRETED, reason="this is the second process")
def test_kernels_in_the_interpreter():
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "TestKernels"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "skipped" not in process.stdout


# What the interpreter does not see: types, and integers of 1, which triton turns into constants.
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.skipif(not triton_dwconv._INSTALLED, reason="triton is not installed")
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("ones", [(), ("x_c", "out_c", "gradient_c"), "all"], ids=["NCHW", "channels_last", "ones"])
@pytest.mark.parametrize("job", ["convolve", "weight_gradient"])
def test_kernels_compile_for_a_gpu_that_is_not_here(job, ones, dtype, tmp_path, monkeypatch):
    import triton
    from triton.backends.compiler import GPUTarget

    from van.ops import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"KERNEL": 7, "DILATION": 3, "BEFORE": 9, "BLOCK_P": 32, "BLOCK_C": 32}
    constants |= {"FLIP": True, "HAS_BIAS": True} if job == "convolve" else {"TAPS": 8}
    kernel = getattr(triton_kernels, job)
    types = {"x": f"*{dtype}", "out": f"*{dtype}", "gradient": f"*{dtype}", "bias": f"*{dtype}"}
    types |= {"weight": "*fp32", "shares": "*fp32"}
    for name in kernel.arg_names:
        if name not in types and name not in constants and (ones == "all" or name in ones):
            constants[name] = 1
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    source = triton.compiler.ASTSource(kernel, signature, constants)
    options = {"num_warps": 4, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    assert compiled.asm["cubin"]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on the CPU")
def test_refused_without_a_gpu():
    x, weight, bias = make((1, 3, 9, 9), 7, device="cpu")
    expected = "x is on cpu, expected a CUDA tensor" if triton_dwconv._INSTALLED else "triton is not installed"
    with pytest.raises(ValueError, match=f"backend 'triton' cannot run this convolution: {expected}"):
        depthwise_conv2d(x, weight, bias, 3, "triton")
    with use_backend("triton"):  # falls back
        torch.testing.assert_close(depthwise_conv2d(x, weight, bias, 3), reference.conv2d(x, weight, bias, 3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tuning_without_a_gpu_says_so(tmp_path):
    process = subprocess.run(
        [sys.executable, TUNE, "--output", tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert process.stderr == "tune_triton needs a CUDA GPU, and torch finds none here.\n"
    assert not (tmp_path / "out").exists()


def test_says_that_triton_is_missing(monkeypatch):
    monkeypatch.setattr(triton_dwconv, "_INSTALLED", False)
    assert "pip install triton" in why_not("triton", *make((1, 3, 9, 9), 7, device="cpu")[:2])


def test_import_leaves_triton_alone():
    program = "import sys, van.ops; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_every_kernel_size_has_tiles():
    for kernel in range(1, 22):
        for width in (1, 16, 17, 2048):
            for job in ("convolve", "weight_gradient"):
                tiles = choose_tiles(job, kernel, width)
                assert tiles.pixels & tiles.pixels - 1 == tiles.channels & tiles.channels - 1 == 0
