"""The paper's tables and curves of costs, counted here, next to the values that it prints."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from van.analysis.ablation import Outcome, ablation_rows, printed, row_costs, table_rows
from van.analysis.counting import (
    grouped_costs,
    lka_parameters,
    mobilenet_parameters,
    parameter_curve,
    size_costs,
    standard_parameters,
    total_costs,
    variant_costs,
)
from van.analysis.quoted import PARAMETERS, SIZES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Table(NamedTuple):
    """A table.

    Attributes:
        name: Short name, fit for a file.
        heading: What it shows.
        rows: Text by heading.
    """

    name: str
    heading: str
    rows: list[dict[str, str]]


Made = tuple[list[Table], "Callable[[], Figure] | None"]


def show(name: str, size: tuple[int, int], kernel_sizes: Sequence[int], channels: int) -> Made:
    """Return a table or curve of the paper as tables, and what draws it; None where it has no plot.

    Args:
        name: t2, t3, t5, t6, variants, dilation or size.
        size: Height and width of the image for t5 and variants.
        kernel_sizes: Kernel sizes K for dilation.
        channels: Channels C for dilation.

    Raises:
        VanError: a kernel size or number of channels is out of range.
    """
    if name in ("t3", "t6"):
        return [_ablation(name)], None
    if name in ("t2", "t5"):
        return [_t2() if name == "t2" else _t5(size)], None
    return _dilation(kernel_sizes, channels) if name == "dilation" else _size() if name == "size" else _variants(size)


def _t2() -> Table:
    rows = []
    for channels, quoted in PARAMETERS.items():
        counted = (standard_parameters(21, channels), mobilenet_parameters(21, channels), lka_parameters(21, channels))
        row = {"C": str(channels)}
        for kind, ours, theirs in zip(("standard", "MobileNet", "LKA"), counted, quoted, strict=True):
            row |= {kind: f"{ours:,}", f"{kind}, quoted": f"{theirs:,}"}
        rows.append(row)
    return Table("t2", "T2: parameters of a 21 x 21 convolution with C channels, without biases (Eq. 3)", rows)


def _ablation(name: str) -> Table:
    number = int(name[1:])
    rows = ablation_rows([Outcome(row, *row_costs(row)) for row in table_rows(number)])
    keys = ("row", "params M", "quoted M", "GMACs", "quoted G")
    heading = f"T{number}: VAN-B0, 1000 classes, 224 x 224; GMACs include biases and norms, as the printed values do"
    return Table(name, heading, [{key: row[key] for key in keys} for row in rows])


def _t5(size: tuple[int, int]) -> Table:
    rows = []
    for variant, costs in variant_costs(size).items():
        (params, macs, with_norms), (m, g) = total_costs(costs), SIZES[variant]
        row = {
            "model": variant,
            "parameters": f"{params:,}",
            "M": printed(params / 1e6, m),
            "quoted M": m,
            "GMACs, Eq. 4": f"{macs / 1e9:.3f}",
            "with biases and norms": f"{with_norms / 1e9:.3f}",
        }
        if size == (224, 224):
            row["quoted G"] = "38.4 (T8: 38.9)" if variant == "van_b6" else g
        rows.append(row)
    return Table("t5", f"T5: VAN-B0 to B6, 1000 classes, {size[0]} x {size[1]}", rows)


def _variants(size: tuple[int, int]) -> Made:
    costs, tables = variant_costs(size), []
    where = f"{size[0]} x {size[1]}, 1000 classes"
    for by in ("stage", "kind"):
        rows = [
            {"model": variant, by: group, "parameters": f"{cost.params:,}", "multiply-accumulates": f"{cost.macs:,}"}
            for variant, layers in costs.items()
            for group, cost in grouped_costs(layers, by).items()
        ]
        tables.append(Table(f"variants_by_{by}", f"VAN-B0 to B6 by {by}, {where}", rows))

    def plot() -> "Figure":
        from van.analysis.complexity_plots import variants_plot

        return variants_plot(costs, f"Where VAN-B0 to B6 spend parameters and multiply-accumulates, {where}")

    return tables, plot


def _dilation(kernel_sizes: Sequence[int], channels: int) -> Made:
    curves = {kernel_size: parameter_curve(kernel_size, channels) for kernel_size in kernel_sizes}
    rows = [
        {"K": str(k), "d": str(d), "P(K, d)": f"{value:,}", "minimum": "*" if value == min(curve) else ""}
        for k, curve in curves.items()
        for d, value in enumerate(curve, 1)
    ]

    def plot() -> "Figure":
        from van.analysis.complexity_plots import dilation_plot

        return dilation_plot(curves, channels)

    return [Table("dilation", f"Eq. 3: parameters over the dilation d, C = {channels}", rows)], plot


def _size() -> Made:
    costs = size_costs("van_b2")
    rows = [
        {
            "side": str(side),
            "LKA, stage 1": f"{costs.lka[i] / 1e9:.2f}",
            "7 x 7 windows": f"{costs.windowed[i] / 1e9:.2f}",
            "self-attention": f"{costs.self_attention[i] / 1e9:.2f}",
            "VAN-B2": f"{costs.network_lka[i] / 1e9:.1f}",
            "VAN-B2 with self-attention": f"{costs.network_self_attention[i] / 1e9:.1f}",
        }
        for i, side in enumerate(costs.sides)
    ]

    def plot() -> "Figure":
        from van.analysis.complexity_plots import size_plot

        return size_plot(costs, "VAN-B2")

    heading = "GMACs over the side of a square image (Eq. 4): one attention module of stage 1, and the whole network"
    return [Table("size", heading, rows)], plot
