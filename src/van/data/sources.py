"""Open labelled images by path or name: class folders, tar files, WebDataset shards, torchvision and Hugging Face sets.

The reading itself is timm's; here a path or name is recognised, the parts (train, val) are found and class names compared.
"""

import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data import IterableImageDataset, create_dataset
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from van.data.images import ImageLike, read_image
from van.data.samples import Samples, SampleSubset
from van.errors import DataError

_PART_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval", "evaluation", "test"),
}


class FolderSamples(Samples):
    """Images in class folders; the name of the folder is the name of the class.

    Args:
        folder: The folder that holds the class folders.

    Raises:
        DataError: there are no class folders, one has no images, or a folder cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
        if not classes:
            raise DataError(
                f"{folder} has no class folders. Expected one folder per class with its images inside, or train and val "
                "folders of that form."
            )
        for name in classes:
            with os.scandir(folder / name) as entries:  # a folder that may not be opened must not look empty
                next(entries, None)
        try:
            reader = ReaderImageFolder(str(folder))
        except RuntimeError as error:
            raise DataError(
                f"{folder} has no images in its class folders. Known endings are {' '.join(get_img_extensions())}."
            ) from error
        loose = next((path for path, _ in reader.samples if Path(path).parent == folder), None)
        if loose:
            raise DataError(f"{loose} lies outside the class folders. Move it into the folder of its class, or away.")
        used = {part for path, _ in reader.samples for part in Path(path).relative_to(folder).parts[:1]}
        empty = [name for name in classes if name not in used]
        if empty:
            raise DataError(
                f"{folder / empty[0]} has no images ({len(empty)} such class folders). Add images or remove the folder. "
                f"Known endings are {' '.join(get_img_extensions())}."
            )
        names = sorted(reader.class_to_idx, key=lambda name: reader.class_to_idx[name])
        super().__init__([target for _, target in reader.samples], names)
        self._paths = [path for path, _ in reader.samples]

    def load(self, index: int) -> ImageLike:
        """Return the path of an image."""
        return self._paths[index]

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return self._paths[index]


class TarSamples(Samples):
    """Images in a tar file of class folders, or a folder of tar files, one per class.

    Raises:
        DataError: there is no tar file, it is broken, or holds no images.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._reader = ReaderImageInTar(str(path))
        except (tarfile.TarError, OSError, ValueError, AssertionError) as error:
            raise DataError(f"{path} cannot be read as a tar file of class folders with images ({error}).") from error
        self._path = path
        names = sorted(self._reader.class_name_to_idx, key=lambda name: self._reader.class_name_to_idx[name])
        super().__init__([int(target) for target in self._reader.targets], names)

    def load(self, index: int) -> ImageLike:
        """Return the bytes of an image."""
        try:
            with self._reader[index][0] as file:
                return file.read()
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"{self.name(index)} cannot be read ({error}).") from error

    def name(self, index: int) -> str:
        """Return the tar file and the path inside it."""
        return f"{self._path}:{self._reader.filename(index)}"


class TorchvisionSamples(Samples):
    """One part of a torchvision data set by timm's name, such as torch/cifar10; downloaded where that is possible.

    Raises:
        DataError: there is no such set, or it is neither on disk nor to be downloaded.
    """

    def __init__(self, name: str, root: str, part: str) -> None:
        try:
            self._dataset = create_dataset(
                name, root=root, split="train" if part == "train" else "validation", download=True
            )
        except (OSError, RuntimeError, AssertionError, TypeError) as error:
            raise DataError(
                f"{name} cannot be opened in {root}: {error or type(error).__name__}. Check the name (torch/cifar10, "
                "torch/cifar100, torch/mnist, torch/fashion_mnist, ...), --data-root and the network."
            ) from error
        labels, names = getattr(self._dataset, "targets", None), getattr(self._dataset, "classes", None)
        if labels is None or names is None:
            raise DataError(f"{name} has no list of labels and class names. Export it to class folders.")
        super().__init__([int(label) for label in labels], [n if isinstance(n, str) else n[0] for n in names])
        self._name = f"{name} {part}"

    def load(self, index: int) -> ImageLike:
        """Return the PIL image of an index."""
        return self._dataset[index][0]

    def name(self, index: int) -> str:
        """Return the set, the part and the index."""
        return f"{self._name} {index}"


class HuggingFaceSamples(Samples):
    """One split of a data set of the Hugging Face hub or of a local folder that `datasets` can load.

    Raises:
        DataError: `datasets` is not installed, or the set cannot be loaded or has no image and class label column.
    """

    def __init__(self, name: str, cache: str | None, split: str) -> None:
        datasets = _datasets()
        from timm.data.readers.reader_hfds import ReaderHfds

        features = datasets.load_dataset_builder(name, cache_dir=cache).info.features
        if features is None:
            features = datasets.load_dataset(name, split=split, cache_dir=cache).features
        images = [k for k, f in features.items() if isinstance(f, datasets.Image)]
        labels = [k for k, f in features.items() if isinstance(f, datasets.ClassLabel)]
        if not images or not labels:
            raise DataError(
                f"hfds/{name} needs an Image and a ClassLabel column, its columns are {', '.join(features)}."
            )
        self._reader = ReaderHfds(name, root=cache, split=split, input_key=images[0], target_key=labels[0])
        super().__init__(list(self._reader.dataset[labels[0]]), features[labels[0]].names)
        self._name = f"hfds/{name} {split}"

    def load(self, index: int) -> ImageLike:
        """Return the bytes of an image."""
        with self._reader[index][0] as file:
            return file.read()

    def name(self, index: int) -> str:
        """Return the set, the split and the index."""
        return f"{self._name} {index}"


class _AsImage:
    """Transform for streams, whose images arrive decoded but in any colour mode."""

    def __init__(self, transform: Callable[[Any], torch.Tensor], mode: str) -> None:
        self.transform = transform
        self.mode = mode

    def __call__(self, image: Any) -> torch.Tensor:
        return self.transform(read_image(image, self.mode))


@dataclass
class Shards:
    """WebDataset shards of one part: images and `.cls` class numbers, read in sequence.

    timm's reader skips samples that it cannot decode, with a warning in the log.

    Attributes:
        folder: Where the shards are.
        files: Their names.
        labels: Class number of every sample, in order.
        class_names: One name per class number; lines of classes.txt in the folder, else the numbers.
        numbers: Class number to give for each one in the shards; None gives them as they are.
    """

    folder: Path
    files: list[str]
    labels: list[int]
    class_names: list[str]
    numbers: list[int] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def missing_classes(self) -> list[str]:
        """Return the names of the classes without any image."""
        present = set(self.labels)
        return [name for i, name in enumerate(self.class_names) if i not in present]

    def dataset(
        self,
        transform: Callable[[Any], torch.Tensor],
        mode: str,
        training: bool = False,
        batch_size: int = 1,
        workers: int = 0,
        seed: int = 0,
    ) -> IterableImageDataset:
        """Return the iterable data set; shuffled and cut to whole batches for training.

        Raises:
            DataError: webdataset is not installed.
        """
        dataset = IterableImageDataset(
            str(self.folder),
            reader="wds/shards",
            split="::".join(self.files) + f"|{len(self)}",
            is_training=training,
            batch_size=batch_size,
            seed=seed,
            input_img_mode="",  # converted by _AsImage, which knows more modes
            transform=_AsImage(transform, mode),
            target_transform=self.numbers and self.numbers.__getitem__,
        )
        dataset.set_loader_cfg(num_workers=max(1, workers))
        return dataset


Source = Samples | Shards


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "Hugging Face data sets need the package `datasets`: pip install 'visual-attention-network[datasets]'"
        ) from error
    return datasets


def _open_shards(folder: Path, files: Sequence[str]) -> Shards:
    """Read the class numbers out of shards; image data is skipped over."""
    try:
        import webdataset  # noqa: F401
    except ImportError as error:
        raise DataError(
            "WebDataset shards need the package `webdataset`: pip install 'visual-attention-network[datasets]'"
        ) from error
    labels = []
    for file in files:
        try:
            with tarfile.open(folder / file) as tar:
                for member in tar:
                    if member.name.endswith(".cls") and (content := tar.extractfile(member)):
                        labels.append(int(content.read()))
        except (tarfile.TarError, ValueError, OSError) as error:
            raise DataError(f"{folder / file} cannot be read as a WebDataset shard ({error}).") from error
    if not labels or min(labels) < 0:
        raise DataError(f"{folder} has no class numbers (members ending in .cls, 0 or more) in its shards.")
    listed = folder / "classes.txt"
    names = listed.read_text().split("\n") if listed.is_file() else [str(i) for i in range(max(labels) + 1)]
    names = [name.strip() for name in names if name.strip()]
    if max(labels) >= len(names):
        raise DataError(f"{listed} has {len(names)} names, but class number {max(labels)} occurs. Complete the list.")
    return Shards(folder, list(files), labels, names)


def _is_shard(path: Path) -> bool:
    try:
        with tarfile.open(path) as tar:
            return any(member.name.endswith(".cls") for member, _ in zip(tar, range(10), strict=False))
    except (tarfile.TarError, OSError):
        return False


def _open_folder_of_tars(folder: Path, tars: list[Path]) -> dict[str, Source]:
    """Open WebDataset shards (train*.tar, val*.tar or all), train.tar and val.tar, or one tar file per class."""
    by_part = {
        part: [t for t in tars if t.stem.lower().startswith(tuple(names))] for part, names in _PART_NAMES.items()
    }
    if _is_shard(tars[0]):
        found = {part: files for part, files in by_part.items() if files} or {"all": tars}
        return {part: _open_shards(folder, [f.name for f in files]) for part, files in found.items()}
    if by_part["train"]:
        return {part: TarSamples(files[0]) for part, files in by_part.items() if len(files) == 1}
    return {"all": TarSamples(folder)}


def _open_path(path: Path) -> dict[str, Source]:
    if not path.exists():
        raise DataError(
            f"{path} does not exist. --data takes digits, a folder, a .tar file, torch/NAME, hfds/NAME or wds/FOLDER."
        )
    if path.is_file():
        if _is_shard(path):
            return {"all": _open_shards(path.parent, [path.name])}
        samples = TarSamples(path)
        by_part = {
            part: [i for i in range(len(samples)) if set(Path(samples.name(i).split(":")[-1]).parts) & set(names)]
            for part, names in _PART_NAMES.items()
        }
        if all(by_part.values()):
            return {part: SampleSubset(samples, indices) for part, indices in by_part.items()}
        return {"all": samples}
    parts: dict[str, Source] = {}
    for part, names in _PART_NAMES.items():
        folder = next((path / name for name in names if (path / name).is_dir()), None)
        if folder is not None:
            tars = sorted(folder.glob("*.tar"))
            if tars and _is_shard(tars[0]):
                parts[part] = _open_shards(folder, [t.name for t in tars])
            else:
                parts[part] = FolderSamples(folder)
    if parts:
        return parts
    tars = sorted(path.glob("*.tar"))
    return _open_folder_of_tars(path, tars) if tars else {"all": FolderSamples(path)}


def open_data(data: str, root: str | None = None) -> dict[str, Source]:
    """Open labelled images.

    Args:
        data: "digits" (built in), a folder of class folders (or of train and val folders of them), a .tar file, a folder
            with WebDataset shards, "torch/NAME" for torchvision's, "hfds/NAME" for Hugging Face's, or "wds/FOLDER".
        root: Where torch/NAME is stored or downloaded ("data" if None); cache folder for hfds/NAME.

    Returns:
        The parts by name: "train" and "val" as far as the data has them, or "all".

    Raises:
        DataError: the data does not exist, is not readable, or is not of a known form.
    """
    if data == "digits":
        from van.data import digits

        train, val = digits.load_split()
        return {"train": train, "val": val}
    kind, _, name = data.partition("/")
    if kind == "torch" and not Path(data).exists():
        return {part: TorchvisionSamples(data, root or "data", part) for part in ("train", "val")}
    if kind == "hfds" and not Path(data).exists():
        datasets = _datasets()
        try:
            splits = datasets.get_dataset_split_names(name)
            found = {p: next((n for n in names if n in splits), None) for p, names in _PART_NAMES.items()}
            chosen = {p: s for p, s in found.items() if s} or {"all": splits[0]}
            return {part: HuggingFaceSamples(name, root, split) for part, split in chosen.items()}
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{data} cannot be loaded ({error}). Check the name, the network and its columns.") from error
    if kind == "wds" and not Path(data).exists():
        return _open_path(Path(name))
    return _open_path(Path(data))


def relabel(source: Source, class_names: Sequence[str], what: str) -> None:
    """Number the classes of a source as in class_names, by name.

    Args:
        source: Changed in place.
        class_names: The wanted order.
        what: What the names come from, for the error.

    Raises:
        DataError: the source has a class that class_names lacks.
    """
    numbers = {name: i for i, name in enumerate(class_names)}
    present = sorted({source.class_names[label] for label in set(source.labels)} - numbers.keys())
    if present:
        shown = ", ".join(present[:5]) + (", ..." if len(present) > 5 else "")
        raise DataError(
            f"{len(present)} classes of the data are unknown to {what}: {shown}. It knows {len(class_names)} classes "
            f"({', '.join(class_names[:5])}{', ...' if len(class_names) > 5 else ''})."
        )
    if isinstance(source, Shards):
        source.numbers = [numbers.get(name, -1) for name in source.class_names]
    source.labels = [numbers[source.class_names[label]] for label in source.labels]
    source.class_names = list(class_names)
