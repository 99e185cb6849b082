"""Options that say how the files of a data set are to be read, free of torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from van.data.folders import Split

if TYPE_CHECKING:
    from van.data.semantic import SemanticSplit

IGNORED = 255
"""Label of pixels that are ignored, whatever marks them in the files."""

TargetKind = Literal["single-label", "multi-label", "regression"]
"""What the label of an image is: one class, any number of classes, or numbers."""


@dataclass
class SemanticFormat:
    """How to read the masks of a data set for semantic segmentation.

    Attributes:
        classes: File with the class names, one per line; by default classes.txt or ADE20K's objectInfo150.txt.
        reduce_zero_label: In the masks, 0 marks ignored pixels and the first class is 1; by default only for ADE20K's
            objectInfo150.txt.
        ignore_index: Value in the masks that marks ignored pixels, in addition to 255.
    """

    classes: str | None = None
    reduce_zero_label: bool | None = None
    ignore_index: int = IGNORED

    def find(self, folder: str | Path) -> "Callable[[], dict[Split, SemanticSplit]]":
        """Find images and labels, and return what reads the splits; see recognize_semantic."""
        from van.data.semantic import recognize_semantic

        return recognize_semantic(folder, self.classes, self.reduce_zero_label, self.ignore_index)
