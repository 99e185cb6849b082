"""Open labeled images by path or name: class folders, CSV files, tar files, shards, torchvision and Hugging Face sets.

timm lists the files; this module recognizes a path or name and finds the splits.
"""

import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from timm.data import create_dataset
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from timm.utils import natural_key
from torch.utils.data import DataLoader, Dataset

from van.data.checks import Problem
from van.data.classes import match_classes
from van.data.folders import SPLIT_FOLDERS, files_below, identity, refuse_url
from van.data.formats import TargetKind
from van.data.images import ImageLike
from van.data.kinds import REGRESSION
from van.data.loaders import as_is, loading_processes
from van.data.parquet import open_streamed
from van.data.processes import loading_errors
from van.data.samples import Samples, SampleSubset, find_problems
from van.data.tables import ENDINGS, TableSamples, has_labels, open_tables
from van.errors import DataError

_FEW_SHARDS = 8  # up to this many, starting processes takes longer than it saves
_LONGEST_LABEL = 20  # bytes of a .cls member
_SPLIT_NAMES = {"train": SPLIT_FOLDERS["train"], "val": (*SPLIT_FOLDERS["val"], "eval", "evaluation")}
_SUPPORTED = (
    "digits, a folder of class folders, a .csv file with the columns image and label, a .tar file, a folder of "
    "WebDataset shards, torch/NAME, hfds/NAME or hfids/NAME"
)


def _split_names(found: Iterable[str]) -> dict[str, str]:
    """Return the splits among names in any case, as split: name. Of val, valid, test, ... only the first is taken."""
    known = {name.lower(): name for name in sorted(found)}
    first = {
        split: next((known[name] for name in names if name in known), None) for split, names in _SPLIT_NAMES.items()
    }
    return {split: name for split, name in first.items() if name is not None}


def _hidden(path: PurePath) -> bool:
    """Whether a file or a folder above it is hidden, such as the ._ files that macOS writes beside images."""
    return any(split.startswith(".") and split not in (".", "..") for split in path.parts)


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not _hidden(Path(path.name)))


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if not _hidden(Path(path.name)))


class FolderSamples(Samples):
    """Images in class folders; folder names are class names. Hidden files and folders are left out.

    Args:
        folder: The folder of the class folders, which may have subfolders.

    Raises:
        DataError: there are no class folders, one has no images or cannot be opened, there are images beside them, or a
            link leads to a folder whose images are found anyway.
    """

    def __init__(self, folder: Path) -> None:
        known = get_img_extensions(as_set=True)
        endings = f"Known file endings are {' '.join(get_img_extensions())}."
        try:
            classes = sorted(_subfolders(folder), key=natural_key)
            others = sorted(path for path in folder.iterdir() if path.suffix.lower() in known and not path.is_dir())
            loose = next((path for path in others if not path.name.startswith(".")), None)
            identities = {identity(folder): ""}
            for name in classes:
                own = identity(folder / name)
                if own in identities:
                    raise DataError(
                        f"{folder / name} and {folder / identities[own]} are the same folder. Remove the link to it."
                    )
                identities[own] = name
        except OSError as error:
            raise DataError(f"{error.filename} cannot be opened ({error.strerror}). Check its permissions.") from error
        if not classes:
            raise DataError(
                f"{folder} has no class folders. Expected one folder of images per class, or train and val folders of "
                "such class folders."
            )
        if loose:
            raise DataError(
                f"{loose} is outside the class folders. Move it into the folder of its class, or elsewhere."
            )
        inside = {
            name: sorted(files_below(folder / name, known, identities.keys()), key=natural_key) for name in classes
        }
        if empty := [name for name, paths in inside.items() if not paths]:
            raise DataError(
                f"{folder / empty[0]} has no images ({len(empty)} such class folders). Add images or remove the "
                f"folder. {endings}"
            )
        super().__init__([label for label, name in enumerate(classes) for _ in inside[name]], classes)
        self._paths = [path for name in classes for path in inside[name]]

    def load(self, index: int) -> ImageLike:
        """Return the path of an image."""
        return self._paths[index]

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return self._paths[index]


class PackedSamples(Samples):
    """Images inside tar files, which are indexed once and then read by their place in the file.

    The tar file is opened anew for every image, so loading processes share nothing. Nothing is ever unpacked.

    Args:
        labels: Label of each image.
        class_names: Names in the order of the labels.
        files: The tar file of each image.
        names: Path of each image inside it.
        spans: First byte and size of each image.
    """

    def __init__(
        self,
        labels: Sequence[int],
        class_names: Sequence[str],
        files: Sequence[Path],
        names: Sequence[str],
        spans: Sequence[tuple[int, int]],
    ) -> None:
        super().__init__(labels, class_names)
        self._files = list(files)
        self._names = list(names)
        self._spans = np.array(spans, np.int64)  # a list of tuples would be copied into every loading process

    def load(self, index: int) -> ImageLike:
        """Return the bytes of an image."""
        start, size = self._spans[index].tolist()
        try:
            with self._files[index].open("rb") as file:
                file.seek(start)
                return file.read(size)
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read ({error}).") from error

    def name(self, index: int) -> str:
        """Return the tar file and the path inside it."""
        return f"{self._files[index]}:{self._names[index]}"


def _refuse_cut(tar: Path) -> None:
    """Raise DataError if a tar file is not made of whole blocks: tarfile silently stops at a truncated header."""
    if tar.stat().st_size % tarfile.BLOCKSIZE:
        raise DataError(f"{tar} is not a plain tar file; it may be compressed or truncated. Get or create it again.")


class TarSamples(PackedSamples):
    """Images in a tar file of class folders, or a folder of tar files, one per class.

    The innermost folder (or tar file) is the class. Hidden files are left out.

    Raises:
        DataError: there is no tar file, it is broken, has no images, or has images outside of class folders.
    """

    def __init__(self, path: Path) -> None:
        if path.is_file() and path.suffix.lower() != ".tar":
            raise DataError(f"{path} is not a supported data set. Expected {_SUPPORTED}; unpack other archives.")
        try:
            for tar in [path] if path.is_file() else _tars(path):
                _refuse_cut(tar)
            # without a cache, which timm would write beside the data
            members = ReaderImageInTar(str(path), cache_tarinfo=False).samples
        except ValueError as error:  # timm unpacks an empty list
            raise DataError(
                f"{path} has no images. Known file endings are {' '.join(get_img_extensions())}."
            ) from error
        except (tarfile.TarError, OSError, AssertionError) as error:
            raise DataError(
                f"{path} cannot be read as a tar file; it may be damaged ({error}). Download or create it again."
            ) from error
        files, paths, spans, classes = [], [], [], []
        for member, file, child in members:
            inside = PurePosixPath(member.name)
            if _hidden(inside):
                continue
            parents = [PurePosixPath(tar).stem for tar in (file, child and child.name) if tar] + list(inside.parts[:-1])
            if not parents:
                raise DataError(
                    f"{path}:{inside} is outside the class folders. Pack it inside the folder of its class."
                )
            classes.append(parents[-1])
            files.append(path / file if file else path)
            paths.append(str(inside))
            spans.append((member.offset_data + (child.offset_data if child else 0), member.size))
        if not classes:
            raise DataError(f"{path} has only hidden files. Pack the images themselves.")
        names = sorted(set(classes), key=natural_key)
        numbers = {name: number for number, name in enumerate(names)}
        super().__init__([numbers[name] for name in classes], names, files, paths, spans)

    def folders(self, index: int) -> tuple[str, ...]:
        """Return the folders inside the tar file that lead to an image."""
        return PurePosixPath(self._names[index]).parts[:-1]


class TorchvisionSamples(Samples):
    """One split of a torchvision data set by timm's name, such as torch/cifar10; downloaded if necessary and possible.

    Raises:
        DataError: there is no such set, or it is not on disk and cannot be downloaded.
    """

    def __init__(self, name: str, root: str, split: str) -> None:
        try:
            self._dataset = create_dataset(
                name, root=root, split="train" if split == "train" else "validation", download=True
            )
        except (OSError, RuntimeError, AssertionError, TypeError) as error:
            raise DataError(
                f"{name} cannot be opened in {root}: {error or type(error).__name__}. Check the name (torch/cifar10, "
                "torch/cifar100, torch/mnist, torch/fashion_mnist, ...), --data-root and the network."
            ) from error
        labels, names = getattr(self._dataset, "targets", None), getattr(self._dataset, "classes", None)
        if labels is None or names is None or np.ndim(labels) != 1:
            raise DataError(f"{name} has no labels and class names. Export it to class folders.")
        super().__init__([int(label) for label in labels], [n if isinstance(n, str) else ", ".join(n) for n in names])
        self._name = f"{name} {split}"

    def load(self, index: int) -> ImageLike:
        """Return the PIL image of an index."""
        return self._dataset[index][0]

    def name(self, index: int) -> str:
        """Return the set, the split and the index."""
        return f"{self._name} {index}"


class HuggingFaceSamples(Samples):
    """One split of a data set on the Hugging Face hub, or of a local folder that `datasets` can load.

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
        numbers = list(self._reader.dataset[labels[0]])
        self._name = f"hfds/{name} {split}"
        if not numbers:
            raise DataError(f"{self._name} is empty. Choose another data set.")
        if without := sum(number is None or number < 0 for number in numbers):
            raise DataError(f"{self._name} has {without} images without a label. Choose another data set.")
        super().__init__(numbers, features[labels[0]].names)

    def load(self, index: int) -> ImageLike:
        """Return the bytes of an image."""
        try:
            with self._reader[index][0] as file:
                return file.read()
        except (OSError, TypeError, AssertionError) as error:  # timm expects that every row has an image
            raise DataError(f"{self.name(index)} has no image that can be read ({error!r}). Remove it.") from error

    def name(self, index: int) -> str:
        """Return the set, the split and the index."""
        return f"{self._name} {index}"


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "Hugging Face data sets need the package `datasets`: pip install 'visual-attention-network[datasets]'"
        ) from error
    return datasets


def _open_shards(folder: Path, files: Sequence[str]) -> Samples:
    """Index WebDataset shards: images and `.cls` labels under the same name. Only their headers and labels are read.

    The names of the classes are the lines of classes.txt in the folder, else numbers.
    """
    labels: list[int] = []
    tars, names, spans = [], [], []
    paths = [folder / file for file in files]
    processes = loading_processes(None) if len(paths) > _FEW_SHARDS else 0
    loader = DataLoader(_Shards(paths), batch_size=None, num_workers=processes, collate_fn=as_is)
    with loading_errors():
        for path, index in zip(paths, loader, strict=True):
            for label, name, span in index:
                labels.append(label)
                tars.append(path)
                names.append(name)
                spans.append(span)
    if not labels or min(labels) < 0:
        raise DataError(
            f"{folder} has no labels in its shards. Expected members that end in .cls with a number from 0 up."
        )
    listed = folder / "classes.txt"
    classes = (
        listed.read_text(encoding="utf-8").split("\n") if listed.is_file() else [str(i) for i in range(max(labels) + 1)]
    )
    classes = [name.strip() for name in classes if name.strip()]
    if max(labels) >= len(classes):
        raise DataError(f"{listed} has {len(classes)} names, but the label {max(labels)} occurs. Complete the list.")
    return PackedSamples(labels, classes, tars, names, spans)


class _Shards(Dataset):
    """The index of each shard; see _index_shard."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> list[tuple[int, str, tuple[int, int]]]:
        return list(_index_shard(self.paths[index]))


def _index_shard(path: Path) -> Iterator[tuple[int, str, tuple[int, int]]]:
    """Yield label, name, first byte and size of each image of a shard that has a label."""
    endings = sorted((e.removeprefix(".") for e in get_img_extensions()), key=lambda ending: ending != "jpg")
    preferred = {ending: place for place, ending in enumerate(endings)}  # of several images of a sample one is taken
    labels: dict[str, int] = {}
    images: dict[str, tuple[int, str, tuple[int, int]]] = {}
    try:
        _refuse_cut(path)
        with tarfile.open(path, "r:") as tar:  # in a compressed file there is nothing to find by its place
            for member in tar:
                if not member.isreg():  # links lead elsewhere
                    continue
                ending = member.name.rpartition("/")[2].partition(".")[2]
                name = member.name[: len(member.name) - len(ending) - 1]
                if ending.lower() == "cls" and (content := tar.extractfile(member)):
                    labels[name] = int(content.read(_LONGEST_LABEL))
                elif (place := preferred.get(ending.lower())) is not None:
                    span = (member.offset_data, member.size)
                    images[name] = min((place, member.name, span), images.get(name, (place, member.name, span)))
    except (tarfile.TarError, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as a WebDataset shard ({error}).") from error
    for name, label in labels.items():
        if name not in images:
            raise DataError(f"{path}: {name} has a label but no image. Known file endings are {' '.join(endings)}.")
        yield label, *images[name][1:]


def _is_shard(path: Path) -> bool:
    try:
        with tarfile.open(path) as tar:
            return any(member.name.endswith(".cls") for member, _ in zip(tar, range(10), strict=False))
    except (tarfile.TarError, OSError):
        return False


def _open_folder_of_tars(folder: Path, tars: list[Path]) -> dict[str, Samples]:
    """Open WebDataset shards (train*.tar, val*.tar or all), train.tar and val.tar, or one tar file per class."""
    if len(tars) == 1:
        return _open_tar(tars[0])
    if _is_shard(tars[0]):
        words = {tar.name: set(re.findall("[a-z]+", tar.stem.lower())) for tar in tars}  # train-000, imagenet1k-train-0
        splits = _split_names(set().union(*words.values()))
        found = {split: [name for name in words if word in words[name]] for split, word in splits.items()}
        return {split: _open_shards(folder, names) for split, names in (found or {"all": list(words)}).items()}
    splits = _split_names(tar.stem for tar in tars)
    if len(splits) == 2:
        return {split: TarSamples(folder / f"{stem}.tar") for split, stem in splits.items()}
    return {"all": TarSamples(folder)}


def _open_tar(path: Path) -> dict[str, Samples]:
    if _is_shard(path):
        return {"all": _open_shards(path.parent, [path.name])}
    samples = TarSamples(path)
    splits = _split_names({name for i in range(len(samples)) for name in samples.folders(i)[:-1]})
    if len(splits) < 2:
        return {"all": samples}
    return {
        split: SampleSubset(samples, [i for i in range(len(samples)) if name in samples.folders(i)[:-1]])
        for split, name in splits.items()
    }


def _open_split(folder: Path, tars: list[Path]) -> Samples:
    if not tars:
        return FolderSamples(folder)
    return _open_shards(folder, [tar.name for tar in tars]) if _is_shard(tars[0]) else TarSamples(folder)


def _tables(folder: Path, folders: Sequence[str]) -> dict[str, Path]:
    """Return the CSV files with labels in a folder by their split, all for a single one; none if there are none.

    Raises:
        DataError: it is not clear which of several files to take, or whether to take the class folders.
    """
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in ENDINGS and not _hidden(path)]
    found = {path.stem: path for path in files if path.is_file() and has_labels(path)}
    splits = _split_names(found)
    if "train" in splits:
        found = {split: found[name] for split, name in splits.items()}
    elif len(found) > 1:
        names = ", ".join(path.name for path in found.values())
        raise DataError(f"{folder} has several CSV files with images: {names}. Give the path of one of them.")
    if len(found) == 1:
        own = next(iter(found.values()))
        others = [name for name in folders if name not in ("images", own.stem)]
        if len(others) > 1:
            raise DataError(
                f"{folder} has {own.name} and folders that may be class folders ({', '.join(others[:5])}). Give the "
                "path of the CSV file, or move it elsewhere."
            )
        return {"all": own}
    return found


def _open_path(path: Path, target: TargetKind | None) -> dict[str, Samples]:
    try:
        if path.is_file():
            if path.suffix.lower() in ENDINGS:
                return {**open_tables({"all": path}, target)}
            return _open_tar(path)
        folders = _subfolders(path)
        if tables := _tables(path, folders):
            return {**open_tables(tables, target)}
        tars = _tars(path)
        splits = _split_names(folders)
        inside = {name: _tars(path / name) for name in splits.values()}
        flat = [name for name, packed in inside.items() if not packed and not _subfolders(path / name)]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path} does not exist. Expected {_SUPPORTED}.") from error
    except OSError as error:
        raise DataError(f"{error.filename} cannot be opened ({error.strerror}). Check its permissions.") from error
    if splits and not (flat and len(folders) > len(splits)):  # images inside: a class called train or test
        return {split: _open_split(path / name, inside[name]) for split, name in splits.items()}
    if tars and folders:
        raise DataError(
            f"{path} has both folders and tar files ({folders[0]}, {tars[0].name}). Give one of them, or move "
            "the other elsewhere."
        )
    return _open_folder_of_tars(path, tars) if tars else {"all": FolderSamples(path)}


def open_data(data: str, root: str | None = None, target: TargetKind | None = None) -> dict[str, Samples]:
    """Open labeled images.

    Args:
        data: "digits" (built in), a folder of class folders (or of train and val folders of them), a .csv file (or a
            folder with one, or with train.csv and val.csv), a .tar file, a folder with WebDataset shards, "torch/NAME"
            for torchvision's, "hfds/NAME" for Hugging Face's, "hfids/NAME" for the same without storing them, or
            "wds/FOLDER".
        root: Where torch/NAME is stored or downloaded ("data" if None); cache folder of hfds/NAME.
        target: What labels are, where a CSV file can be read in several ways; None recognizes it.

    Returns:
        The splits by name: "train" and "val" as far as the data has them, or "all".

    Raises:
        DataError: the data does not exist, cannot be read, is of an unknown form, or has labels of another kind.
    """
    splits = _open(data, root, target)
    kind = next(iter(splits.values())).kind
    if target not in (None, kind.name):
        raise DataError(
            f"{data} has one class for each image, which is {kind}, not {target}. Give a CSV file for that."
        )
    return splits


def _open(data: str, root: str | None, target: TargetKind | None) -> dict[str, Samples]:
    """Open labeled images; see open_data."""
    refuse_url(data)
    if data == "digits":
        from van.data import digits

        train, val = digits.load_split()
        return {"train": train, "val": val}
    kind, _, name = data.partition("/")
    if kind == "torch" and not Path(data).exists():
        return {split: TorchvisionSamples(data, root or "data", split) for split in ("train", "val")}
    if kind in ("hfds", "hfids") and not Path(data).exists():
        datasets = _datasets()
        if not name:
            raise DataError(f"{data} does not name a data set. Give {kind}/NAME or {kind}/FOLDER.")
        try:
            if kind == "hfids":
                streamed = open_streamed(name, root)
                chosen = _split_names(streamed) or {"all": next(iter(streamed))}
                return {split: streamed[theirs]() for split, theirs in chosen.items()}
            splits = datasets.get_dataset_split_names(name)
            chosen = _split_names(splits) or {"all": splits[0]}
            return {split: HuggingFaceSamples(name, root, theirs) for split, theirs in chosen.items()}
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{data} cannot be loaded ({error}). Check the name, the network and its columns."
            ) from error
    if kind == "wds" and not Path(data).exists():
        return _open_path(Path(name), target)
    return _open_path(Path(data), target)


def check(splits: Mapping[str, Samples], decode: bool = True, workers: int | None = None) -> list[Problem]:
    """List the problems of all splits of a data set; see `van.data.samples.find_problems` and `open_data`."""
    problems = []
    for name, source in splits.items():
        # one image to train on and one to validate on where the data has no splits
        problems += find_problems(source, decode, workers, few={"all": 2, "train": 1}.get(name, 0))
    return problems + _shared(splits)


def _shared(splits: Mapping[str, Samples]) -> list[Problem]:
    """Return the images of CSV files that are in two splits."""
    problems: list[Problem] = []
    known: dict[str, str] = {}
    for source in splits.values():
        if isinstance(source, TableSamples):
            names = set(map(source.name, range(len(source)))) - {""}
            problems += [
                Problem(name, f"the image is in {known[name]} and in {source.file}")
                for name in sorted(names & known.keys(), key=natural_key)
            ]
            known |= dict.fromkeys(names, source.file)
    return problems


def relabel(source: Samples, class_names: Sequence[str], what: str, known_to: str = "the model") -> None:
    """Replace the labels of a source by those of other class names.

    Args:
        source: Changed in place.
        class_names: Class names, of a model for example.
        what: What to call the source in the message.
        known_to: What the class names belong to, for the message.

    Raises:
        DataError: a class of the source is not among the class names; see `van.data.classes.match_classes`. Or it has
            other numbers.
    """
    kind = source.kind
    if kind is REGRESSION:
        if sorted(source.class_names) != sorted(class_names):
            own, known = (", ".join(names) for names in (source.class_names, class_names))
            raise DataError(f"{what} has the numbers {own}, but {known_to} has {known}. Give data with these columns.")
        places = [list(class_names).index(name) for name in source.class_names]
    else:
        used = set(kind.counts(source.labels))
        places = match_classes(source.class_names, class_names, what, used, known_to)
    source.labels = [kind.renumbered(label, places) for label in source.labels]
    source.class_names = list(class_names)
