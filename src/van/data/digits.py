"""The built-in data set for classification: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from van.data.samples import Samples, split_samples
from van.data.splits import Division


class DigitSamples(Samples):
    """All digits as grey images, in scikit-learn's order (UCI, Alpaydin and Kaynak)."""

    def __init__(self) -> None:
        digits: Any = load_digits()
        super().__init__([int(label) for label in digits.target], [str(digit) for digit in range(10)])
        self._images = (digits.images * (255 / 16)).round().astype(np.uint8)  # 17 grey levels

    def load(self, index: int) -> np.ndarray:
        """Return the (8, 8) grey image of an index."""
        return self._images[index]

    def name(self, index: int) -> str:
        """Return "digit" and the index in scikit-learn's order."""
        return f"digit {index}"


def load_split() -> tuple[Samples, Samples]:
    """Return the training split (1,437 images) and the validation split (360): always the same, stratified by digit."""
    return split_samples(DigitSamples(), Division())
