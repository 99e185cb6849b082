"""Plots of data sets: how often classes are, how large images and objects, and where objects lie."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from van.data.inspection import Inspection
from van.engine.plots import BLUE, FONTS, ORANGE, plain_text

_DPI = 110
_COLOURS = (BLUE, ORANGE)
_CLASSES = 20  # with bars of their own
_PLACES = 11  # classes with a heat map of their own
_RATIOS = (1 / 4, 1 / 2, 1, 2, 4)
_UNEVEN = 50  # largest over smallest share from which bars have a logarithmic axis


@rc_context({"font.family": FONTS})
def distributions(inspections: Mapping[str, Inspection], title: str) -> Figure:
    """Draw how classes, sizes, aspect ratios and numbers of objects are distributed, each split in its color.

    Args:
        inspections: What the images of each split are like, by the name of the split.
        title: Line above the panels.
    """
    first = next(iter(inspections.values()))
    has_boxes = any(len(one.boxes) for one in inspections.values())
    rows = 2 if has_boxes else 1
    bars = min(len(first.class_names), _CLASSES)
    figure = Figure(figsize=(15, max(4.6 * rows, 0.32 * bars + 2.2)), dpi=_DPI, layout="constrained")
    figure.suptitle(plain_text(title, 110), fontsize=13)
    grid = figure.add_gridspec(rows, 3)
    _draw_classes(figure.add_subplot(grid[:, 0]), inspections, "objects" if has_boxes else "images")
    _draw_sizes(figure.add_subplot(grid[0, 1]), inspections)
    _draw_ratios(figure.add_subplot(grid[0, 2]), inspections, has_boxes)
    if has_boxes:
        _draw_object_sizes(figure.add_subplot(grid[1, 1]), inspections)
        _draw_numbers(figure.add_subplot(grid[1, 2]), inspections)
    return figure


def _name(split: str, number: int, what: str) -> str:
    return f"{split} ({number:,} {what})"


def _draw_classes(axes: Axes, inspections: Mapping[str, Inspection], unit: str) -> None:
    first = next(iter(inspections.values()))
    counts = {name: one.objects for name, one in inspections.items()}
    total = np.sum(list(counts.values()), axis=0)
    order = np.argsort(-total, kind="stable")
    if len(order) > _CLASSES:  # the most frequent and the rarest ones
        order = np.concatenate([order[: _CLASSES // 2], order[-_CLASSES // 2 :]])
    height = 0.8 / len(counts)
    shares = {name: 100 * number[order] / max(1, number.sum()) for name, number in counts.items()}
    for k, ((name, share), colour) in enumerate(zip(shares.items(), _COLOURS, strict=False)):
        places = np.arange(len(order)) + (k - (len(counts) - 1) / 2) * height
        axes.barh(places, share, height, color=colour, label=_name(name, int(counts[name].sum()), unit))
    axes.set_yticks(
        range(len(order)), [f"{plain_text(first.class_names[i], 24)} ({int(total[i]):,})" for i in order], fontsize=9
    )
    axes.invert_yaxis()
    known = np.concatenate([share[share > 0] for share in shares.values()])
    if len(known) and known.max() > _UNEVEN * known.min():
        axes.set_xscale("log")
    what = f"share of all {unit} (%)"
    axes.set(xlabel=f"{what}, log scale" if axes.get_xscale() == "log" else what)
    if len(first.class_names) > _CLASSES:
        axes.set_title(f"classes: the {_CLASSES // 2} most frequent and the {_CLASSES // 2} rarest of {len(total)}")
    else:
        axes.set_title("classes")
    axes.grid(axis="x", alpha=0.3)
    axes.set_ylim(bottom=1.1 * len(order) + 0.2)  # room for the legend below the bars
    axes.legend(loc="lower center", ncols=2, fontsize=9)


def _draw_sizes(axes: Axes, inspections: Mapping[str, Inspection]) -> None:
    for (name, one), colour in zip(inspections.items(), _COLOURS, strict=False):
        sizes, counts = np.unique(one.sizes[one.sizes.min(1) > 0], axis=0, return_counts=True)
        if len(sizes):
            area = 14 + 220 * counts / counts.max()
            axes.scatter(
                *sizes.T, s=area, color=colour, alpha=0.55, linewidths=0, label=_name(name, len(one), "images")
            )
    axes.set(xlabel="width (pixels)", ylabel="height (pixels)", title="image sizes; larger dots: more images")
    largest = np.max([one.sizes.max(0, initial=1) for one in inspections.values()], axis=0)
    axes.set_xlim(0, 1.12 * largest[0])
    axes.set_ylim(0, 1.12 * largest[1])
    axes.grid(alpha=0.3)
    legend = axes.legend(loc="lower right", fontsize=9)
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([40])  # type: ignore[union-attr]


def _steps(axes: Axes, values: Sequence[np.ndarray], names: Sequence[str], edges: np.ndarray) -> None:
    """Draw a histogram of each split in percent."""
    for k, (one, name) in enumerate(zip(values, names, strict=True)):
        if len(one):
            counts, _ = np.histogram(one.clip(edges[0], edges[-1]), edges)
            axes.stairs(
                100 * counts / len(one),
                edges,
                color=_COLOURS[k % 2],
                label=name,
                fill=k == 0,
                alpha=0.45 + 0.5 * (k > 0),
                lw=2,
            )
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9)


def _draw_ratios(axes: Axes, inspections: Mapping[str, Inspection], has_boxes: bool) -> None:
    edges = np.linspace(math.log2(1 / 5), math.log2(5), 41)
    for (name, one), colour in zip(inspections.items(), _COLOURS, strict=False):
        known = one.sizes[one.sizes.min(1) > 0].astype(float)
        drawn = [("images", np.log2(known[:, 0] / known[:, 1]), "-")]
        if has_boxes and len(one.boxes):
            drawn.append(("objects", np.log2(one.boxes[:, 2] / one.boxes[:, 3]), ":"))
        for what, ratios, style in drawn:
            if len(ratios):
                counts, _ = np.histogram(ratios.clip(edges[0], edges[-1]), edges)
                axes.stairs(100 * counts / len(ratios), edges, color=colour, label=f"{name}, {what}", lw=1.8, ls=style)
    axes.set_xticks([math.log2(ratio) for ratio in _RATIOS], ["1:4", "1:2", "1:1", "2:1", "4:1"])
    axes.set(xlabel="width : height", ylabel="share (%)", title="aspect ratios")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)


def _draw_object_sizes(axes: Axes, inspections: Mapping[str, Inspection]) -> None:
    values = []
    for one in inspections.values():
        pixels = one.sizes[one.images].prod(1)
        known = pixels > 0
        values.append(100 * np.sqrt(one.areas[known] / pixels[known]))
    names = [
        f"{name}, median {np.median(v):.1f} %" if len(v) else name for name, v in zip(inspections, values, strict=True)
    ]
    _steps(axes, values, names, np.linspace(0, 100, 41))
    axes.set(
        xlabel="square root of the object's area, in % of that of the image", ylabel="objects (%)", title="object sizes"
    )


def _draw_numbers(axes: Axes, inspections: Mapping[str, Inspection]) -> None:
    values = [one.per_image for one in inspections.values()]
    most = max([int(np.quantile(v, 0.995)) for v in values if len(v)] + [1])
    step = max(1, math.ceil((most + 1) / 40))
    edges = np.arange(0, most + 1 + step, step) - 0.5
    names = [f"{name}, mean {v.mean():.1f}" if len(v) else name for name, v in zip(inspections, values, strict=True)]
    _steps(axes, values, names, edges)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="objects on an image", ylabel="images (%)", title="objects per image")


@rc_context({"font.family": FONTS})
def places(one: Inspection, title: str) -> Figure | None:
    """Draw where on the images the objects of each class lie; None where whole images are labeled.

    Args:
        one: What the images of a split are like.
        title: Line above the heat maps.
    """
    counts = one.objects
    order = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i]][:_PLACES]
    if not one.cover.size or not order:
        return None
    maps = [(f"{plain_text(one.class_names[i], 22)} ({int(counts[i]):,})", one.cover[i] / counts[i]) for i in order]
    everything = one.cover.sum(0)
    if len(order) > 1 and everything.max() > 1.05 * everything.min():  # where every pixel has a class, it says nothing
        maps.insert(0, (f"all ({int(counts.sum()):,})", everything / counts.sum()))
    columns = min(4, len(maps))
    rows = math.ceil(len(maps) / columns)
    figure = Figure(figsize=(3.1 * columns + 1.2, 2.9 * rows + 0.9), dpi=_DPI, layout="constrained")
    figure.suptitle(plain_text(title, 28 * columns + 12))
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel, (name, cover) in zip(panels.flat, maps, strict=False):
        shown = panel.imshow(100 * cover, cmap="viridis", vmin=0, extent=(0, 100, 100, 0))
        panel.set_title(name, fontsize=10)
        panel.set_xticks([0, 50, 100])
        panel.set_yticks([0, 50, 100])
        panel.tick_params(labelsize=8)
        bar = figure.colorbar(shown, ax=panel, shrink=0.85)
        bar.ax.tick_params(labelsize=8)
        bar.ax.yaxis.set_major_locator(MaxNLocator(4))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for panel in panels.flat[len(maps) :]:
        panel.set_axis_off()
    figure.supxlabel("place in % of width and height; color: share of the objects that cover it (%)", fontsize=10)
    return figure
