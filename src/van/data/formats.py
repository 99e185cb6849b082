"""How the files of data sets are read, as options. Importing this module loads no heavy library."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from van.data.pairs import Split
    from van.data.semantic import SemanticSplit


@dataclass
class SemanticFormat:
    """How the files of a data set for semantic segmentation are read.

    Attributes:
        classes: File with the names of the classes, one per line; by default classes.txt or ADE20K's objectInfo150.txt.
        reduce_zero_label: In the files 0 marks pixels that are ignored, and the first class is 1; by default only where
            the classes are those of objectInfo150.txt.
        ignore_index: Value in the files that marks pixels to be ignored; 255 does as well.
    """

    classes: str | None = None
    reduce_zero_label: bool | None = None
    ignore_index: int = 255

    def find(self, folder: str | Path, split: "Split") -> "SemanticSplit":
        """Find the images and masks of a split; see van.data.semantic.find_semantic."""
        from van.data.semantic import find_semantic

        return find_semantic(folder, split, self.classes, self.reduce_zero_label, self.ignore_index)

    def find_all(self, folder: str | Path) -> "dict[Split, SemanticSplit]":
        """Find the images and masks of all splits; see van.data.semantic.find_semantic_splits."""
        from van.data.semantic import find_semantic_splits

        return find_semantic_splits(folder, self.classes, self.reduce_zero_label, self.ignore_index)
