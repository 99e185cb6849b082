"""The ablations of the paper: the rows of T3 and T6, what they cost, and the accuracy that they reached."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from van.analysis.counting import layer_costs, total_costs
from van.errors import VanError
from van.models import create_model


@dataclass(frozen=True)
class Row:
    """One row of an ablation table.

    Attributes:
        name: Short name, which can be a folder's.
        label: What is changed.
        params: Parameters (M) of VAN-B0 as printed in the paper; "" where it prints none.
        macs: Multiply-accumulates (G) of VAN-B0 at 224 x 224, likewise.
        top1: Top-1 accuracy (%) on ImageNet-1K that the paper reports.
        model_args: Arguments of the network that make the change.
    """

    name: str
    label: str
    params: str
    macs: str
    top1: float
    model_args: dict[str, Any] = field(default_factory=dict)


def _t3(variant: str, label: str, params: str, macs: str, top1: float) -> Row:
    return Row(variant, label, params, macs, top1, {"lka_variant": variant})


def _t6(kernel_size: int, dilation: int, params: str, macs: str, top1: float) -> Row:
    args = {"kernel_size": kernel_size, "dilation": dilation}
    return Row(f"kernel_{kernel_size}_{dilation}", f"K = {kernel_size}, d = {dilation}", params, macs, top1, args)


TABLES: dict[int, tuple[Row, ...]] = {
    3: (
        _t3("full", "full", "4.1", "0.9", 75.4),
        _t3("no_dw", "without DW-Conv", "4.1", "", 74.9),
        _t3("no_dw_d", "without DW-D-Conv", "4.0", "", 74.1),
        _t3("no_product", "without attention (no product)", "", "", 74.3),
        _t3("sum", "sum instead of the product", "", "", 74.6),
        _t3("no_pointwise", "without 1x1 Conv", "3.8", "0.8", 74.6),
        _t3("sigmoid", "with a sigmoid", "", "", 75.2),
        _t3("dense", "dense 21x21 Conv instead of the three", "124.7", "23.2", 76.0),
    ),
    6: (
        _t6(7, 2, "4.03", "0.85", 74.8),
        _t6(14, 3, "4.07", "0.87", 75.3),
        _t6(21, 3, "4.11", "0.88", 75.4),
        _t6(28, 4, "4.14", "0.90", 75.4),
    ),
}


def table_rows(table: int, names: Sequence[str] | None = None) -> list[Row]:
    """Return the rows of T3 or T6.

    Args:
        table: 3 or 6.
        names: Short names of the rows, in any order; None for all.

    Raises:
        VanError: there is no such table or row.
    """
    if table not in TABLES:
        raise VanError(f"There is no ablation table {table}, expected one of {', '.join(map(str, TABLES))}.")
    known = [row.name for row in TABLES[table]]
    for name in names or ():
        if name not in known:
            raise VanError(f"T{table} has no row {name!r}, expected some of {', '.join(known)}.")
    return [row for row in TABLES[table] if names is None or row.name in names]


def row_costs(row: Row, model: str = "van_b0", **model_args: Any) -> tuple[int, int]:
    """Count parameters and multiply-accumulates of a row as the paper does: 1000 classes, 224 x 224.

    Args:
        row: Row of T3 or T6.
        model: Variant; the paper's is van_b0.
        **model_args: Further arguments of the network.

    Returns:
        Parameters, and multiply-accumulates with biases and norms (see counting.total_costs).
    """
    network = create_model(model, device="meta", **{**model_args, **row.model_args})
    params, _, macs = total_costs(layer_costs(network, (network.in_chans, 224, 224)))
    return params, macs


def printed(value: float, quoted: str) -> str:
    """Return a number with as many decimals as a quoted one; one decimal where none is quoted."""
    return f"{value:.{len(quoted.partition('.')[2]) if quoted else 1}f}"


@dataclass(frozen=True)
class Outcome:
    """What a row costs, and what it reached.

    Attributes:
        row: Row of T3 or T6.
        params: Number of parameters, counted for 1000 classes.
        macs: Multiply-accumulates, counted as the paper does for 224 x 224 and 1000 classes.
        top1: Measured top-1 accuracy from 0 to 1; None where the row was not trained.
        images: Number of validation images.
        seconds: Time of training; None where the row was not trained.
    """

    row: Row
    params: int
    macs: int
    top1: float | None = None
    images: int = 0
    seconds: float | None = None

    @property
    def error(self) -> float:
        """Two standard errors of the measured accuracy that follow from the number of images alone, from 0 to 1."""
        if self.top1 is None or not self.images:
            return 0.0
        return wilson_half_width(self.top1, self.images)

    def to_dict(self) -> dict[str, Any]:
        """Return what was counted and measured, and what the paper reports as quoted_top1 (%)."""
        measured = {name: getattr(self, name) for name in ("params", "macs", "top1", "images", "seconds")}
        return {"row": self.row.name, "label": self.row.label, **measured, "quoted_top1": self.row.top1}


def wilson_half_width(share: float, count: int, z: float = 2.0) -> float:
    """Return half the width of Wilson's interval of a proportion (E. B. Wilson, 1927); above zero for 0 and 1 too."""
    return z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))


def resolution(outcomes: Sequence[Outcome]) -> str:
    """Return which differences between measured rows are insignificant, in words; empty where nothing was measured."""
    measured = [o for o in outcomes if o.top1 is not None]
    if not measured:
        return ""
    count, widest = measured[0].images, max(o.error for o in measured)
    return (
        f"{count} validation images, one run per row: one image is {100 / count:.2g} points, and the number of images "
        f"alone makes each accuracy uncertain by up to {100 * widest:.1f} points (two standard errors). Smaller "
        "differences mean nothing, and short training on other data says nothing about ImageNet."
    )


def ablation_rows(outcomes: Sequence[Outcome], model: str = "van_b0") -> list[dict[str, str]]:
    """Return the table, text by heading for each row; with quoted sizes where the model is the paper's.

    Args:
        outcomes: One for each row.
        model: Variant that was trained.
    """
    rows = []
    for outcome in outcomes:
        row, same = outcome.row, model.partition(".")[0] == "van_b0"
        rows.append(
            {
                "row": row.label,
                "params M": printed(outcome.params / 1e6, row.params),
                "quoted M": (row.params if same else "") or "-",
                "GMACs": printed(outcome.macs / 1e9, row.macs),
                "quoted G": (row.macs if same else "") or "-",
                "top-1 quoted, ImageNet": f"{row.top1:.1f}",
                "top-1 measured": "-" if outcome.top1 is None else f"{100 * outcome.top1:.2f}",
                "seconds": "-" if outcome.seconds is None else f"{outcome.seconds:.0f}",
            }
        )
    return rows
