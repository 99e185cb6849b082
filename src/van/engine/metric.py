"""Numbers that say how good a network is, with everything that tables and plots need to know about them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation.

    Attributes:
        key: Its name in files and logs, such as "AP50".
        label: What people call it, such as "box AP50".
        unit: "%" for shares from 0 to 1 that are shown in percent; "" for numbers that are shown as they are.
        higher_is_better: Which of two values is the better one.
    """

    key: str
    label: str
    unit: Literal["%", ""] = "%"
    higher_is_better: bool = True

    def better(self, one: float, other: float) -> bool:
        """Return whether the first value is at least as good as the other, so that of equal epochs the later wins."""
        return one >= other if self.higher_is_better else one <= other

    def text(self, value: float | None) -> str:
        """Return a value as people read it; a dash where it is undefined (None, NaN, or -1 as in COCO)."""
        if value is None or value != value or (value == -1 and self.unit == "%"):
            return "-"
        return f"{100 * value:.2f} %" if self.unit == "%" else f"{value:.4g}"
