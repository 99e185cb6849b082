"""`van complexity`: what a model or a recipe costs; the paper's tables and curves."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIONAL_POSITIONALS = {"model": "Any name that timm knows, such as van_b0."}
SHOWN = ("t2", "t3", "t5", "t6", "variants", "dilation", "size")


def complexity(
    model: str | None = None,
    *,
    config: str | None = None,
    image_size: tuple[int, int] | None = None,
    json: bool = False,
    layers: bool = False,
    show: list[str] | None = None,
    kernel_sizes: list[int] | None = None,
    channels: int = 64,
    output: str | None = None,
) -> None:
    """Count parameters, and multiply-accumulates (the paper's "FLOPs") of one image.

    Args:
        model: Any name that timm knows, such as van_b0.
        config: Recipe whose model is counted instead.
        image_size: Height and width; that of the model or recipe by default, 224 x 224 for --show.
        json: Print one object with the keys params and macs.
        layers: Also print sums by stage and by kind of layer.
        show: In place of a model, tables and curves of the paper: t2, t3, t5, t6, variants (each by stage and by kind
            of layer), dilation (Eq. 3 over d), size (cost over the size of the image, beside self-attention), or all.
        kernel_sizes: Kernel sizes K for dilation; by default those of T6.
        channels: Channels C for dilation.
        output: New folder for tables (CSV) and pictures (PNG, SVG) of --show.
    """
    from json import dumps

    from van.analysis import counting as counting
    from van.analysis.networks import taking
    from van.errors import VanError

    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise VanError(f"--image-size is {image_size}, expected a height and a width of at least 1.")
    if show is not None:
        if model is not None or config is not None or json or layers:
            raise VanError("--show stands for itself. Leave out the model, --config, --json and --layers.")
        _show(show, image_size, kernel_sizes or [7, 14, 21, 28], channels, output)
        return
    if (model is None) == (config is None):
        raise VanError("Give either a model, such as van_b0, or --config RECIPE, or --show t5 for tables of the paper.")
    if output is not None:
        raise VanError("--output is for tables and pictures: give it with --show.")
    network, input_size, name = _network(model, config, image_size)
    if image_size is not None:
        input_size = (input_size[0], *image_size)
    with taking(network, input_size[1:]):
        counts = counting.complexity(network, input_size)
    if json:
        print(dumps({"params": counts.params, "macs": counts.macs}))
        return
    print(f"{name}, one image of {' x '.join(map(str, input_size))}")
    print(f"parameters            {counts.params:>16,}  ({counts.params / 1e6:.2f} M)")
    print(f"multiply-accumulates  {counts.macs:>16,}  ({counts.macs / 1e9:.2f} G)")
    if layers:
        costs = counting.layer_costs(network, input_size)
        for by in ("stage", "kind"):
            groups = counting.grouped_costs(costs, by)
            print(f"\n{markdown([_share(by, group, cost, counts) for group, cost in groups.items()])}")


def _network(
    model: str | None, config: str | None, image_size: Sequence[int] | None
) -> tuple[Any, tuple[int, int, int], str]:
    import timm.data

    from van.analysis.networks import named_network
    from van.cli.recipes import find_recipe
    from van.cli.train import recipe_module
    from van.models import create_model

    if config is not None:
        path = find_recipe(config)
        return recipe_module(path).model_of_recipe(path)
    name = str(model)
    ours = name.startswith("van_")
    network = create_model(name, device="meta") if ours else named_network(name, image_size=image_size)
    return network, timm.data.resolve_model_data_config(network)["input_size"], name


def _share(by: str, group: str, cost: Any, whole: Any) -> dict[str, str]:
    return {
        by: group,
        "parameters": f"{cost.params:,}",
        "% of them": f"{100 * cost.params / max(1, whole.params):.1f}",
        "multiply-accumulates": f"{cost.macs:,}",
        "% of those": f"{100 * cost.macs / max(1, whole.macs):.1f}",
    }


# ------------------------------------------------------------------------------------------------ tables and curves


def _show(
    wanted: Sequence[str], image_size: tuple[int, int] | None, kernel_sizes: Sequence[int], channels: int,
    output: str | None,
) -> None:  # fmt: skip
    """Print tables, and write them and their pictures where a folder is given."""
    from van.analysis.explain_pictures import write_figure
    from van.cli.run_folder import run_folder
    from van.errors import VanError

    unknown = [name for name in wanted if name not in (*SHOWN, "all")]
    if unknown:
        raise VanError(f"--show has {', '.join(unknown)}, expected some of {', '.join(SHOWN)}, or all.")
    names = [name for name in SHOWN if name in wanted or "all" in wanted]
    size = image_size or (224, 224)
    tables: list[tuple[str, str, list[dict[str, str]]]] = []
    figures: dict[str, Figure] = {}
    for name in names:
        made, figure = _MAKERS[name](name, size, kernel_sizes, channels)
        tables += made
        if figure is not None:
            figures[name] = figure
    print("\n\n".join(f"{heading}\n\n{markdown(lines)}" for _, heading, lines in tables))
    if output is not None:
        folder, files = run_folder(output, "complexity"), []
        for name, _, lines in tables:
            write_csv(folder / f"{name}.csv", lines)
            files.append(f"{name}.csv")
        for name, figure in figures.items():
            files += write_figure(figure, folder / name)
        print(f"\ntables and pictures: {folder}: {' '.join(files)}")


_Made = tuple[list[tuple[str, str, list[dict[str, str]]]], Any]


def _t2(name: str, *_: Any) -> _Made:
    from van.analysis.counting import QUOTED_T2, lka_parameters, mobilenet_parameters, standard_parameters

    lines = []
    for channels, quoted in QUOTED_T2.items():
        counted = (standard_parameters(21, channels), mobilenet_parameters(21, channels), lka_parameters(21, channels))
        line = {"C": str(channels)}
        for kind, ours, theirs in zip(("standard", "MobileNet split", "LKA"), counted, quoted, strict=True):
            line |= {kind: f"{ours:,}", f"{kind}, quoted": f"{theirs:,}"}
        lines.append(line)
    return [(name, "T2: parameters of a 21 x 21 convolution on C channels, biases left out (Eq. 3)", lines)], None


def _ablation(name: str, *_: Any) -> _Made:
    from van.analysis.ablation import Outcome, ablation_lines, row_costs, table_rows

    number = int(name[1:])
    lines = ablation_lines([Outcome(row, *row_costs(row)) for row in table_rows(number)])
    keys = ("row", "params M", "quoted M", "GMACs", "quoted G")
    heading = f"T{number}: VAN-B0, 1000 classes, 224 x 224; GMACs with biases and norms, which gives the printed values"
    return [(name, heading, [{key: line[key] for key in keys} for line in lines])], None


def _t5(name: str, size: tuple[int, int], *_: Any) -> _Made:
    from van.analysis.ablation import printed
    from van.analysis.counting import QUOTED_T5, total_costs, variant_costs

    lines = []
    for variant, costs in variant_costs(size).items():
        (params, macs, with_norms), (m, g) = total_costs(costs), QUOTED_T5[variant]
        line = {
            "model": variant,
            "parameters": f"{params:,}",
            "M": printed(params / 1e6, m),
            "quoted M": m,
            "GMACs, Eq. 4": f"{macs / 1e9:.3f}",
            "with biases and norms": f"{with_norms / 1e9:.3f}",
        }
        if size == (224, 224):
            line["quoted G"] = "38.4 (T8: 38.9)" if variant == "van_b6" else g
        lines.append(line)
    return [(name, f"T5: VAN-B0 to B6, 1000 classes, {size[0]} x {size[1]}", lines)], None


def _variants(name: str, size: tuple[int, int], *_: Any) -> _Made:
    from van.analysis.counting import grouped_costs, variant_costs
    from van.analysis.complexity_pictures import variants_picture

    costs, tables = variant_costs(size), []
    for by in ("stage", "kind"):
        lines = [
            {"model": variant, by: group, "parameters": f"{cost.params:,}", "multiply-accumulates": f"{cost.macs:,}"}
            for variant, layers in costs.items()
            for group, cost in grouped_costs(layers, by).items()
        ]
        tables.append((f"{name}_by_{by}", f"VAN-B0 to B6 by {by}, 1000 classes, {size[0]} x {size[1]}", lines))
    return tables, variants_picture(costs, f"What VAN-B0 to B6 consist of, {size[0]} x {size[1]}, 1000 classes")


def _dilation(name: str, _: Any, kernel_sizes: Sequence[int], channels: int) -> _Made:
    from van.analysis.counting import parameter_curve
    from van.analysis.complexity_pictures import dilation_picture

    curves = {kernel_size: parameter_curve(kernel_size, channels) for kernel_size in kernel_sizes}
    lines = [
        {"K": str(k), "d": str(d), "P(K, d)": f"{value:,}", "least": "*" if value == min(curve) else ""}
        for k, curve in curves.items()
        for d, value in enumerate(curve, 1)
    ]
    return [(name, f"Eq. 3: parameters over the dilation d, C = {channels}", lines)], dilation_picture(curves, channels)


def _size(name: str, *_: Any) -> _Made:
    from van.analysis.counting import size_costs
    from van.analysis.complexity_pictures import size_picture

    costs = size_costs("van_b2")
    lines = [
        {
            "side": str(side),
            "LKA half, stage 1": f"{costs.lka[i] / 1e9:.2f}",
            "window 7 x 7": f"{costs.windowed[i] / 1e9:.2f}",
            "self-attention": f"{costs.self_attention[i] / 1e9:.2f}",
            "VAN-B2": f"{costs.network_lka[i] / 1e9:.1f}",
            "VAN-B2 with self-attention": f"{costs.network_self_attention[i] / 1e9:.1f}",
        }
        for i, side in enumerate(costs.sides)
    ]
    return [(name, "GMACs over the side of a square image, Eq. 4", lines)], size_picture(costs, "VAN-B2")


_MAKERS = {
    "t2": _t2, "t3": _ablation, "t5": _t5, "t6": _ablation, "variants": _variants, "dilation": _dilation, "size": _size,
}  # fmt: skip


def markdown(lines: Sequence[Mapping[str, str]]) -> str:
    """Return an aligned Markdown table; columns of numbers stand to the right.

    Args:
        lines: Heading to text of each line, the same headings in all.
    """
    heads = list(lines[0])
    cells = [[line[head] for head in heads] for line in lines]
    widths = [
        max(len(text) for text in (head, *column)) for head, column in zip(heads, zip(*cells, strict=True), strict=True)
    ]
    right = [all(text[:1].isdigit() or text in ("", "-") for text in column) for column in zip(*cells, strict=True)]

    def row(texts: Sequence[str]) -> str:
        padded = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 1) + ":" if r else "-" * (w + 2) for w, r in zip(widths, right, strict=True))
    return "\n".join([row(heads), f"|{rule}|", *map(row, cells)])


def write_csv(path: Path, lines: Sequence[Mapping[str, str]]) -> None:
    """Write a table as CSV, numbers without their commas.

    Args:
        path: New file.
        lines: Heading to text of each line, the same headings in all.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        for line in lines:
            plain = {k: v.replace(",", "") for k, v in line.items()}
            writer.writerow({k: plain[k] if plain[k].isdecimal() else v for k, v in line.items()})
