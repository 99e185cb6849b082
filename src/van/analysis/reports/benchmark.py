"""Speed and memory, next to the plain reference network and other networks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.analysis.tables import Report, markdown, number, write_csv
from van.errors import VanError

if TYPE_CHECKING:
    from van.analysis.timing import Case, OpCase, Result


def benchmark(
    *,
    models: list[str] | None = None,
    modes: list[str] | None = None,
    precisions: list[str] = ["float32"],  # noqa: B006 - never changed
    batch_sizes: list[int] = [1, 16],  # noqa: B006
    image_size: tuple[int, int] = (224, 224),
    inference: bool = True,
    training: bool = False,
    ops: bool = False,
    rounds: int = 10,
    warmup: int = 2,
    threads: int | None = None,
    device: str | None = None,
    output: str | None = None,
    quiet: bool = False,
) -> Report:
    """Compare networks in interleaved rounds: images/s, latency, peak memory, and speed relative to the plain network.

    Args:
        models: VAN variants, reference:VARIANT for the plain reference network (NCHW, eager mode), and any other timm
            models, such as convnext_tiny; weights are random. By default van_b0 and reference:van_b0, with --ops
            van_b0, van_b1 and van_b2.
        modes: Any of eager, compiled (torch.compile), fused (VANs, inference), onnxruntime and openvino (inference on
            the CPU); by default eager and fused, or eager where nothing can be fused.
        precisions: Any of float32, bfloat16 and, on a GPU, float16; weights of that type for inference, autocast for
            training.
        batch_sizes: Images per step.
        image_size: Height and width of the images.
        inference: Measure inference.
        training: Measure training steps: forward pass, backward pass, AdamW.
        ops: Measure the depth-wise convolutions of the models with every backend instead, each gradient included.
        rounds: Timed steps of each case.
        warmup: Untimed steps of each case after the first one.
        threads: CPU threads of PyTorch; by default its own choice.
        device: cpu or cuda; by default a GPU if there is one.
        output: New folder for the results; by default a numbered one below runs.
        quiet: Show no progress.

    Returns:
        Date, machine, settings, notes and results, as results.json has them. After Ctrl-C the rounds so far.

    Raises:
        VanError: a model or mode does not exist, or an option is out of range.
    """
    import torch

    from van.analysis import timing
    from van.engine.options import at_least
    from van.engine.run import check_output, new_folder

    for name, value, least in (("rounds", rounds, 1), ("warmup", warmup, 0), ("threads", threads, 1)):
        at_least(name, value, least)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    cases: list[Any]
    if ops:
        if modes or training or not inference:
            raise VanError("ops measures single operations. Leave out modes, training and no-inference.")
        models = models or ["van_b0", "van_b1", "van_b2"]
        cases = timing.plan_ops(models, precisions, batch_sizes, image_size, device)
    else:
        models = models or ["van_b0", "reference:van_b0"]
        tasks = [name for name, wanted in (("inference", inference), ("training", training)) if wanted]
        fusible = inference and any(name.startswith("van_") for name in models)
        modes = modes or (["eager", "fused"] if fusible else ["eager"])
        cases = timing.plan(models, tasks, modes, precisions, batch_sizes, image_size, device)
    check_output(output)
    results: list[Any] = [timing.Result(case) for case in cases]
    folder = new_folder(output, "benchmark")
    settings: dict[str, Any] = {"device": device, "image_size": list(image_size), "rounds": rounds, "warmup": warmup}
    finished, settings["threads"] = _measure(results, rounds, warmup, threads, quiet)
    about = _about(settings, precisions, ops, finished)
    rows = op_rows(results) if ops else network_rows(results)
    tables = op_tables(results) if ops else network_tables(rows)
    failures = [f"{result.case}: {result.failure}" for result in results if result.failure]
    data = {**about, "results": [{**row, "seconds": r.seconds} for row, r in zip(rows, results, strict=True)]}
    files = [write_csv(folder / "results.csv", rows), *_write(folder, data, tables, failures)]
    if not ops and (plot := _plot(results, about)):
        plot.savefig(folder / "throughput.png", dpi=130)
        files.append("throughput.png")
    return Report(f"{tables}\n\n{_conditions(about)}", data, folder, files, failures, finished)


def _measure(
    results: "Sequence[Result[Any]]", rounds: int, warmup: int, threads: int | None, quiet: bool
) -> tuple[bool, int]:
    """Fill in the results; return whether that was finished, and the number of threads."""
    import sys

    import torch
    from tqdm import tqdm

    from van.analysis.timing import measure

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    # the bar goes to standard error, so that the table can be piped
    with tqdm(total=len(results) * (rounds + 1), unit=" steps", file=sys.stderr, disable=quiet or None) as bar:

        def tick(text: str) -> None:
            bar.set_description(text, refresh=False)
            bar.update()

        try:
            measure(results, rounds, warmup, tick)
        except KeyboardInterrupt:
            return False, torch.get_num_threads()
        else:
            return True, torch.get_num_threads()
        finally:
            torch.set_num_threads(before)


def _about(settings: dict[str, Any], precisions: Sequence[str], ops: bool, finished: bool) -> dict[str, Any]:
    """Return date, machine, settings and notes."""
    from datetime import datetime

    from van.analysis.timing import BOUNDS

    about = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine(settings["device"]),
        "settings": settings,
        "notes": _OPS_NOTES if ops else _NOTES,
        "bounds": {name: BOUNDS[name] for name in dict.fromkeys(precisions)},
    }
    stopped = "stopped before the end: some cases were measured in fewer rounds or not at all"
    return about if finished else {**about, "stopped": stopped}


def machine(device: str) -> dict[str, Any]:
    """Describe what is measured on: processor, cores, GPU, versions.

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
    "The cases of one {group} take turns, one step each per round; p50, p5 and p95 are percentiles over the rounds.\n"
    "Ratios are ratios of medians; above 1 is faster. float32 is without TF32."
)
_NOTES = f"""{_TIMING.format(group="task and batch size")}
The baseline is the plain reference network in eager float32, NCHW, of the same variant where there is one; "same
precision" compares with it in the case's own precision. All other networks run in channels_last. Weights are random;
drop path and dropout are off. For inference the weights have the given precision, training runs under autocast.
Compiled inference is torch.compile with freezing. ONNX Runtime and OpenVINO run as in van.load: fused, a batch in the
parts and streams that measured best, with results in float32. A training step is forward pass, backward pass and
fused AdamW.

The matrix rate is the share that the network reaches of the rate at which the machine multiplies two square matrices
of the same precision, measured once a round. The arithmetic is that of the plain network, convolutions and matrix
products alone; a backward pass counts as two forward passes.

Peak memory is that of one step, weights and optimizer included: on a GPU that of torch's allocator, on the CPU that of
the tensors that torch allocates, without scratch memory inside kernel libraries; that of ONNX Runtime and OpenVINO is
not visible. The first call includes compilation by torch.

The error is the largest difference from the plain network in float32 (for networks other than VAN: from themselves in
eager mode) divided by the largest logit, and in training also the norm of the difference of all gradients divided by
their norm. VANs, and everything compiled or fused, are timed only if the error is within the bound; in half precision
three times the error of the plain network itself is accepted, up to ten times the bound. For one image per step,
gradients are compared with the plain network in channels_last: torch 2.15's BatchNorm on the CPU returns wrong
gradients in NCHW, as the error of the plain network shows."""
_OPS_NOTES = f"""{_TIMING.format(group="shape, precision and batch size")}
Times are those of torch's own convolution in channels_last; ratios compare the other backends with it. results.csv has
all times, and the ratios to NCHW. The error is the largest difference from the definition in float64 divided by its
largest number. A backend beyond the bound is not timed; torch's own convolution always is."""


def _timing(result: "Result[Any]") -> dict[str, Any]:
    measured = bool(result.seconds)
    return {
        "rounds": len(result.seconds),
        **{f"p{q}_ms": 1000 * result.percentile(q) if measured else None for q in (50, 5, 95)},
        "images_per_s": result.images_per_second if measured else None,
    }


def _check(result: "Result[Any]") -> dict[str, Any]:
    return {"error": result.error, "bound": result.bound, "failure": result.failure}


def network_rows(results: "Sequence[Result[Case]]") -> list[dict[str, Any]]:
    """Return the measurements of each network, one row each.

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
                "share_of_matrix_rate": result.share,
                "peak_memory_bytes": result.memory,
                "first_call_s": result.first_call,
                **_check(result),
            }
        )
    return rows


def op_rows(results: "Sequence[Result[OpCase]]") -> list[dict[str, Any]]:
    """Return the measurements of each operation, one row each.

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
                **_check(result),
            }
        )
    return rows


def network_tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table for each task and batch size.

    Args:
        rows: What network_rows returns.
    """
    tables = []
    for key in dict.fromkeys((row["task"], row["batch_size"]) for row in rows):
        members = [row for row in rows if (row["task"], row["batch_size"]) == key and row["rounds"]]
        bases = dict.fromkeys(row["baseline"] for row in members if row["baseline"])
        lines = []
        for row in members:
            memory = row["peak_memory_bytes"]
            line = {name: row[name] for name in ("model", "mode", "precision")} | {
                "images/s": number(row["images_per_s"], ".1f"),
                "p50 ms": number(row["p50_ms"], ".1f"),
                "p5-p95 ms": f"{row['p5_ms']:.1f}-{row['p95_ms']:.1f}",
                "ratio": number(row["ratio"], ".2f"),
                "same precision": number(row["ratio_same_precision"], ".2f"),
                "matrix rate": number(row["share_of_matrix_rate"], ".0%"),
                "peak MB": number(memory and memory / 1e6, ".0f"),
                "first call s": number(row["first_call_s"], ".1f"),
                "error": number(row["error"], ".1g"),
            }
            lines.append(line | ({"baseline": str(row["baseline"]).partition(" ")[0]} if len(bases) > 1 else {}))
        if members:
            heading = f"## {key[0].capitalize()}, batch {key[1]}"
            tables.append(f"{heading}\n\n{markdown(lines)}\n\nRatios are relative to {', '.join(bases)}.")
    return "\n\n".join(tables) or "Nothing was measured."


def op_tables(results: "Sequence[Result[OpCase]]") -> str:
    """Return a Markdown table for each precision and batch size: time of torch's convolution, ratios of the others.

    Args:
        results: What was measured.
    """
    from van.analysis.timing import op_baseline, ratio

    tables = []
    for key in dict.fromkeys((r.case.precision, r.case.batch_size) for r in results):
        members = [r for r in results if (r.case.precision, r.case.batch_size) == key and r.seconds]
        methods = list(dict.fromkeys(r.case.method for r in members if r.case.method != "torch"))
        lines = []
        for place in dict.fromkeys((r.case.shape, r.case.direction) for r in members):
            here = {r.case.method: r for r in members if (r.case.shape, r.case.direction) == place}
            torchs = here.get("torch")
            ratios = {m: ratio(r, op_baseline(r, results, "channels_last")) for m, r in here.items()}
            lines.append(
                {
                    "convolution": place[0],
                    "direction": place[1].replace("_", " "),
                    "torch ms": number(torchs and 1e3 * torchs.percentile(50), ".2f"),
                    "p5-p95 ms": f"{1e3 * torchs.percentile(5):.2f}-{1e3 * torchs.percentile(95):.2f}"
                    if torchs
                    else "-",
                    "torch error": number(torchs and torchs.error, ".1g"),
                    **{method: number(ratios.get(method), ".2f") for method in methods},
                }
            )
        if members:
            tables.append(f"## {key[0]}, batch {key[1]}\n\n{markdown(lines)}")
    return "\n\n".join(tables) or "Nothing was measured."


# ------------------------------------------------------------------------------------------------ files


def _write(folder: Path, data: dict[str, Any], tables: str, failures: Sequence[str]) -> list[str]:
    """Write results.json and results.md, and return their names."""
    (folder / "results.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    parts = [f"# Benchmark of {data['date'][:10]}", _conditions(data), tables]
    if failures:
        parts.append("## Not measured\n\n" + "\n".join(f"- {failure}" for failure in failures))
    parts.append(f"## How it was measured\n\n{data['notes']}")
    (folder / "results.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return ["results.json", "results.md"]


def _conditions(about: dict[str, Any]) -> str:
    """Return machine, versions and settings in a few lines."""
    machine, settings = about["machine"], about["settings"]
    size = " x ".join(map(str, settings["image_size"]))
    gpu = f"{machine['gpu']}, CUDA {machine['cuda']}, cuDNN {machine['cudnn']}; " if "gpu" in machine else ""
    bounds = ", ".join(f"{bound:g} in {name}" for name, bound in about["bounds"].items())
    text = (
        f"{gpu}{machine['processor']} ({machine['cpu_capability']}, {machine['cores']} cores, {settings['threads']} "
        f"threads); torch {machine['torch']}, timm {machine['timm']}, Python {machine['python']}, {machine['os']}.\n"
        f"Images of {size}, {settings['rounds']} rounds, errors accepted up to {bounds}."
    )
    return f"{text}\n{about['stopped'].capitalize()}." if "stopped" in about else text


def _plot(results: "Sequence[Result[Case]]", about: dict[str, Any]) -> Any:
    """Return the plot of accuracy over throughput; None at sizes other than that of the quoted accuracies."""
    from van.analysis.quoted import TOP1, TOP1_OTHERS
    from van.analysis.timing import throughput_plot

    if about["settings"]["image_size"] != [224, 224]:
        return None
    where = about["machine"].get("gpu", about["machine"]["processor"])
    return throughput_plot(results, TOP1 | TOP1_OTHERS, f"Accuracy (quoted) over throughput (measured)\n{where}")
