"""`van benchmark`: speed and memory beside the plain reference network and other networks."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from van.analysis.timing import Result

# Top-1 (%) on ImageNet-1K at 224 x 224, quoted from the paper's T7
QUOTED_TOP1_OTHERS = {"convnext_tiny": 82.1, "swin_tiny_patch4_window7_224": 81.3, "resnet50": 76.5}
_OPS_MODELS = ["van_b0", "van_b1", "van_b2"]
_MODELS = ["van_b0", "reference:van_b0"]
_BATCH_SIZES = [1, 16]
_PRECISIONS = ["float32"]


def benchmark(
    *,
    models: list[str] | None = None,
    modes: list[str] | None = None,
    precisions: list[str] = _PRECISIONS,
    batch_sizes: list[int] = _BATCH_SIZES,
    image_size: tuple[int, int] | None = None,
    inference: bool = True,
    training: bool = False,
    ops: bool = False,
    rounds: int = 10,
    warmup: int = 2,
    threads: int | None = None,
    device: str | None = None,
    output: str | None = None,
) -> int:
    """Measure networks side by side in interleaved rounds: images/s, latency, peak memory, ratio to the plain network.

    Args:
        models: VAN variants, reference:VARIANT for the plain reference network (NCHW, eager mode), and any names that
            timm knows, such as convnext_tiny; weights are random. By default van_b0 and reference:van_b0; with --ops
            van_b0, van_b1 and van_b2.
        modes: Some of eager, compiled (torch.compile), fused (VANs, inference) and openvino (inference on the CPU); by
            default eager and fused, or eager where nothing can be fused.
        precisions: Some of float32, bfloat16 and, on a GPU, float16; weights of that type for inference, autocast for
            training.
        batch_sizes: Images per step.
        image_size: Height and width; by default 224 and 224.
        inference: Measure inference.
        training: Measure training steps: forward pass, backward pass, AdamW.
        ops: Measure the depth-wise convolutions of the models by every backend instead, with each gradient.
        rounds: Timed steps of each case.
        warmup: Steps of each case before, besides the first one.
        threads: Threads of torch on the CPU; by default its own choice.
        device: cpu or cuda; by default a GPU if there is one.
        output: New folder for the results; by default runs/benchmark, numbered.
    """
    import sys
    from datetime import datetime

    import torch
    from tqdm import tqdm

    from van.analysis import timing as measuring
    from van.cli.run_folder import run_folder
    from van.errors import VanError

    if rounds < 1 or warmup < 0 or (threads is not None and threads < 1):
        raise VanError(f"rounds is {rounds}, warmup {warmup}, threads {threads}; expected at least 1, 0 and 1.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = (224, 224) if image_size is None else image_size
    cases: list[Any]
    if ops:
        if modes or training or not inference:
            raise VanError("--ops measures operations: --modes, --training and --no-inference do not go with it.")
        cases = measuring.plan_ops(models or _OPS_MODELS, precisions, batch_sizes, size, device)
    else:
        models = models or _MODELS
        tasks = [name for name, wanted in (("inference", inference), ("training", training)) if wanted]
        modes = modes or (["eager", "fused"] if inference and _any_van(models) else ["eager"])
        cases = measuring.plan(models, tasks, modes, precisions, batch_sizes, size, device)
    results: list[Any] = [measuring.Result(case) for case in cases]
    folder = _new_folder(output, run_folder)

    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads or threads_before)
    settings = {
        "device": device,
        "threads": torch.get_num_threads(),
        "image_size": list(size),
        "rounds": rounds,
        "warmup": warmup,
    }
    about: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine(device),
        "settings": settings,
        "notes": _OPS_NOTES if ops else _NOTES,
        "bounds": {name: measuring.BOUNDS[name] for name in dict.fromkeys(precisions)},
    }
    stopped = False
    # the bar goes to standard error, so that the table can be piped
    with tqdm(total=len(results) * (rounds + 1), unit=" steps", file=sys.stderr) as bar:

        def tick(text: str) -> None:
            bar.set_description(text, refresh=False)
            bar.update()

        try:
            measuring.measure(results, rounds, warmup, tick)
        except KeyboardInterrupt:
            stopped = True
            about["stopped"] = "stopped before the end; what is here was measured in fewer rounds or is missing"
        finally:
            torch.set_num_threads(threads_before)
            rows = op_rows(results) if ops else network_rows(results)
            tables = op_tables(results) if ops else network_tables(rows)
            failures = [f"{result.case}: {result.failure}" for result in results if result.failure]
            files = write_files(folder, about, rows, results, tables, failures)
    if not ops and (picture := _picture(results, about, size)):
        picture.savefig(folder / "throughput.png", dpi=130)
        files.append("throughput.png")
    print(f"\n{tables}\n")
    print(_how_measured(about))
    for failure in failures:
        print(f"van benchmark: {failure}", file=sys.stderr)
    print(f"results: {folder}: {' '.join(files)}")
    if stopped:
        print("van benchmark: stopped; what was measured so far is written.", file=sys.stderr)
        return 130
    return 1 if failures else 0


def _any_van(models: Sequence[str]) -> bool:
    return any(name.startswith("van_") for name in models)


def _new_folder(output: str | None, run_folder: Callable[[str | None, str], Path]) -> Path:
    from van.errors import VanError

    if output is not None and Path(output).exists() and (not Path(output).is_dir() or any(Path(output).iterdir())):
        raise VanError(f"{output} exists and is not empty. Give another --output.")
    return run_folder(output, "benchmark")


def machine(device: str) -> dict[str, Any]:
    """Say on what is measured: processor, cores, GPU, versions.

    Args:
        device: cpu, cuda or cuda:NUMBER.
    """
    import os
    import platform

    import timm
    import torch

    from van import __version__

    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    described: dict[str, Any] = {
        "processor": names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": usable,
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "van": __version__,
    }
    if device.startswith("cuda"):
        described["gpu"] = torch.cuda.get_device_name(device)
        described["cuda"] = torch.version.cuda
        described["cudnn"] = torch.backends.cudnn.version()
    return described


# ------------------------------------------------------------------------------------------------ tables

_TIMING = (
    "Cases of one {group} take turns, one step each per round; p50, p5 and p95 are percentiles of the rounds.\nRatios "
    "are of medians, above 1 is faster. float32 is without TF32."
)
_NOTES = f"""{_TIMING.format(group="task and batch size")}
The baseline is the plain reference network in eager float32, NCHW, of the same variant where there is one; "same
precision" compares with it in the case's own precision. All other networks run channels_last. Weights are random, drop
path and dropout are off. For inference the weights have the precision named, training is under autocast. Compiled
inference is torch.compile with freezing; OpenVINO gets the network as it is, batch and size fixed, and returns float32.
A training step is forward pass, backward pass and fused AdamW.

Peak memory is of one step, weights and optimiser included: on a GPU that of torch's allocator, on the CPU that of the
tensors that torch allocates, without scratch memory inside kernel libraries; that of OpenVINO is not seen. The first
call includes compilation by torch.

The error is the largest difference from the plain network in float32 (for other networks than VAN: from themselves in
eager mode) over the largest logit, and in training also the difference of all gradients by their norm. VANs and what is
compiled or fused are timed only if it is within the bound; in half precision three times what the plain network itself
differs is accepted, up to ten times the bound. For one image per step gradients are compared with the plain network in
channels_last: torch 2.15's BatchNorm on the CPU returns wrong ones in NCHW, as the error of the plain network shows."""
_OPS_NOTES = f"""{_TIMING.format(group="shape, precision and batch size")}
Times are those of torch's own convolution with channels_last, ratios those of the others against it; results.csv has
all times and the ratios against NCHW. The error is the largest difference from the definition in float64 over its
largest number. A backend beyond the bound is not timed; torch's own convolution is, whatever its error."""


def _timing(result: "Result[Any]") -> dict[str, Any]:
    measured = bool(result.seconds)
    return {
        "rounds": len(result.seconds),
        **{f"p{q}_ms": 1000 * result.percentile(q) if measured else None for q in (50, 5, 95)},
        "images_per_s": result.images_per_second if measured else None,
    }


def network_rows(results: "Sequence[Result[Any]]") -> list[dict[str, Any]]:
    """Return a row of figures per network.

    Args:
        results: What was measured.
    """
    from van.analysis.timing import baseline, ratio

    rows = []
    for result in results:
        case = result.case
        base = baseline(result, results)
        same = baseline(result, results, case.precision)
        rows.append(
            {
                "model": case.model,
                "task": case.task,
                "mode": case.mode,
                "precision": case.precision,
                "layout": case.layout,
                "batch_size": case.batch_size,
                "height": case.image_size[0],
                "width": case.image_size[1],
                "device": case.device,
                **_timing(result),
                "baseline": f"{base.case.model} {base.case.mode} {base.case.precision}" if base else None,
                "ratio": ratio(result, base),
                "ratio_same_precision": ratio(result, same) if same and same.case.is_reference else None,
                "peak_memory_bytes": result.memory,
                "first_call_s": result.first_call,
                "error": result.error,
                "bound": result.bound,
                "failure": result.failure,
            }
        )
    return rows


def op_rows(results: "Sequence[Result[Any]]") -> list[dict[str, Any]]:
    """Return a row of figures per operation.

    Args:
        results: What was measured.
    """
    from van.analysis.timing import op_baseline, ratio

    rows = []
    for result in results:
        case = result.case
        rows.append(
            {
                "backend": case.backend,
                "layout": case.layout,
                "kernel_size": case.kernel_size,
                "dilation": case.dilation,
                "channels": case.channels,
                "height": case.map_size[0],
                "width": case.map_size[1],
                "direction": case.direction,
                "precision": case.precision,
                "batch_size": case.batch_size,
                "device": case.device,
                **_timing(result),
                "ratio_channels_last": ratio(result, op_baseline(result, results, "channels_last")),
                "ratio_nchw": ratio(result, op_baseline(result, results, "NCHW")),
                "error": result.error,
                "bound": result.bound,
                "failure": result.failure,
            }
        )
    return rows


def _format(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def network_tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table for each task and batch size.

    Args:
        rows: As network_rows returns them.
    """
    tables = []
    for key in dict.fromkeys((row["task"], row["batch_size"]) for row in rows):
        members = [row for row in rows if (row["task"], row["batch_size"]) == key and row["rounds"]]
        bases = dict.fromkeys(row["baseline"] for row in members if row["baseline"])
        lines: list[Sequence[str]] = [(*_HEADER, "baseline") if len(bases) > 1 else _HEADER]
        for row in members:
            memory = row["peak_memory_bytes"]
            lines.append(
                [
                    row["model"],
                    row["mode"],
                    row["precision"],
                    _format(row["images_per_s"], ".1f"),
                    _format(row["p50_ms"], ".1f"),
                    f"{row['p5_ms']:.1f}-{row['p95_ms']:.1f}",
                    _format(row["ratio"], ".2f"),
                    _format(row["ratio_same_precision"], ".2f"),
                    _format(memory and memory / 1e6, ".0f"),
                    _format(row["first_call_s"], ".1f"),
                    _format(row["error"], ".1g"),
                    *([str(row["baseline"]).partition(" ")[0]] if len(bases) > 1 else []),
                ]
            )
        heading = f"## {key[0].capitalize()}, batch {key[1]}"
        if members:
            tables.append(f"{heading}\n\n{_markdown(lines, left=3)}\n\nRatios against {', '.join(bases)}.")
    return "\n\n".join(tables) or "Nothing was measured."


_HEADER = (
    "model", "mode", "precision", "images/s", "p50 ms", "p5-p95 ms", "ratio", "same precision", "peak MB",
    "first call s", "error",
)  # fmt: skip


def op_tables(results: "Sequence[Result[Any]]") -> str:
    """Return a Markdown table for each precision and batch size: time of torch's convolution, ratios of the others.

    Args:
        results: What was measured.
    """
    from van.analysis.timing import op_baseline, ratio

    tables = []
    for key in dict.fromkeys((r.case.precision, r.case.batch_size) for r in results):
        members = [r for r in results if (r.case.precision, r.case.batch_size) == key and r.seconds]
        methods = list(dict.fromkeys(r.case.method for r in members if r.case.method != "torch"))
        lines = [["convolution", "direction", "torch ms", "p5-p95 ms", "torch error", *methods]]
        for place in dict.fromkeys((r.case.shape, r.case.direction) for r in members):
            here = {r.case.method: r for r in members if (r.case.shape, r.case.direction) == place}
            torchs = here.get("torch")
            spread = f"{1e3 * torchs.percentile(5):.2f}-{1e3 * torchs.percentile(95):.2f}" if torchs else "-"
            ratios = [
                _format(ratio(here[m], op_baseline(here[m], results, "channels_last")), ".2f") if m in here else "-"
                for m in methods
            ]
            time = _format(torchs and 1e3 * torchs.percentile(50), ".2f")
            error = _format(torchs and torchs.error, ".1g")
            lines.append([place[0], place[1].replace("_", " "), time, spread, error, *ratios])
        if members:
            tables.append(f"## {key[0]}, batch {key[1]}\n\n{_markdown(lines, left=2)}")
    return "\n\n".join(tables) or "Nothing was measured."


def _markdown(lines: Sequence[Sequence[str]], left: int) -> str:
    """Return an aligned Markdown table; the first line is its head, the columns after `left` hold numbers."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def row(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i < left else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([row(lines[0]), rule, *map(row, lines[1:])])


# ------------------------------------------------------------------------------------------------ files


def write_files(
    folder: Path,
    about: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    results: "Sequence[Result[Any]]",
    tables: str,
    failures: Sequence[str],
) -> list[str]:
    """Write results.csv, results.json and results.md.

    Args:
        folder: Where they go.
        about: Date, machine, settings and notes.
        rows: Figures of each case.
        results: What was measured; their durations go into the JSON file.
        tables: Text of the tables.
        failures: What could not be measured and why.

    Returns:
        The names of the files.
    """
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    timed = [{**row, "seconds": result.seconds} for row, result in zip(rows, results, strict=True)]
    content = {**about, "results": timed}
    (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    parts = [f"# Benchmark of {about['date'][:10]}", _how_measured(about), tables]
    if failures:
        parts.append("## Not measured\n\n" + "\n".join(f"- {failure}" for failure in failures))
    parts.append(f"## How it was measured\n\n{about['notes']}")
    (folder / "results.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return ["results.csv", "results.json", "results.md"]


def _how_measured(about: dict[str, Any]) -> str:
    """Return the conditions of the run in a few lines."""
    machine, settings = about["machine"], about["settings"]
    size = " x ".join(map(str, settings["image_size"]))
    gpu = f"{machine['gpu']}, CUDA {machine['cuda']}, cuDNN {machine['cudnn']}; " if "gpu" in machine else ""
    bounds = ", ".join(f"{bound:g} in {name}" for name, bound in about["bounds"].items())
    text = (
        f"{gpu}{machine['processor']} ({machine['cpu_capability']}, {machine['cores']} cores, {settings['threads']} "
        f"threads); torch {machine['torch']}, timm {machine['timm']}, Python {machine['python']}, {machine['os']}.\n"
        f"For images of {size}, {settings['rounds']} rounds; errors were accepted up to {bounds}."
    )
    return f"{text}\n{about['stopped'].capitalize()}." if "stopped" in about else text


def _picture(results: "Sequence[Result[Any]]", about: dict[str, Any], size: tuple[int, int]) -> Any:
    """Return the accuracy-throughput picture; None at other sizes than the quoted accuracies are for."""
    from van.analysis.timing import throughput_picture
    from van.cli.models import QUOTED_TOP1

    if tuple(size) != (224, 224):
        return None
    where = about["machine"].get("gpu", about["machine"]["processor"])
    title = f"Accuracy (quoted) and throughput (measured)\n{where}"
    return throughput_picture(results, {**QUOTED_TOP1, **QUOTED_TOP1_OTHERS}, title)
