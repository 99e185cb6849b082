"""Plots of complexity and ablations. Numbers in, matplotlib figures out."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from van.analysis.ablation import Outcome
from van.analysis.counting import KINDS, LayerCost, SizeCosts, grouped_costs
from van.engine.plots import BLUE, FONTS, GREEN, ORANGE, PURPLE, RED, SKY, plain_text

# Okabe and Ito's colours and greys; a hatch on the lightest, which would be taken for the background
_COLOURS = (BLUE, SKY, ORANGE, RED, GREEN, PURPLE, "#F0E442", "#999999", "#000000", "#DDDDDD")
_HATCHES = ("", "", "", "", "", "", "", "", "", "///")
_STYLES = ("-o", "-s", "-D", "-^", "-v", "-P")


def variants_plot(costs: Mapping[str, Sequence[LayerCost]], title: str) -> Figure:
    """Draw the shares of parameters and multiply-accumulates, by kind of layer and by stage.

    Args:
        costs: Layers of each network by its name.
        title: Line above the panels.
    """
    figure = Figure(figsize=(12, 0.42 * 2 * len(costs) + 3.4), layout="constrained")
    figure.suptitle(plain_text(title))
    grid = figure.subplots(2, 2, sharey=True, squeeze=False)
    names = list(costs)
    for panels, by in zip(grid, ("kind", "stage"), strict=True):
        groups = {name: grouped_costs(layers, by) for name, layers in costs.items()}
        present = {group: None for network in groups.values() for group in network}
        order = [k for k in KINDS if k in present] if by == "kind" else sorted(present, key=lambda s: (s == "head", s))
        for axes, what, unit in zip(panels, ("params", "macs"), (1e6, 1e9), strict=True):
            left = np.zeros(len(names))
            totals = [sum(getattr(c, what) for c in groups[name].values()) for name in names]
            for i, group in enumerate(order):
                values = [getattr(groups[name][group], what) if group in groups[name] else 0 for name in names]
                share = 100 * np.array(values) / np.array(totals)
                axes.barh(
                    names, share, left=left, color=_COLOURS[i], hatch=_HATCHES[i], edgecolor="white", linewidth=0.5,
                    label=group,
                )  # fmt: skip
                left += share
            letter = "M" if what == "params" else "G"
            for name, total in zip(names, totals, strict=True):
                axes.text(101, name, f"{total / unit:.3g} {letter}", va="center", fontsize=8)
            word = "parameters" if what == "params" else "multiply-accumulates"
            axes.set(xlabel=f"share of the {word} (%)", xlim=(0, 100))
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_title(f"{word}, by {'kind of layer' if by == 'kind' else 'stage'}", fontsize=10)
        panels[0].invert_yaxis() if by == "kind" else None
        panels[1].legend(loc="center left", bbox_to_anchor=(1.12, 0.5), fontsize=8, frameon=False)
    return figure


def dilation_plot(curves: Mapping[int, Sequence[int]], channels: int) -> Figure:
    """Draw the number of parameters P(K, d) over the dilation d, with its minimum (Eq. 3).

    Args:
        curves: For each kernel size K, the values for d = 1, 2, ...
        channels: Number of channels C they hold for.
    """
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for i, (kernel_size, curve) in enumerate(curves.items()):
        best = int(np.argmin(curve))
        colour = _COLOURS[i % 6]
        axes.plot(
            range(1, len(curve) + 1), curve, _STYLES[i % 6], color=colour, markersize=4,
            label=f"K = {kernel_size}: minimum {curve[best]:,} at d = {best + 1}",
        )  # fmt: skip
        axes.plot(best + 1, curve[best], "*", color=colour, markersize=15, markeredgecolor="black")
    axes.set(xlabel="dilation d (log scale)", ylabel="parameters P(K, d) (log scale)", xscale="log", yscale="log")
    axes.set_title(f"Eq. 3 for C = {channels}; the best d (stars) is the same for every C", fontsize=10)
    ticks = [d for d in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if d <= max(map(len, curves.values()))]
    axes.set_xticks(ticks, map(str, ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def size_plot(costs: SizeCosts, name: str) -> Figure:
    """Draw multiply-accumulates over the size of the image, with large kernel attention and with self-attention.

    Args:
        costs: For each size of the image.
        name: Name of the network in the plot.
    """
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    figure.suptitle(
        "Cost over image size: linear in the number of pixels n for LKA, quadratic for global self-attention"
    )
    one, whole = figure.subplots(1, 2)
    panels = (
        (
            one,
            "attention part of one block of stage 1",
            (
                ("global self-attention, O(n²)", costs.self_attention, ORANGE, "-s"),
                ("self-attention in 7 x 7 windows, O(n)", costs.windowed, GREEN, ":^"),
                ("LKA, K = 21, O(n)", costs.lka, BLUE, "-o"),
            ),
        ),
        (
            whole,
            f"whole network, {name}",
            (
                ("with global self-attention instead", costs.network_self_attention, ORANGE, "-s"),
                ("with LKA", costs.network_lka, BLUE, "-o"),
            ),
        ),
    )
    for axes, title, lines in panels:
        for label, values, colour, style in lines:
            axes.plot(costs.sides, np.array(values) / 1e9, style, color=colour, label=label)
            axes.annotate(
                f"{values[-1] / 1e9:,.3g} G" if values[-1] < 1e12 else f"{values[-1] / 1e9:,.0f} G",
                (costs.sides[-1], values[-1] / 1e9),
                xytext=(0, 7) if colour != BLUE else (4, -15),
                textcoords="offset points", ha="right", fontsize=8, color=colour,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="height and width of the image (pixels, log scale)")
        axes.set_ylabel("multiply-accumulates (G, log scale)")
        axes.set_title(title, fontsize=10)
        axes.set_xticks(costs.sides, map(str, costs.sides))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.margins(y=0.1)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


@rc_context({"font.family": FONTS})
def ablation_plot(outcomes: Sequence[Outcome], title: str, data: str) -> Figure:
    """Draw the accuracy that the paper reports for each row beside the measured one.

    Args:
        outcomes: One for each row.
        title: Line above the panels.
        data: Name of the training data.
    """
    figure = Figure(figsize=(11, 0.42 * len(outcomes) + 2.2), layout="constrained")
    figure.suptitle(plain_text(title, 110))
    quoted, measured = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(outcomes))[::-1]
    tops = [o.row.top1 for o in outcomes]
    quoted.scatter(tops, places, color=BLUE, marker="o", s=45)
    for place, top in zip(places, tops, strict=True):
        quoted.annotate(f"{top:.1f}", (top, place), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8)
    quoted.set(xlabel="top-1 on ImageNet-1K (%), as reported in the paper\nVAN-B0, 300 epochs", yticks=places)
    quoted.set_yticklabels([plain_text(o.row.label, 40) for o in outcomes])
    quoted.margins(x=0.12)
    shown = [(o, place) for o, place in zip(outcomes, places, strict=True) if o.top1 is not None]
    for outcome, place in shown:
        top = 100 * (outcome.top1 or 0.0)
        error = 100 * outcome.error
        bar = [[min(error, top)], [min(error, 100 - top)]]  # no accuracy lies below 0 or above 100 %
        measured.errorbar(top, place, xerr=bar, color=ORANGE, marker="D", markersize=6, capsize=3)
        measured.annotate(
            f"{top:.1f}", (top, place), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    if not shown:
        measured.text(0.5, 0.5, "no row has been trained yet", transform=measured.transAxes, ha="center")
        measured.set_xticks([])
    measured.set_xlabel(f"best top-1 on {plain_text(data, 40)} (%), measured\nbars: ± two standard errors")
    for axes in (quoted, measured):
        axes.grid(alpha=0.3)
        axes.set_ylim(-0.6, len(outcomes) - 0.3)
    return figure
