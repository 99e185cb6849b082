"""Check, tune and measure the Triton kernels of van.ops on a CUDA GPU: python benchmarks/tune_triton.py --output DIR.

Every depth-wise convolution of VAN-B0 to B2 at 224 x 224, forward and both gradients, in bfloat16 and float32. Nothing
is timed before it agrees with a float64 convolution. Writes tune_triton.json and tune_triton.md, anew after every
shape; the page ends with the table of tiles to put into van/ops/triton_dwconv.py.
"""

import datetime
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import jsonargparse
import torch
from tqdm import tqdm

from van.models.variants import VARIANTS
from van.ops import triton_dwconv
from van.ops.triton_dwconv import Tiles

Direction = Literal["forward", "input_gradient", "weight_gradient"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "input_gradient", "weight_gradient")
JOB: dict[Direction, triton_dwconv.Job] = {
    "forward": "convolve",
    "input_gradient": "convolve",
    "weight_gradient": "weight_gradient",
}
CANDIDATES: dict[triton_dwconv.Job, list[Tiles]] = {
    "convolve": [
        Tiles(pixels, channels, warps)
        for pixels in (32, 64, 128, 256, 512)
        for channels in (16, 32, 64, 128)
        for warps in (4, 8)
        if 16 <= pixels * channels // (32 * warps) <= 32  # sums of a thread; 64 spill on compute capability 9.0
    ],
    "weight_gradient": [
        Tiles(pixels, channels, 4, steps)
        for pixels in (8, 16, 32, 64)
        for channels in (16, 32, 64, 128)
        for steps in (8, 32)
        if 512 <= pixels * channels <= 2048
    ],
}
# Largest accepted error, relative to the largest number of the exact result: rounding to the type, and float32 sums.
BOUNDS = {torch.bfloat16: 2**-7, torch.float32: 2e-5}

Timer: TypeAlias = Callable[[Callable[[], Any]], float]


class Case(NamedTuple):
    """A depth-wise convolution of a network."""

    channels: int
    side: int
    kernel: int
    dilation: int


def cases() -> list[Case]:
    """Return the depth-wise convolutions of VAN-B0 to B2: both of LKA, and the one between the 1x1 of the FFN."""
    found = set()
    for name in ("van_b0", "van_b1", "van_b2"):
        for i, (dim, ratio) in enumerate(zip(VARIANTS[name]["embed_dims"], VARIANTS[name]["mlp_ratios"], strict=True)):
            side = 56 >> i
            found |= {Case(dim, side, 5, 1), Case(dim, side, 7, 3), Case(dim * ratio, side, 3, 1)}
    return sorted(found, key=lambda case: (case.kernel, -case.side, case.channels))


def inputs(case: Case, batch: int, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return maps, weights and the gradient of the output, channels last."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (batch, case.channels, case.side, case.side)
    x, gradient = (
        torch.randn(shape, generator=generator, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    weight = torch.randn(case.channels, 1, case.kernel, case.kernel, generator=generator, device=device).to(dtype)
    return x, weight, gradient


def by_torch(
    direction: Direction, case: Case, x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """Compute one direction as torch does in the layout and type of the tensors."""
    padding = case.dilation * (case.kernel // 2)
    if direction == "forward":
        return torch.nn.functional.conv2d(x, weight, padding=padding, dilation=case.dilation, groups=case.channels)
    mask = [direction == "input_gradient", direction == "weight_gradient", False]
    results = torch.ops.aten.convolution_backward(
        gradient,
        x,
        weight,
        None,
        [1, 1],
        [padding, padding],
        [case.dilation, case.dilation],
        False,
        [0, 0],
        case.channels,
        mask,
    )
    return results[mask.index(True)]


def by_triton(
    direction: Direction,
    case: Case,
    x: torch.Tensor,
    weight: torch.Tensor,
    gradient: torch.Tensor,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """Compute one direction by the kernels of this project."""
    if direction == "forward":
        return triton_dwconv.convolve(x, weight, None, case.dilation, tiles=tiles)
    if direction == "input_gradient":
        return triton_dwconv.convolve(gradient, weight, None, case.dilation, flip=True, tiles=tiles)
    return triton_dwconv.weight_gradient(gradient, x, case.kernel, case.dilation, tiles=tiles)[0]


def copy_bandwidth(timer: Timer) -> float:
    """Return the bytes a second that a copy of 1 GiB reads and writes."""
    source = torch.ones(2**29, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / timer(lambda: target.copy_(source)) * 1e3


def measure(
    direction: Direction,
    case: Case,
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    candidates: list[Tiles],
    timer: Timer,
    bandwidth: float,
) -> dict[str, Any]:
    """Check every candidate, then time it, and torch in both layouts.

    Args:
        direction: What to compute.
        case: The convolution.
        tensors: x, weight and gradient, channels last.
        candidates: Tiles to try.
        timer: Returns a call's milliseconds.
        bandwidth: Bytes a second that a copy reads and writes.

    Returns:
        One row of the result.

    Raises:
        SystemExit: a result is wrong.
    """
    from triton.runtime.errors import OutOfResources

    x = tensors[0]
    exact = by_torch(direction, case, *(t.contiguous().double() for t in tensors))
    largest = exact.abs().max().item()
    times: dict[Tiles, float] = {}
    worst = 0.0
    for tiles in candidates:
        try:
            result = by_triton(direction, case, *tensors, tiles=tiles)
        except OutOfResources:
            continue
        error = (result.double() - exact).abs().max().item() / largest
        if not error <= BOUNDS[x.dtype]:
            sys.exit(
                f"WRONG: {direction} of {case} in {x.dtype} with {tiles} differs from float64 by {error:.1e} of the "
                f"largest number, expected {BOUNDS[x.dtype]:.1e} at most."
            )
        worst = max(worst, error)
        times[tiles] = timer(lambda tiles=tiles: by_triton(direction, case, *tensors, tiles=tiles))
    del exact
    if not times:
        sys.exit(f"No tiles fit this GPU for {direction} of {case} in {x.dtype}.")
    planar = tuple(t.contiguous() for t in tensors)
    best = min(times, key=lambda tiles: times[tiles])
    floor = (
        2 * x.numel() * x.element_size() / bandwidth * 1e3
    )  # two maps cross the memory bus, the weights hardly count
    return {
        **case._asdict(),
        "direction": direction,
        "dtype": str(x.dtype).removeprefix("torch."),
        "error": worst,
        "floor_ms": floor,
        "triton_ms": times[best],
        "tiles": best._asdict(),
        "table_ms": times.get(triton_dwconv.choose_tiles(JOB[direction], case.kernel, case.side)),
        "torch_nchw_ms": timer(lambda: by_torch(direction, case, *planar)),
        "torch_channels_last_ms": timer(lambda: by_torch(direction, case, *tensors)),
        "share_of_floor": floor / times[best],
        "candidates": [{**tiles._asdict(), "ms": ms} for tiles, ms in times.items()],
    }


def best_tiles(rows: list[dict[str, Any]]) -> dict[tuple[triton_dwconv.Job, int, bool], Tiles]:
    """Choose for each key of the table the tiles with the best geometric mean over its bfloat16 rows."""
    logarithms: dict[tuple[triton_dwconv.Job, int, bool], dict[Tiles, list[float]]] = {}
    for row in rows:
        if row["dtype"] == "bfloat16":
            group = logarithms.setdefault((JOB[row["direction"]], row["kernel"], row["side"] > 16), {})
            for candidate in row["candidates"]:
                tiles = Tiles(**{name: number for name, number in candidate.items() if name != "ms"})
                group.setdefault(tiles, []).append(math.log(candidate["ms"] / row["triton_ms"]))
    chosen = {}
    for key, group in logarithms.items():
        everywhere = max(len(times) for times in group.values())
        fit = {tiles: times for tiles, times in group.items() if len(times) == everywhere}
        chosen[key] = min(fit, key=lambda tiles: statistics.fmean(fit[tiles]))
    return chosen


def markdown(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield f"# Depth-wise convolution by Triton on {report['gpu']}"
    yield ""
    yield (
        f"{report['date']}, torch {report['torch']}, triton {report['triton']}, CUDA {report['cuda']}, cuDNN "
        f"{report['cudnn']}; batch {report['batch']}. Medians in milliseconds with a cold L2 cache, the best tiles of "
        f"each row. A copy moves {report['copy_gb_per_s']:.0f} GB/s; the floor is one map in and one out at that rate "
        "(two in for the weight gradient). cuDNN, which is what torch takes in channels_last, tried its algorithms "
        "first (benchmark mode) and computes float32 without TF32. Every result of Triton was compared with float64 "
        "first; the error is relative to the largest number. A weight gradient by Triton includes the bias's."
    )
    yield ""
    yield "| kernel | map | direction | type | Triton | of the floor | torch NCHW | torch channels_last | error |"
    yield "|---|---|---|---|--:|--:|--:|--:|--:|"
    for row in report["rows"]:
        yield (
            f"| {row['kernel']}x{row['kernel']} d{row['dilation']} | {row['channels']}x{row['side']}x{row['side']} "
            f"| {row['direction'].replace('_', ' ')} | {row['dtype']} | {row['triton_ms']:.4f} "
            f"| {row['share_of_floor']:.0%} "
            f"| {row['torch_nchw_ms']:.4f} ({row['torch_nchw_ms'] / row['triton_ms']:.1f}x) "
            f"| {row['torch_channels_last_ms']:.4f} ({row['torch_channels_last_ms'] / row['triton_ms']:.1f}x) "
            f"| {row['error']:.0e} |"
        )
    yield ""
    yield "Tiles with the best geometric mean over the bfloat16 rows of each key, for `TILES`:"
    yield ""
    yield "```python"
    for key, tiles in best_tiles(report["rows"]).items():
        yield f"    {key!r}: Tiles{tuple(tiles)},".replace("'", '"')
    yield "```"


def write(report: dict[str, Any], output: Path) -> None:
    """Write tune_triton.json and tune_triton.md."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "tune_triton.json").write_text(json.dumps(report, indent=1) + "\n")
    (output / "tune_triton.md").write_text("\n".join(markdown(report)) + "\n")


def main(output: Path, batch: int = 128, kernels: Sequence[int] = (3, 5, 7)) -> None:
    """Check, tune and measure the Triton kernels on this GPU.

    Args:
        output: Folder for tune_triton.json and tune_triton.md.
        batch: Images.
        kernels: Kernel sizes to measure, of 3 (FFN), 5 and 7 (LKA).
    """
    if not torch.cuda.is_available():
        sys.exit("tune_triton needs a CUDA GPU, and torch finds none here.")
    if reason := triton_dwconv.why_not(*inputs(Case(1, 1, 1, 1), 1, torch.float32, "cuda")[:2], 1):
        sys.exit(f"tune_triton cannot run: {reason}.")
    chosen = [case for case in cases() if case.kernel in kernels]
    if not chosen:
        sys.exit(f"--kernels is {list(kernels)}, expected some of 3, 5 and 7.")
    import triton
    from triton.testing import do_bench

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False

    def timer(call: Callable[[], Any]) -> float:
        return cast(float, do_bench(call, warmup=10, rep=30, return_mode="median"))

    bandwidth = copy_bandwidth(timer)
    report = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "batch": batch,
        "copy_gb_per_s": bandwidth / 1e9,
        "rows": [],
    }
    for dtype in BOUNDS:
        for case in tqdm(chosen, desc=str(dtype).removeprefix("torch.")):
            tensors = inputs(case, batch, dtype, "cuda")
            for direction in DIRECTIONS:
                job = JOB[direction]
                table = triton_dwconv.choose_tiles(job, case.kernel, case.side)
                candidates = list(dict.fromkeys([table, *CANDIDATES[job]]))
                report["rows"].append(measure(direction, case, tensors, candidates, timer, bandwidth))
            write(report, output)


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
