"""Labels that a trained network contradicts: suspects to look at, no proof of errors."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from van.data.formats import IGNORED

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from van.engine.drawing import LegendEntry

_SHEET = 18  # suspects on a sheet


@dataclass(frozen=True)
class Suspects:
    """Labels to look at, the most suspicious first.

    Attributes:
        rule: How they were found, in a sentence.
        rows: Of each the image, what was labeled, what was predicted, and a score by which they are sorted.
        draw: Returns the panels of a row, one for each heading.
        caption: Returns the line below them.
        headings: Names of the panels.
        legend: Names and colors.
    """

    rule: str
    rows: list[dict[str, Any]]
    draw: "Callable[[dict[str, Any]], list[Image]]" = field(repr=False)
    caption: Callable[[dict[str, Any]], str] = field(repr=False)
    headings: Sequence[str] = ("",)
    legend: "Sequence[LegendEntry]" = ()

    def write(self, file: Path) -> None:
        """Write all rows as a table."""
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, list(self.rows[0]) if self.rows else ["image"])
            writer.writeheader()
            writer.writerows(self.rows)

    def sheet(self, title: str) -> "Figure | None":
        """Draw the first rows; None where there are none."""
        from van.engine.plots import sheet

        shown = self.rows[:_SHEET]
        if not shown:
            return None
        title = f"{title}: the first {len(shown)} of {len(self.rows)} suspects"
        return sheet(
            [self.draw(row) for row in shown], self.headings, title, self.legend, [self.caption(row) for row in shown]
        )


def disagreement(given: np.ndarray, found: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Compare the labeled and the predicted class of each pixel of an image.

    Args:
        given: Labels (H, W), 255 where there is none.
        found: Predicted labels (H, W), 255 where there is none.
        class_names: Names in the order of the labels.

    Returns:
        The share of the labeled pixels with another class, and of the most frequent such pair both classes and the
        share of its pixels.
    """
    count, known = len(class_names), given != IGNORED
    total = max(1, int(known.sum()))
    differs = known & (given != found)
    pairs = np.bincount(
        given[differs].astype(np.int64) * (count + 1) + np.minimum(found[differs], count), minlength=count * (count + 1)
    )
    label, other = divmod(int(pairs.argmax()), count + 1) if differs.any() else (-1, -1)
    names = [*class_names, "none"]
    return {
        "score": round(float(differs.sum()) / total, 6),
        "labeled": names[label] if differs.any() else "",
        "predicted": names[other] if differs.any() else "",
        "share": round(float(pairs.max(initial=0)) / total, 6),
    }


def pixel_suspects(
    names: Sequence[str],
    differences: Iterable[dict[str, Any]],
    draw: "Callable[[int], list[Image]]",
    rule: str,
    legend: "Sequence[LegendEntry]",
) -> Suspects:
    """Return the images of a split, those first whose pixels differ most from their labels.

    Args:
        names: Path of each image.
        differences: Of each image in order; see disagreement.
        draw: Returns the image of an index, its labels and what is predicted.
        rule: How they are compared.
        legend: Names and colors.
    """
    rows = [{"image": name, **found} for name, found in zip(names, differences, strict=True)]
    rows.sort(key=lambda row: -row["score"])
    places = {name: index for index, name in enumerate(names)}

    def caption(row: dict[str, Any]) -> str:
        pair = f", most {row['labeled']} as {row['predicted']}" if row.get("labeled") else ""
        return f"{100 * row['score']:.1f} %{pair}"

    headings = ("image", "labeled", "predicted")
    return Suspects(rule, rows, lambda row: draw(places[row["image"]]), caption, headings, legend)
