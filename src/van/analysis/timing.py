"""Speed and memory of networks and depth-wise convolutions, measured side by side in interleaved rounds.

The speed of a machine varies over time. Cases that are compared therefore take turns (A B C, A B C, ...) in one
process, and the results are ratios of medians. Nothing is timed before its output has been compared with that of a
plain reference.
"""

import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args

import numpy as np
import timm
import torch
from timm.layers.drop import DropPath
from torch import nn
from torch.nn import functional as F

from van import ops
from van.analysis.counting import complexity
from van.engine.engines import engine_class
from van.errors import VanError, nearest
from van.export.fuse import fuse
from van.models import create_model
from van.models.reference import ReferenceVAN
from van.models.variants import VARIANTS
from van.models.weights import Checkpoint, to_format
from van.ops import reference
from van.ops.allocator import keep_freed_memory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = ("inference", "training")
ENGINES = ("onnxruntime", "openvino")  # which compute the network in place of PyTorch, on CPUs
MODES = ("eager", "compiled", "fused", *ENGINES)
PRECISIONS = ("float32", "bfloat16", "float16")
DIRECTIONS = ("forward", "input_gradient", "weight_gradient", "forward_backward")
# Largest accepted difference relative to the largest number of the reference. VAN-B0 and B2 differ by 1e-6 in float32
# and 1e-2 in bfloat16, as does their plain reference in bfloat16.
BOUNDS = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 1e-2}
# Where the plain network itself is less accurate in half precision (few values per BatchNorm, many layers), three times
# its error is accepted, up to ten times the bound: torch 2.15 returns meaningless values for some gradients.
_OWN_ROUNDING, _AT_MOST = 3, 10

_REFERENCE = "reference:"
_CHANNELS_LAST = ":channels_last"
_LEARNING_RATE = 1e-5
_FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError, VanError)


# ------------------------------------------------------------------------------------------------ cases


@dataclass(frozen=True)
class Case:
    """A network in one mode, to be measured.

    Attributes:
        model: A VAN variant, "reference:VARIANT" for the plain network in NCHW ("reference:VARIANT:channels_last" in
            that layout), or any other name that timm knows.
        task: "inference", or "training": one step of forward pass, backward pass and AdamW.
        mode: "eager", "compiled" (torch.compile), or for inference "fused" (layers folded), or "onnxruntime" or
            "openvino", the engines of van.load, on CPUs.
        precision: "float32", "bfloat16" or "float16"; weights of that type for inference (in OpenVINO its own choice of
            layers that compute so; ONNX Runtime has float32 only), autocast for training.
        batch_size: Images per step.
        image_size: Height and width.
        device: cpu, cuda or cuda:NUMBER.
    """

    model: str
    task: str = "inference"
    mode: str = "eager"
    precision: str = "float32"
    batch_size: int = 1
    image_size: tuple[int, int] = (224, 224)
    device: str = "cpu"

    @property
    def variant(self) -> str | None:
        """Name of the VAN variant, also of its plain reference; None for other networks."""
        name = self.model.removeprefix(_REFERENCE).removesuffix(_CHANNELS_LAST).partition(".")[0]
        return name if name in VARIANTS else None

    @property
    def is_reference(self) -> bool:
        """Whether this is the plain reference network."""
        return self.model.startswith(_REFERENCE)

    @property
    def layout(self) -> str:
        """Memory layout."""
        return "NCHW" if self.is_reference and not self.model.endswith(_CHANNELS_LAST) else "channels_last"

    @property
    def is_fast_path(self) -> bool:
        """Whether this is an optimized path, whose results could be wrong."""
        return self.mode != "eager" or (self.variant is not None and not self.is_reference)

    @property
    def group(self) -> tuple[Any, ...]:
        """What cases that take turns have in common."""
        return self.task, self.batch_size, self.image_size, self.device

    def __str__(self) -> str:
        return f"{self.model} {self.mode} {self.precision}, {self.task}, batch {self.batch_size}"


@dataclass(frozen=True)
class OpCase:
    """A depth-wise convolution by one backend.

    Attributes:
        backend: A backend of van.ops.
        kernel_size: Side of the kernel.
        dilation: Distance between neighbouring weights.
        channels: Channels C.
        map_size: Height and width.
        direction: One of DIRECTIONS.
        precision: Type of maps and weights.
        batch_size: Maps per step.
        layout: "channels_last" or "NCHW".
        device: cpu, cuda or cuda:NUMBER.
    """

    backend: str
    kernel_size: int
    dilation: int
    channels: int
    map_size: tuple[int, int]
    direction: str = "forward"
    precision: str = "float32"
    batch_size: int = 1
    layout: str = "channels_last"
    device: str = "cpu"

    @property
    def shape(self) -> str:
        """Kernel and map in words, such as "7x7 d3, 32x56x56"."""
        dilated = f" d{self.dilation}" if self.dilation > 1 else ""
        sizes = "x".join(map(str, (self.channels, *self.map_size)))
        return f"{self.kernel_size}x{self.kernel_size}{dilated}, {sizes}"

    @property
    def method(self) -> str:
        """Backend, with the layout where that is not channels_last."""
        return self.backend if self.layout == "channels_last" else f"{self.backend} {self.layout}"

    @property
    def group(self) -> tuple[Any, ...]:
        """What cases that take turns have in common."""
        return self.shape, self.precision, self.batch_size, self.device

    def __str__(self) -> str:
        return f"{self.method} {self.precision}, {self.shape}, {self.direction}, batch {self.batch_size}"


_Case = TypeVar("_Case", Case, OpCase)


@dataclass
class Result(Generic[_Case]):
    """Measurements of a case.

    Attributes:
        case: The case.
        seconds: Duration of each timed step; empty where nothing was timed.
        first_call: Seconds of the first call, in which a compiled network is compiled.
        error: Difference from the reference relative to its largest number.
        bound: The largest error with which the case is timed; None for what the others are compared with: the
            plain reference, networks other than VAN in eager mode, torch's own convolution.
        memory: Bytes, see peak_memory; None for operations and OpenVINO.
        failure: Why the case was not timed, or None.
        macs: Multiply-accumulates of the plain network for one image; None for operations.
        products: Duration of a product of two square matrices in the same precision, once a round; the cases of a group
            share it. Empty for operations.
    """

    case: _Case
    seconds: list[float] = field(default_factory=list)
    first_call: float | None = None
    error: float | None = None
    bound: float | None = None
    memory: int | None = None
    failure: str | None = None
    macs: int | None = None
    products: list[float] = field(default_factory=list)

    def percentile(self, q: float) -> float:
        """Return a percentile of the durations in seconds, 50 for the median."""
        return float(np.percentile(self.seconds, q))

    @property
    def images_per_second(self) -> float:
        """Images (or maps) per second at the median duration."""
        return self.case.batch_size / self.percentile(50)

    @property
    def share(self) -> float | None:
        """Rate of arithmetic, as a part of the rate of the matrix products; None where either was not measured.

        The backward pass counts twice the forward pass.
        """
        if not self.seconds or not self.products or self.macs is None:
            return None
        case = cast(Case, self.case)
        rate = (3 if case.task == "training" else 1) * 2 * self.macs * self.images_per_second
        return rate / (2 * _matrix_side(case.device) ** 3 / float(np.median(self.products)))


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _check_settings(
    precisions: Sequence[str], batch_sizes: Sequence[int], image_size: tuple[int, int], device: str
) -> None:
    if unknown := [p for p in precisions if p not in PRECISIONS]:
        raise VanError(f"precision is {unknown[0]!r}, expected one of {', '.join(PRECISIONS)}.")
    if not precisions or not batch_sizes or min(batch_sizes) < 1:
        raise VanError(
            f"batch_sizes is {list(batch_sizes)}, precisions {list(precisions)}; expected 1 or more of each."
        )
    if len(image_size) != 2 or min(image_size) < 1:
        raise VanError(f"image_size is {tuple(image_size)}, expected a height and a width of at least 1.")
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise VanError(f"device is {device!r}, expected cpu, cuda or cuda:NUMBER.")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise VanError(f"device is {device!r}, but torch finds {torch.cuda.device_count()} GPUs. Try cpu.")
    if kind == "cpu" and "float16" in precisions:
        raise VanError("precision float16 needs a GPU, but the device is cpu. Use bfloat16.")


def _check_model(name: str) -> None:
    variant = name.removeprefix(_REFERENCE).removesuffix(_CHANNELS_LAST)
    plain = variant != name
    known = list(VARIANTS) if plain or name.startswith("van_") else timm.list_models()
    if (variant if plain else name.partition(".")[0]) not in known:
        hint = nearest(name, [_REFERENCE + one for one in known] if plain else known)
        raise VanError(f"There is no model {name!r}, expected a VAN, reference:VAN or another timm model.{hint}")


def plan(
    models: Sequence[str],
    tasks: Sequence[str] = ("inference",),
    modes: Sequence[str] = ("eager",),
    precisions: Sequence[str] = ("float32",),
    batch_sizes: Sequence[int] = (1,),
    image_size: tuple[int, int] = (224, 224),
    device: str = "cpu",
) -> list[Case]:
    """Return all valid combinations of settings as cases.

    The plain reference runs in eager mode only; only VANs can be fused; fused and engines are for inference, engines on
    the CPU, and onnxruntime in float32.

    Args:
        models: See Case.
        tasks: Some of TASKS.
        modes: Some of MODES.
        precisions: Some of PRECISIONS.
        batch_sizes: Images per step.
        image_size: Height and width.
        device: See Case.

    Raises:
        VanError: a value is out of range, or a mode fits none of the models.
    """
    _check_settings(precisions, batch_sizes, image_size, device)
    for what, values, known in (("task", tasks, TASKS), ("mode", modes, MODES)):
        if unknown := [value for value in values if value not in known]:
            raise VanError(f"{what} is {unknown[0]!r}, expected one of {', '.join(known)}.")
    if not models or not tasks or not modes:
        raise VanError(f"Nothing to measure: models {list(models)}, tasks {list(tasks)}, modes {list(modes)}.")
    for name in models:
        _check_model(name)
    cases = [
        Case(model, task, mode, precision, batch_size, (image_size[0], image_size[1]), device)
        for task in _unique(tasks)
        for batch_size in _unique(batch_sizes)
        for precision in _unique(precisions)
        for mode in _unique(modes)
        for model in _unique(models)
    ]
    cases = [case for case in cases if _exists(case)]
    for mode in modes:
        if not any(case.mode == mode for case in cases):
            raise VanError(
                f"mode {mode!r} fits none of {', '.join(models)} for {' and '.join(tasks)} on {device}: the plain "
                "reference runs in eager mode only, only VANs can be fused, fused and engines are for inference, "
                "engines on the CPU, onnxruntime in float32. Leave the mode out or add a model."
            )
    return cases


def _exists(case: Case) -> bool:
    if case.is_reference:
        return case.mode == "eager"
    if case.mode in ENGINES:
        computes = case.mode == "openvino" or case.precision == "float32"
        return case.task == "inference" and case.device == "cpu" and computes
    return case.mode != "fused" or (case.task == "inference" and case.variant is not None)


def plan_ops(
    models: Sequence[str] = ("van_b0", "van_b1", "van_b2"),
    precisions: Sequence[str] = ("float32",),
    batch_sizes: Sequence[int] = (16,),
    image_size: tuple[int, int] = (224, 224),
    device: str = "cpu",
) -> list[OpCase]:
    """Return the depth-wise convolutions of VAN variants for each backend that can run them, in every direction.

    5x5 and 7x7 with dilation 3 of the large kernel attention and 3x3 of the feed-forward half, in each stage. Torch's
    own comes in both layouts, the other backends channels last.

    Args:
        models: VAN variants; equal shapes count once.
        precisions: Some of PRECISIONS.
        batch_sizes: Maps per step.
        image_size: Height and width of the image that the maps come from.
        device: See OpCase.

    Raises:
        VanError: a value is out of range.
    """
    _check_settings(precisions, batch_sizes, image_size, device)
    if unknown := [name for name in models if name not in VARIANTS]:
        raise VanError(
            f"model is {unknown[0]!r}; operations are those of VANs, expected some of {', '.join(VARIANTS)}."
        )
    shapes: list[tuple[int, int, int, tuple[int, int]]] = []
    for name in models:
        numbers = VARIANTS[name]
        height, width = image_size
        for i, (dim, ratio) in enumerate(zip(numbers["embed_dims"], numbers["mlp_ratios"], strict=True)):
            stride = 4 if i == 0 else 2
            height, width = math.ceil(height / stride), math.ceil(width / stride)
            shapes += [(k, d, c, (height, width)) for k, d, c in ((5, 1, dim), (7, 3, dim), (3, 1, dim * ratio))]
    backends = [name for name in get_args(ops.Backend) if name != "auto"]
    methods = [("torch", "channels_last"), ("torch", "NCHW")]
    methods += [(name, "channels_last") for name in backends if name != "torch"]
    cases = [
        OpCase(backend, k, d, channels, map_size, direction, precision, batch_size, layout, device)
        for batch_size in _unique(batch_sizes)
        for precision in _unique(precisions)
        for k, d, channels, map_size in _unique(shapes)
        for direction in DIRECTIONS
        for backend, layout in methods
    ]
    return [case for case in cases if _can_run(case)]


def _can_run(case: OpCase) -> bool:
    dtype = getattr(torch, case.precision)
    x = torch.empty(case.batch_size, case.channels, *case.map_size, device=case.device, dtype=dtype)
    weight = torch.empty(case.channels, 1, case.kernel_size, case.kernel_size, device=case.device, dtype=dtype)
    x = x.to(memory_format=torch.channels_last)
    return ops.why_not(cast(Any, case.backend), x, weight, case.dilation) is None


# ------------------------------------------------------------------------------------------------ networks


def build(name: str, image_size: tuple[int, int] = (224, 224)) -> nn.Module:
    """Build a network with random weights, the same for every call and for a VAN and its plain reference.

    Scales, biases and statistics all get values other than their neutral ones, which would hide mistakes in their use.
    Drop path and dropout are off.

    Args:
        name: See Case.model.
        image_size: Height and width, for networks that are built for one size.
    """
    variant = Case(name).variant
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        if variant:
            model: nn.Module = create_model(variant)
        else:
            cfg = timm.get_pretrained_cfg(name)
            fixed = cfg is not None and cfg.fixed_input_size and tuple(cfg.input_size[1:]) != tuple(image_size)
            size: dict[str, Any] = {"img_size": tuple(image_size)} if fixed else {}
            model = timm.create_model(name, **size)
        for key, tensor in model.state_dict().items():
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * (0.02 if "gamma" in key else 0.2))
    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    if not name.startswith(_REFERENCE):
        return model
    plain = ReferenceVAN(cast(str, variant))
    plain.load_state_dict(_official(model.state_dict(), cast(str, variant)))
    return plain


def _official(tensors: dict[str, torch.Tensor], variant: str) -> dict[str, torch.Tensor]:
    """Rename the tensors of a VAN to the names of its plain reference."""
    return to_format(Checkpoint(tensors, "van", variant, 1000, 3), "official")


@dataclass
class _Network:
    """A network ready to be measured; `called` is the network itself, or its compiled or converted form."""

    case: Case
    network: nn.Module
    called: Callable[[torch.Tensor], torch.Tensor]
    x: torch.Tensor
    labels: torch.Tensor
    scaler: torch.amp.GradScaler = field(init=False)
    optimizer: torch.optim.Optimizer | None = None

    def __post_init__(self) -> None:
        half = self.case.task == "training" and self.case.precision == "float16"
        self.scaler = torch.amp.GradScaler(self.x.device.type, init_scale=1024.0, enabled=half)
        if self.case.task == "training":
            self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=_LEARNING_RATE, fused=True)

    def step(self) -> torch.Tensor:
        """Run the step that is timed, and return the logits."""
        if self.optimizer is None:
            with torch.inference_mode():
                return self.called(self.x)
        self.optimizer.zero_grad()
        logits = self.forward_backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return logits

    def forward_backward(self) -> torch.Tensor:
        precision = self.case.precision
        with torch.autocast(self.x.device.type, getattr(torch, precision), enabled=precision != "float32"):
            logits = self.called(self.x)
        self.scaler.scale(F.cross_entropy(logits.float(), self.labels)).backward()
        return logits.detach()

    def outputs(self) -> dict[str, torch.Tensor]:
        """Return the logits, and for training the gradients under the names of the reference."""
        if self.optimizer is None:
            return {"logits": self.step().detach()}
        self.optimizer.zero_grad()
        logits = self.forward_backward()
        scale = self.scaler.get_scale()
        gradients = {k: p.grad / scale for k, p in self.network.named_parameters() if p.grad is not None}
        if self.case.variant and not self.case.is_reference:
            gradients = _official(gradients, self.case.variant)
        return {"logits": logits, **gradients}

    def bytes_held(self) -> int:
        """Return the bytes held between steps: weights, statistics, optimizer state, images."""
        held = [*self.network.parameters(), *self.network.buffers(), self.x, self.labels]
        for state in self.optimizer.state.values() if self.optimizer else ():
            held += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return sum(tensor.nbytes for tensor in held)


def _network(case: Case) -> _Network:
    """Build a network and put it into its mode."""
    if case.task == "training" and torch.device(case.device).type == "cpu":
        keep_freed_memory()  # as van train does
    model = build(case.model, case.image_size).to(case.device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.batch_size, 3, *case.image_size, generator=generator).to(case.device)
    labels = torch.arange(case.batch_size, device=case.device) % 10
    model.train(case.task == "training")
    if case.mode == "fused":
        model = fuse(model)  # in float32, so that folded weights are rounded once
    if case.mode in ENGINES:
        engine = engine_class(case.mode).of(model, "forward", case.precision, x.device)
        engine.prepare(x)  # with the plan that measures best, as after some batches
        return _Network(case, model, engine, x, labels)
    if case.task == "inference":
        model, x = model.to(getattr(torch, case.precision)), x.to(getattr(torch, case.precision))
    if case.layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
    called: Callable[[torch.Tensor], torch.Tensor] = model
    if case.mode == "compiled":
        options: Any = {"freezing": True} if case.task == "inference" else None
        called = torch.compile(model, dynamic=False, options=options)
    return _Network(case, model, called, x, labels)


def _difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Return the larger of the relative errors of the logits (by maximum) and of all gradients together (by norm).

    Single gradients can be zero up to rounding, such as that of a bias before a BatchNorm.
    """
    if ours.keys() != theirs.keys():
        return math.inf
    errors = [_relative_error(ours["logits"], theirs["logits"])]
    names = [name for name in theirs if name != "logits"]
    if names:
        apart = sum(float((ours[name].double() - theirs[name].double()).square().sum()) for name in names)
        errors.append(math.sqrt(apart / sum(float(theirs[name].double().square().sum()) for name in names)))
    return math.inf if any(math.isnan(error) for error in errors) else max(errors)


def _relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    if ours.shape != theirs.shape:
        return math.inf
    theirs = theirs.double()
    error = float((ours.double() - theirs).abs().max() / theirs.abs().max())
    return math.inf if math.isnan(error) else error


def peak_memory(step: Callable[[], Any], device: str, held: int) -> int:
    """Return the peak memory of a step in bytes, including what is held between steps.

    On a GPU this is the peak of torch's allocator. On the CPU it is the peak of the tensors that torch allocates in the
    step, according to its profiler, without scratch memory inside kernel libraries.

    Args:
        step: The step; gradients of earlier steps should have been freed.
        device: Device that it runs on.
        held: Bytes held between steps.
    """
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return held + torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler prints notes about itself
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(changes, key=lambda event: event["ts"])]
    return held + int(np.cumsum([0, *changes]).max())


def _prepare_network(result: Result[Case], expected: dict[Any, Any], warmup: int) -> Callable[[], Any]:
    """Compare a network with the plain one, fill in what is measured once, and return the step to time."""
    case = result.case
    # torch 2.15's BatchNorm on the CPU returns a wrong gradient for one image in NCHW; channels_last is right
    layout = _CHANNELS_LAST if case.task == "training" and case.batch_size == 1 else ""
    plain = replace(case, model=f"{_REFERENCE}{case.variant}{layout}" if case.variant else case.model, mode="eager")
    exact = replace(plain, precision="float32")
    if exact not in expected:
        expected[exact] = _network(exact).outputs()
    result.macs = complexity(build(case.model, case.image_size), (3, *case.image_size)).macs
    network = _network(case)
    start = time.perf_counter()
    outputs = network.outputs()
    _wait(case.device)
    result.first_call = time.perf_counter() - start
    result.error = _difference(outputs, expected[exact])
    if case.is_fast_path:
        result.bound = BOUNDS[case.precision]
        if result.error > result.bound and case.precision != "float32":
            if plain not in expected:
                expected[plain] = _difference(_network(plain).outputs(), expected[exact])
            most = _AT_MOST * result.bound
            result.bound = min(most, max(result.bound, _OWN_ROUNDING * expected[plain]))
        _accept(result, f"{plain.model} in eager float32")
    del outputs
    for _ in range(warmup):
        network.step()
    if network.optimizer:
        network.optimizer.zero_grad()
    if case.mode not in ENGINES:  # which allocate for themselves
        result.memory = peak_memory(network.step, case.device, network.bytes_held())
    return network.step


def _accept(result: Result[Any], name: str) -> None:
    error, bound = cast(float, result.error), cast(float, result.bound)
    if error > bound:
        raise VanError(f"wrong result, not timed: it differs from {name} by {error:.2g}, expected at most {bound:.2g}")


# ------------------------------------------------------------------------------------------------ operations


def exact_depthwise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gradient: torch.Tensor, dilation: int
) -> dict[str, list[torch.Tensor]]:
    """Compute a depth-wise convolution and its gradients by their definition in float64, weight by weight.

    Args:
        x: Maps (B, C, H, W).
        weight: Kernels (C, 1, k, k).
        bias: One number per channel (C,).
        gradient: Gradient of the result (B, C, H, W).
        dilation: Distance between neighbouring weights.

    Returns:
        For each of DIRECTIONS the tensors that belong to it.
    """
    x, weight, bias, gradient = (tensor.detach().double() for tensor in (x, weight, bias, gradient))
    height, width = x.shape[-2:]
    before, behind = reference.padding(weight.shape[-1], dilation)
    padded = F.pad(x, (before, behind, before, behind))
    y = bias.view(-1, 1, 1) + torch.zeros_like(x)
    padded_gradient, weight_gradient = torch.zeros_like(padded), torch.zeros_like(weight)
    for i in range(weight.shape[-1]):
        for j in range(weight.shape[-1]):
            rows = slice(i * dilation, i * dilation + height)
            columns = slice(j * dilation, j * dilation + width)
            factor = weight[:, 0, i, j].view(-1, 1, 1)
            y += factor * padded[:, :, rows, columns]
            padded_gradient[:, :, rows, columns] += factor * gradient
            weight_gradient[:, 0, i, j] = (gradient * padded[:, :, rows, columns]).sum((0, 2, 3))
    x_gradient = padded_gradient[:, :, before : before + height, before : before + width]
    return {
        "forward": [y],
        "input_gradient": [x_gradient],
        "weight_gradient": [weight_gradient],
        "forward_backward": [y, x_gradient, weight_gradient],
    }


def _prepare_op(result: Result[OpCase], expected: dict[Any, Any], warmup: int) -> Callable[[], Any]:
    """Compare an operation with its definition in float64, and return the step to time."""
    case = result.case
    if not expected:
        generator = torch.Generator().manual_seed(0)
        size = (case.batch_size, case.channels, *case.map_size)
        sizes = (size, (case.channels, 1, case.kernel_size, case.kernel_size), (case.channels,), size)
        tensors = [torch.randn(s, generator=generator).to(case.device, getattr(torch, case.precision)) for s in sizes]
        expected["tensors"] = [t.contiguous(memory_format=_FORMATS[t.ndim == 4]) for t in tensors]
        expected["exact"] = exact_depthwise(*expected["tensors"], dilation=case.dilation)
    x, weight, bias, gradient = (tensor.detach() for tensor in expected["tensors"])
    if case.layout == "NCHW":
        x, gradient = x.contiguous(), gradient.contiguous()
    step = _op_step(case, x, weight.contiguous(), bias, gradient)
    start = time.perf_counter()
    outputs = step()
    _wait(case.device)
    result.first_call = time.perf_counter() - start
    result.error = max(map(_relative_error, outputs, expected["exact"][case.direction]))
    if case.backend != "torch":
        result.bound = BOUNDS[case.precision]
        _accept(result, "the definition in float64")
    del outputs
    for _ in range(warmup):
        step()
    return step


_FORMATS = (torch.contiguous_format, torch.channels_last)


def _op_step(
    case: OpCase, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gradient: torch.Tensor
) -> Callable[[], list[torch.Tensor]]:
    def forward() -> torch.Tensor:
        if case.backend == "torch":  # what the others are compared with: torch's own, with nothing around it
            return reference.conv2d(x, weight, bias, case.dilation)
        return ops.depthwise_conv2d(x, weight, bias, case.dilation, cast(Any, case.backend))

    if case.direction == "forward":

        def step() -> list[torch.Tensor]:
            with torch.no_grad():
                return [forward()]

        return step
    wanted = {"input_gradient": [x], "weight_gradient": [weight], "forward_backward": [x, weight]}[case.direction]
    for tensor in wanted:
        tensor.requires_grad_()
    if case.direction == "forward_backward":

        def step() -> list[torch.Tensor]:
            y = forward()
            return [y.detach(), *torch.autograd.grad(y, wanted, gradient)]

        return step
    y = forward()
    return lambda: list(torch.autograd.grad(y, wanted, gradient, retain_graph=True))


# ------------------------------------------------------------------------------------------------ measuring


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _seconds(step: Callable[[], Any], device: str) -> float:
    if device.startswith("cuda"):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    before = time.perf_counter()
    step()
    return time.perf_counter() - before


def measure(
    results: Sequence[Result[_Case]],
    rounds: int = 10,
    warmup: int = 2,
    tick: Callable[[str], None] = lambda text: None,
) -> None:
    """Measure cases. After an interruption the results hold everything measured so far.

    Cases of one group take turns, one step each per round. TF32 is off for float32.

    Args:
        results: An empty result for each case; they are filled in.
        rounds: Timed steps of each case.
        warmup: Untimed steps of each case after the first call.
        tick: Called with a few words before each case is prepared and before each of its steps.
    """
    for group in _unique(result.case.group for result in results):
        members = [result for result in results if result.case.group == group]
        device = members[0].case.device
        where = torch.cuda.device(device) if device.startswith("cuda") else nullcontext()
        with (
            where,
            torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False),
            # a network that gave up compiling would be timed in eager mode without a word
            torch._dynamo.config.patch(recompile_limit=256, fail_on_recompile_limit_hit=True),
        ):
            _measure_group(members, rounds, warmup, tick)
        torch.compiler.reset()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()


def _matrix_side(device: str) -> int:
    return 8192 if device.startswith("cuda") else 1024


def _matrix_product(precision: str, device: str) -> Callable[[], Any]:
    """Return a product of two square matrices, large enough for the full rate of the machine."""
    side = _matrix_side(device)
    a, b = (torch.rand(side, side, device=device).to(getattr(torch, precision)) for _ in range(2))
    torch.mm(a, b)  # what the first call sets up is not timed
    return lambda: torch.mm(a, b)


def _measure_group(results: Sequence[Result[Any]], rounds: int, warmup: int, tick: Callable[[str], None]) -> None:
    turns, expected = [], {}
    for result in results:
        tick(f"preparing {result.case}")
        prepare = _prepare_network if isinstance(result.case, Case) else _prepare_op
        try:
            turns.append((result, prepare(result, expected, warmup)))
        except _FAILURES as error:  # other cases may work
            result.failure = _reason(error)
    del expected
    networks = [result for result, _ in turns if isinstance(result.case, Case)]
    products = []
    for precision in _unique(result.case.precision for result in networks):
        seconds: list[float] = []
        products.append((_matrix_product(precision, networks[0].case.device), seconds))
        for result in networks:
            if result.case.precision == precision:
                result.products = seconds
    for _ in range(rounds):
        for turn in list(turns):
            result, step = turn
            tick(str(result.case))
            try:
                result.seconds.append(_seconds(step, result.case.device))
            except _FAILURES as error:  # such as memory that another process has taken since
                result.failure = _reason(error)
                turns.remove(turn)
        for product, seconds in products:
            seconds.append(_seconds(product, networks[0].case.device))


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def baseline(result: Result[Case], results: Sequence[Result[Case]], precision: str = "float32") -> Result[Case] | None:
    """Return the case that a network is compared with: the plain reference network in eager mode, of the same group.

    The reference of the same variant is preferred, then the first one. Without a reference, the baseline is the first
    measured case of the group, for float32 only.

    Args:
        result: The case to compare.
        results: All cases of the run.
        precision: Precision of the reference.
    """
    measured = [r for r in results if r.seconds and r.case.group == result.case.group]
    references = [r for r in measured if r.case.is_reference and r.case.precision == precision]
    own = [r for r in references if r.case.variant == result.case.variant]
    others = measured if precision == "float32" and not any(r.case.is_reference for r in measured) else []
    return next(iter(own or references or others), None)


def ratio(result: Result[_Case], other: Result[_Case] | None) -> float | None:
    """Return how many times faster a case is than another, as a ratio of medians."""
    if other is None or not result.seconds or not other.seconds:
        return None
    return other.percentile(50) / result.percentile(50)


def op_baseline(result: Result[OpCase], results: Sequence[Result[OpCase]], layout: str) -> Result[OpCase] | None:
    """Return torch's own convolution of the same shape, direction and precision in a layout."""
    found = (
        r
        for r in results
        if r.case.group == result.case.group
        and (r.case.direction, r.case.backend, r.case.layout) == (result.case.direction, "torch", layout)
    )
    return next(found, None)


# ------------------------------------------------------------------------------------------------ picture


def throughput_plot(results: Sequence[Result[Case]], top1: dict[str, float], title: str) -> "Figure | None":
    """Draw accuracy over measured throughput (Fig. 5 of the paper), one panel for each mode and precision.

    Args:
        results: Cases; inference with the largest batch is drawn.
        top1: Quoted top-1 accuracy (%) by model.
        title: Line above the panels.

    Returns:
        The figure, or None where no model that was measured has an accuracy.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    from van.engine.plots import BLUE, GREEN, ORANGE

    def accuracy(result: Result[Case]) -> float | None:
        return top1.get(result.case.variant or result.case.model)

    shown = [r for r in results if r.seconds and r.case.task == "inference" and accuracy(r) is not None]
    batch_size = max((r.case.batch_size for r in shown), default=0)
    shown = [r for r in shown if r.case.batch_size == batch_size]
    modes, precisions = _unique(r.case.mode for r in shown), _unique(r.case.precision for r in shown)
    if not shown:
        return None
    figure = Figure(figsize=(max(7.0, 4.4 * len(modes) + 0.6), 3.7 * len(precisions) + 0.9), layout="constrained")
    figure.suptitle(f"{title}, batch {batch_size}")
    grid = figure.subplots(len(precisions), len(modes), squeeze=False, sharex=True, sharey=True)
    families = (  # with the place of a name beside its point, away from the line
        ("VAN", BLUE, "-o", (6, 4, "left"), lambda case: case.variant and not case.is_reference),
        ("VAN, plain reference", ORANGE, ":s", (-6, -11, "right"), lambda case: case.is_reference),
        ("other networks", GREEN, "D", (0, -14, "center"), lambda case: not case.variant),
    )
    legend: dict[str, Any] = {}
    for axes, (precision, mode) in zip(grid.ravel(), itertools.product(precisions, modes), strict=True):
        panel = [r for r in shown if (r.case.mode, r.case.precision) == (mode, precision)]
        for label, colour, style, (right, up, align), belongs in families:
            chosen = [r for r in panel if belongs(r.case)]
            points = sorted((r.images_per_second, cast(float, accuracy(r)), r.case.model) for r in chosen)
            if not points:
                continue
            speeds, accuracies, names = zip(*points, strict=True)
            legend[label] = axes.plot(speeds, accuracies, style, color=colour)[0]
            for speed, height, name in zip(speeds, accuracies, names, strict=True):
                text = name.removeprefix(_REFERENCE).partition("_patch")[0]
                axes.annotate(
                    text, (speed, height), xytext=(right, up), textcoords="offset points", fontsize=8, ha=align,
                    color=colour,
                )  # fmt: skip
        axes.set(title=f"{mode}, {precision}", xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    speeds = [r.images_per_second for r in shown]
    heights = [cast(float, accuracy(r)) for r in shown]
    room = 0.1 * (max(heights) - min(heights)) + 0.5  # for the names
    grid[0, 0].set_xlim(min(speeds) / 1.6, max(speeds) * 1.6)
    grid[0, 0].set_ylim(min(heights) - room, max(heights) + room)
    for axes in grid[-1]:
        axes.set_xlabel("images/s, measured (log scale)")
    for axes in grid[:, 0]:
        axes.set_ylabel("ImageNet top-1 (%), quoted")
    figure.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=len(legend), frameon=False)
    return figure
