"""Plots of what a network looks at: Grad-CAM, attention maps, receptive fields. Arrays in, matplotlib figures out."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from van.analysis.fields import SHARES, ReceptiveField, square_side
from van.engine.plots import BLUE, FONTS, GREEN, ORANGE, PURPLE, RED, SKY, plain_text

# perceptually uniform and readable without colour vision; zero is black in one, dark blue in the other
_HEAT, _MAP = "inferno", "viridis"
_STYLES = (":", "-.", "--", "-")  # of the squares that hold 20, 30, 50 and 99 %
_ZERO = "zero everywhere:\nno position is evidence\nfor this class"
_CAM_NOTE = "Each map has the resolution given above it and is enlarged smoothly to the crop that the network saw."
_ATTENTION_NOTE = (
    "Absolute attention, averaged over the channels. Colors run from the smallest to the largest value of each map, "
    "which are given below it: compare values, not colors, between maps."
)


def heat_overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heat map over the grey version of an image; the larger a value, the more opaque its colour.

    Args:
        picture: RGB from 0 to 1, shape (H, W, 3).
        heat: Not negative, shape (h, w); enlarged bilinearly and scaled so that its maximum has the strongest colour.

    Returns:
        RGB from 0 to 1, shape (H, W, 3). The grey image where the map is zero everywhere.
    """
    grey = np.repeat((picture @ np.array([0.299, 0.587, 0.114]))[..., None], 3, axis=2)
    top = heat.max()
    if not top > 0:
        return grey
    strength = enlarge(heat / top, picture.shape[:2]).clip(0, 1)[..., None]
    colour = colormaps[_HEAT](0.25 + 0.75 * strength[..., 0])[..., :3]
    return (1 - 0.85 * strength) * (0.8 * grey) + 0.85 * strength * colour


def enlarge(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge a map (h, w) bilinearly to a size (H, W)."""
    image = Image.fromarray(heat.astype(np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _grid(
    rows: int, names: Sequence[str], shown: Iterable[np.ndarray], title: str, lines: int, note: str
) -> tuple[Figure, Any]:
    """Make a sheet of equal boxes that fit the tallest of the images shown, with room for lines below each."""
    columns = len(names)
    aspect = min(1.2, max(picture.shape[0] / picture.shape[1] for picture in shown))
    width = 2.2 * columns + 0.8
    figure = Figure(figsize=(width, (2.2 * aspect + 0.16 * lines) * rows + 1.2), layout="compressed")
    figure.suptitle(plain_text(title, 16 * columns + 20))
    figure.supxlabel(textwrap.fill(note, int(11 * width)), fontsize=8)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[], box_aspect=aspect, adjustable="datalim")
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(_lines(name, 26), fontsize=9, fontweight="bold")
    return figure, grid


def _lines(text: str, length: int) -> str:
    return "\n".join(plain_text(line, length) for line in text.split("\n"))


@rc_context({"font.family": FONTS})
def cam_sheet(
    columns: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray, str]]],
    title: str,
    captions: Sequence[str] = (),
) -> Figure:
    """Draw Grad-CAM of several networks or classes side by side, one image per row (Fig. 6).

    The first column shows the crop of the image that the first network saw.

    Args:
        columns: For each heading and image: the crop that the network saw (RGB from 0 to 1), its map, and a few short
            lines to write below it, such as the prediction.
        title: Line above the sheet.
        captions: Line below each image.
    """
    first, *_ = columns.values()
    lines = max((text.count("\n") + 1 for column in columns.values() for *_, text in column), default=1)
    crops = [seen for column in columns.values() for seen, *_ in column]
    names = [f"{name}\n{_size(column[0][1])} map" for name, column in columns.items()]
    figure, grid = _grid(len(first), ["image, as cropped\nfor the network", *names], crops, title, lines, _CAM_NOTE)
    for row, (picture, *_) in enumerate(first):
        grid[row, 0].imshow(picture)
        grid[row, 0].set_xlabel(plain_text(captions[row], 28) if captions else "", fontsize=8)
        for axes, column in zip(grid[row, 1:], columns.values(), strict=True):
            seen, heat, text = column[row]
            axes.imshow(heat_overlay(seen, heat))
            if not heat.max() > 0:
                axes.text(
                    0.5, 0.5, _ZERO, transform=axes.transAxes, ha="center", va="center", color="white", fontsize=9,
                    bbox={"facecolor": "black", "alpha": 0.75, "edgecolor": "none"},
                )  # fmt: skip
            axes.set_xlabel(_lines(text, 30), fontsize=8)
    # the colours as they are on middle grey
    colours = ListedColormap(heat_overlay(np.full((1, 256, 3), 0.5), np.linspace(0, 1, 256)[None])[0])
    _bar(figure, grid, ScalarMappable(Normalize(0, 100), colours), "evidence for the class\n(% of each map's maximum)")
    return figure


def _size(heat: np.ndarray) -> str:
    return f"{heat.shape[-2]} x {heat.shape[-1]}"


def _bar(figure: Figure, grid: Any, colours: ScalarMappable, label: str, names: Sequence[str] = ()) -> None:
    """Draw the colour bar of a sheet, with names of its ends or with numbers."""
    bar = figure.colorbar(colours, ax=list(grid.ravel()), shrink=0.8, aspect=20 * len(grid), pad=0.01)
    if names:
        bar.set_ticks([0, 1], labels=list(names))
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


@rc_context({"font.family": FONTS})
def attention_sheet(
    pictures: Sequence[np.ndarray] | np.ndarray,
    maps: Mapping[str, np.ndarray],
    title: str,
    captions: Sequence[str] = (),
) -> Figure:
    """Draw the maps of large kernel attention of each stage, one image per row (Fig. 9).

    Args:
        pictures: What the network saw, RGB from 0 to 1, each of shape (H, W, 3).
        maps: For each heading, the maps of all images, shape (B, h, w), not negative; each has its own range of
            colours, which is written below it.
        title: Line above the sheet.
        captions: A few short lines below each image.
    """
    names = [f"{name}\n{_size(m)} map" for name, m in maps.items()]
    lines = max((text.count("\n") + 1 for text in captions), default=1)
    figure, grid = _grid(len(pictures), ["image", *names], pictures, title, lines, _ATTENTION_NOTE)
    for row, picture in enumerate(pictures):
        grid[row, 0].imshow(picture)
        grid[row, 0].set_xlabel(_lines(captions[row], 30) if captions else "", fontsize=8)
        height, width = picture.shape[:2]
        for axes, heat in zip(grid[row, 1:], (m[row] for m in maps.values()), strict=True):
            low, high = float(heat.min()), float(heat.max())
            axes.imshow(heat, cmap=_MAP, extent=(0, width, height, 0))
            below = f"values {low:.2g} to {high:.2g}" if high > 0 else "zero everywhere"
            axes.set_xlabel(below if high > low or high == 0 else f"{low:.2g} everywhere", fontsize=8)
    colours = ScalarMappable(Normalize(0, 1), colormaps[_MAP])
    _bar(figure, grid, colours, "|attention|, mean over channels", ("smallest\nof the map", "largest\nof the map"))
    return figure


@rc_context({"font.family": FONTS})
def receptive_field_plot(
    fields: Mapping[str, ReceptiveField], title: str, notes: Mapping[str, str] | None = None
) -> Figure:
    """Draw effective receptive fields side by side, and how the area of a square grows with the energy it holds.

    The squares drawn hold 20 (dotted), 30, 50 and 99 % (solid line) of the energy.

    Args:
        fields: For each name of a network.
        title: Line above the panels.
        notes: Lines below the panels, by name of the network.
    """
    figure = Figure(figsize=(3.4 * len(fields) + 5.0, 4.4), layout="constrained")
    figure.suptitle(plain_text(title, 40 * (len(fields) + 1)))
    places = figure.add_gridspec(2, len(fields) + 1, width_ratios=[1.0] * len(fields) + [1.1], height_ratios=(1, 0.2))
    panels, texts = ([figure.add_subplot(places[row, i]) for i in range(len(fields))] for row in range(2))
    curve = figure.add_subplot(places[:, -1])
    logs = {name: _blocks(field.energy) for name, field in fields.items()}
    top = max(float(log.max()) for log in logs.values())
    norm = LogNorm(top * 1e-6, top)
    for axes, text, (name, field) in zip(panels, texts, fields.items(), strict=True):
        height, width = field.energy.shape
        axes.imshow(
            np.maximum(logs[name], top * 1e-6), cmap=_HEAT, norm=norm, extent=(0, width, height, 0),
            interpolation="nearest",
        )  # fmt: skip
        ratios = field.area_ratios()
        for share, style in zip(ratios, _STYLES, strict=True):
            side = square_side(field.energy, share)
            corner = (width // 2 + 0.5 - side / 2, height // 2 + 0.5 - side / 2)
            edge = Rectangle(corner, side, side, fill=False, linestyle=style, color="white", linewidth=1.1)
            edge.set_path_effects([withStroke(linewidth=2.5, foreground="black")])
            axes.add_patch(edge)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_xlabel("pixel", fontsize=8)
        axes.set_ylabel("pixel", fontsize=8)
        axes.set_title(plain_text(name, 34), fontsize=10, fontweight="bold")
        first, second, third, last = (f"{100 * share:.0f} %: {100 * ratio:.2g} %" for share, ratio in ratios.items())
        below = f"share of the energy: area of its square\n···· {first}     -·- {second}\n- - {third}     — {last}\n"
        text.set_axis_off()
        text.text(0.5, 1, below + (notes or {}).get(name, ""), ha="center", va="top", fontsize=8)
        axes.tick_params(labelsize=8)
    shown = ScalarMappable(norm, colormaps[_HEAT])
    bar = figure.colorbar(shown, ax=[*panels, *texts], location="left", shrink=0.7, aspect=30, panchor=False)
    bar.set_label("share of the energy in a pixel (log scale)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    shares = np.linspace(0.02, 1.0, 99)
    colours = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
    markers = "osD^v*"
    for i, (name, field) in enumerate(fields.items()):
        sides = [field.area_ratios([share])[share] for share in shares]
        curve.plot(
            100 * shares, [100 * side for side in sides], color=colours[i % 6], marker=markers[i % 6], markevery=14,
            markersize=4, label=plain_text(name, 30),
        )  # fmt: skip
    curve.set(
        xlabel="share of the energy (%)", ylabel="area of the square (% of the image)", yscale="log", xlim=(0, 100)
    )
    curve.yaxis.set_major_formatter("{x:g}")
    curve.set_title("Smallest square that holds a share", fontsize=10)
    for share, style in zip(SHARES, _STYLES, strict=True):
        curve.axvline(100 * share, color="0.6", linestyle=style, linewidth=0.8, zorder=0)
    curve.grid(alpha=0.3)
    curve.legend(fontsize=8)
    return figure


def _blocks(energy: np.ndarray, side: int = 280) -> np.ndarray:
    """Average a map over blocks of pixels, so that it does not look like dots; the unit stays the share of a pixel."""
    height, width = energy.shape
    step = max(1, min(height, width) // side)
    cut = energy[: height // step * step, : width // step * step]
    return cut.reshape(height // step, step, width // step, step).mean(axis=(1, 3))
