"""Hugging Face data sets that are streamed: Parquet files are read where they lie, one group of rows at a time."""

import os
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any, cast

from van.data.images import ImageLike
from van.data.loaders import STREAMS
from van.data.samples import Samples
from van.errors import DataError

_MOST_KEPT = 2 * STREAMS  # groups of rows; each stream may be between two


class ParquetSamples(Samples):
    """Images in Parquet files on the Hugging Face hub or on disk, of which only what is needed is read.

    The footers and the labels are read at once, images with the rest of their group of rows when they are asked for. A
    group is kept until all its images were, so who asks as van.data.loaders.BlockBatches does reads every group once.

    Args:
        files: Paths or URLs that fsspec opens, such as hf://datasets/NAME/train.parquet.
        name: What to call the split in messages.

    Attributes:
        blocks: Number of images in each group of rows, in order.

    Raises:
        DataError: a file cannot be read, or has no image and class label column.
    """

    blocks: list[int]

    def __init__(self, files: list[str], name: str) -> None:
        import datasets

        self._name = name
        self._groups: list[tuple[str, int]] = []
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._asked: Counter[int] = Counter()
        self._open: dict[tuple[int, str], Any] = {}
        self.blocks = []
        labels: list[int] = []
        names: list[str] | None = None
        for file in files:
            parquet = self._parquet(file)
            features = datasets.Features.from_arrow_schema(parquet.schema_arrow)
            images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
            classes = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
            if not images or not classes:
                raise DataError(
                    f"{file} needs an Image and a ClassLabel column, its columns are {', '.join(features)}."
                )
            names = names or list(features[classes[0]].names)
            if features[classes[0]].names != names:
                raise DataError(f"{file} has other class names than {files[0]}. Write all files with the same ones.")
            self._column = images[0]
            numbers = parquet.read(columns=[classes[0]]).column(0).to_pylist()
            if without := sum(number is None or number < 0 for number in numbers):
                raise DataError(f"{file} has {without} images without a label. Choose another data set.")
            labels += numbers
            for group in range(parquet.num_row_groups):
                self._groups.append((file, group))
                self.blocks.append(parquet.metadata.row_group(group).num_rows)
        if not labels:
            raise DataError(f"{name} is empty. Choose another data set.")
        self._starts = list(accumulate(self.blocks, initial=0))
        super().__init__(labels, names or [])

    def load(self, index: int) -> ImageLike:
        """Return the bytes of an image."""
        block = bisect_right(self._starts, index) - 1
        if block not in self._kept:
            self._kept[block] = self._read(block)
            if len(self._kept) > _MOST_KEPT:
                self._asked.pop(self._kept.popitem(last=False)[0], None)
        self._kept.move_to_end(block)
        image = self._kept[block][index - self._starts[block]].as_py()
        self._asked[block] += 1
        if self._asked[block] == self.blocks[block]:
            del self._kept[block], self._asked[block]
        if image is None or image["bytes"] is None:
            raise DataError(f"{self.name(index)} has no image inside the file. Only images in Parquet can be streamed.")
        return image["bytes"]

    def name(self, index: int) -> str:
        """Return the set, the split and the index."""
        return f"{self._name} {index}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_kept": OrderedDict(), "_asked": Counter()}

    def _read(self, block: int) -> Any:
        file, group = self._groups[block]
        try:
            return self._parquet(file).read_row_group(group, columns=[self._column]).column(0)
        except OSError as error:
            raise DataError(f"{file} cannot be read ({error}). Check the network, and resume.") from error

    def _parquet(self, file: str) -> Any:
        """Return an open Parquet file. A loading process opens its own: one that it inherits is read by others, too."""
        key = os.getpid(), file
        if key not in self._open:
            import fsspec
            from pyarrow import ArrowInvalid
            from pyarrow.parquet import ParquetFile

            try:
                self._open[key] = ParquetFile(cast(Any, fsspec.open(file)).open(), pre_buffer=True)
            except (OSError, ArrowInvalid) as error:
                raise DataError(f"{file} cannot be read as a Parquet file ({error}). Get it again.") from error
        return self._open[key]


def open_streamed(name: str, cache: str | None) -> dict[str, Callable[[], ParquetSamples]]:
    """Return what opens the splits of a data set on the hub, or of a folder, whose files are Parquet.

    Args:
        name: Name of the set, or a folder.
        cache: Where `datasets` keeps what it reads about the set; the set itself is not stored.

    Raises:
        DataError: its files are of another format.
    """
    import datasets

    builder = datasets.load_dataset_builder(name, cache_dir=cache)
    files: Any = builder.config.data_files
    if not files or not all(str(file).endswith(".parquet") for some in files.values() for file in some):
        raise DataError(f"hfids/{name} is not in Parquet, and only Parquet can be streamed. Use hfds/{name}.")
    return {
        str(split): partial(ParquetSamples, [str(file) for file in some], f"hfids/{name} {split}")
        for split, some in files.items()
    }
