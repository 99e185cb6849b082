"""Labels of images in CSV files: a row for each image.

| columns besides image | what labels are |
|---|---|
| label | the name of one class; a number is a name, too |
| labels | names of classes with | between them, or nothing |
| several with 0 and 1 | a column for each class |
| numbers | numbers |

What fits several of these is an error, unless the kind of labels is given.
"""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timm.data.readers.img_extensions import get_img_extensions
from timm.utils import natural_key

from van.data.checks import Problem, listed
from van.data.formats import TargetKind
from van.data.images import ImageLike
from van.data.kinds import KINDS, MULTI_LABEL, REGRESSION, SINGLE_LABEL, LabelKind
from van.data.samples import Samples
from van.errors import DataError

ENDINGS = (".csv", ".tsv")
SEPARATOR = "|"
"""Stands between the classes of an image."""

_DELIMITERS = (",", ";", "\t")
_HEAD = 65536  # bytes that the first line may have
_BITS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
_CLASS_WORDS = ("class", "class_id", "classes", "class_label", "category", "category_id", "label_id", "target")
_NAMED = (  # how the kinds are chosen
    "image,label (one class), image,labels (classes with | between them), a column of 0 and 1 for each class, or "
    "columns of numbers (regression)"
)


@dataclass
class Table:
    """The cells of a CSV file.

    Attributes:
        path: The file.
        image: Name of the column with the images.
        columns: Cells by the name of their column, without that of the images; columns without a name are left out.
        images: Cells of the images.
        lines: Line of each row in the file.
        broken: Line and fault of the rows that have too many or too few cells.
    """

    path: Path
    image: str
    columns: dict[str, list[str]]
    images: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)

    def named(self, name: str) -> str | None:
        """Return the column of a name, in any case."""
        return next((column for column in self.columns if column.lower() == name), None)

    def numbers(self) -> list[str]:
        """Return the columns with a number in any row, without label and labels."""
        apart = (self.named("label"), self.named("labels"))
        return [name for name, cells in self.columns.items() if name not in apart and any(map(_is_number, cells))]


@dataclass(frozen=True)
class Reading:
    """How the rows of a table are read.

    Attributes:
        kind: What labels are.
        columns: Where they are.
        listed: Whether a cell has names of classes with | between them.
    """

    kind: LabelKind[Any]
    columns: tuple[str, ...]
    listed: bool = False


def _number(cell: str) -> float | None:
    """Return the finite number that a cell holds; None for anything else."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def _is_number(cell: str) -> bool:
    return _number(cell) is not None or cell.lower() in _BITS


# ------------------------------------------------------------------------------------------------ files


def _decoded(path: Path, content: bytes) -> str:
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not encoded as UTF-8 ({error}). Save it as UTF-8.") from error


def _header(line: str) -> tuple[str, list[str]] | None:
    """Return the delimiter of a file and the names in its first line; None where these have no image."""
    for delimiter in _DELIMITERS:
        try:
            names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error:
            continue
        if "image" in map(str.lower, names):
            return delimiter, names
    return None


def has_labels(path: Path) -> bool:
    """Return whether a file has a column named image, and another one."""
    try:
        with path.open("rb") as file:
            content = file.read(_HEAD)
    except OSError:
        return False
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    found = _header(content.decode(encoding, errors="ignore").split("\n")[0].rstrip("\r"))
    return found is not None and len([name for name in found[1] if name]) > 1


def read_table(path: Path) -> Table:
    """Read a CSV file: UTF-8 or UTF-16, with commas, semicolons or tabs.

    Raises:
        DataError: it cannot be read, has no column of images, no other one, or no rows.
    """
    try:
        text = _decoded(path, path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check the path and its permissions.") from error
    first = text.split("\n", 1)[0].rstrip("\r")
    found = _header(first)
    if found is None:
        shown = first if len(first) <= 80 else f"{first[:80]}..."
        raise DataError(
            f"{path}: the first line is {shown!r}, expected names of columns with image among them, and commas, "
            f"semicolons or tabs between them. Files have the columns {_NAMED}."
        )
    delimiter, names = found
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise DataError(f"{path} has two columns named {twice[0]!r}. Rename or remove one.")
    place = [name.lower() for name in names].index("image")
    table = Table(path, names[place], {name: [] for i, name in enumerate(names) if name and i != place})
    if not table.columns:
        raise DataError(f"{path} has only the column {table.image}, but no labels. Expected {_NAMED}.")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        next(reader)
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if len(cells) != len(names):
                what = f"the row has {len(cells)} cells, expected {len(names)}"
                table.broken.append((reader.line_num, f"{what}; a name with {delimiter!r} needs quotes"))
                continue
            table.lines.append(reader.line_num)
            table.images.append(cells[place])
            for name, cell in zip(names, cells, strict=True):
                if name in table.columns:
                    table.columns[name].append(cell)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}. Check the quotes.") from error
    if not table.lines and not table.broken:
        raise DataError(f"{path} has no rows. Add one for each image.")
    return table


# ------------------------------------------------------------------------------------------------ what labels are


def _readings(table: Table) -> dict[TargetKind, str]:
    """Return the kinds of labels that a table can have, each with what speaks for it."""
    found: dict[TargetKind, str] = {}
    label, labels, numbers = table.named("label"), table.named("labels"), table.numbers()
    if label:
        cells = [cell for cell in table.columns[label] if cell]
        found["single-label"] = f"{label} has the name of a class"
        if several := next((cell for cell in cells if SEPARATOR in cell), None):
            found["multi-label"] = f"{label} has classes with {SEPARATOR} between them, such as {several}"
        values = [_number(cell) for cell in cells]
        if None not in values and (part := next((v for v in values if v is not None and v % 1), None)) is not None:
            found["regression"] = f"{label} has numbers such as {part:g}"
    if labels:
        found["multi-label"] = f"{labels} has classes with {SEPARATOR} between them"
        if all(cell and SEPARATOR not in cell for cell in table.columns[labels]):
            found["single-label"] = f"{labels} has one class in each row"
    if not numbers:
        return found
    given = {name: [cell for cell in table.columns[name] if _is_number(cell)] for name in numbers}
    bits = [name for name, cells in given.items() if all(cell.lower() in _BITS for cell in cells)]
    listed = ", ".join(numbers[:5]) + (", ..." if len(numbers) > 5 else "")
    if bits and (bits != numbers or len(numbers) == 1):
        found.setdefault("multi-label", f"{', '.join(bits[:5])}: 1 where the class is there, 0 where it is not")
    elif bits:
        found.setdefault("multi-label", f"{listed} are classes, 1 where they are there, 0 where they are not")
    if bits != numbers or len(numbers) == 1:
        found.setdefault("regression", f"{listed}: numbers to predict")
    only = numbers[0]
    whole = all((_number(cell) or 0.0) % 1 == 0 for cell in given[only])
    if len(numbers) == 1 and (bits or (whole and only.lower() in _CLASS_WORDS)):
        found.setdefault("single-label", f"{only} has the number of a class")
    return found


def read_as(table: Table, target: TargetKind | None = None) -> Reading:
    """Return how the rows of a table are read.

    Args:
        table: The table.
        target: What labels are; None recognizes it by the columns.

    Raises:
        DataError: there are no labels of that kind, or those of several kinds where none is given.
    """
    label, labels, numbers = table.named("label"), table.named("labels"), table.numbers()
    if target is None:
        found = _readings(table)
        if len(found) > 1:
            lines = "\n".join(f"  --target {name}: {why}" for name, why in found.items())
            raise DataError(f"{table.path} can be read in several ways. Choose one:\n{lines}")
        if not found:
            raise DataError(
                f"{table.path} has no labels: its columns besides {table.image} are {', '.join(table.columns)}. "
                f"Expected {_NAMED}; rename the column with the class to label."
            )
        target = next(iter(found))
    kind, only = KINDS[target], next(iter(table.columns)) if len(table.columns) == 1 else None
    if kind is SINGLE_LABEL and (column := label or labels or only):
        return Reading(kind, (column,))
    if kind is MULTI_LABEL and (column := labels or label):
        return Reading(kind, (column,), listed=True)
    if kind is not SINGLE_LABEL and numbers:
        return Reading(kind, tuple(numbers))
    if kind is REGRESSION and label and all(_number(cell) is not None for cell in table.columns[label] if cell):
        return Reading(kind, (label,))
    raise DataError(
        f"{table.path} has no labels for {target}: its columns besides {table.image} are {', '.join(table.columns)}. "
        f"Expected {_NAMED}."
    )


def _label(reading: Reading, cells: Sequence[str]) -> Any:
    """Return the names of the classes of a row, or its numbers.

    Raises:
        ValueError: a cell cannot be read, with what is wrong.
    """
    if reading.kind is SINGLE_LABEL:
        if not cells[0]:
            raise ValueError(f"{reading.columns[0]} is empty, expected the name of a class")
        return (cells[0],)
    if reading.listed:
        names = [name.strip() for name in cells[0].split(SEPARATOR)] if cells[0] else []
        if not all(names):
            raise ValueError(f"{reading.columns[0]} is {cells[0]!r}, with nothing beside a {SEPARATOR}")
        return tuple(names)
    bits = reading.kind is MULTI_LABEL
    for name, cell in zip(reading.columns, cells, strict=True):
        if (cell.lower() not in _BITS) if bits else (_number(cell) is None):
            comma = "; write a point for the comma" if not bits and _number(cell.replace(",", ".")) is not None else ""
            given = repr(cell) if cell else "empty"
            raise ValueError(f"{name} is {given}, expected {'0 or 1' if bits else 'a number'}{comma}")
    if bits:
        return tuple(name for name, cell in zip(reading.columns, cells, strict=True) if _BITS[cell.lower()])
    return tuple(map(float, cells))


# ------------------------------------------------------------------------------------------------ images


class _Files:
    """Finds the files that cells name; folders are listed once.

    Args:
        folders: Where relative paths start, in order of preference.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._known = get_img_extensions(as_set=True)
        self._listed: dict[Path, tuple[set[str], dict[str, list[str]]]] = {}

    def find(self, cell: str) -> tuple[str, str]:
        """Return the path that a cell names, and what is wrong with it."""
        first = ""
        for text in dict.fromkeys((cell, cell.replace("\\", "/"))):  # of Windows
            for folder in self._folders:
                path = Path(os.path.normpath(folder / text))
                first = first or str(path)
                names, stems = self._inside(path.parent)
                if path.name in names:
                    return str(path), "is a folder, expected an image" if path.is_dir() else ""
                if several := stems.get(path.name):
                    ambiguous = f"can be {' or '.join(several)}; add the ending" if len(several) > 1 else ""
                    return str(path.parent / several[0]), ambiguous
        return first, "does not exist"

    def _inside(self, folder: Path) -> tuple[set[str], dict[str, list[str]]]:
        """Return the names in a folder, and those of its images by their names without ending."""
        if folder not in self._listed:
            try:
                with os.scandir(folder) as opened:
                    names = {entry.name for entry in opened}
            except OSError:
                names = set()
            stems: dict[str, list[str]] = {}
            for name in sorted(names):
                stem, dot, ending = name.rpartition(".")
                if f"{dot}{ending}".lower() in self._known:
                    stems.setdefault(stem, []).append(name)
            self._listed[folder] = names, stems
        return self._listed[folder]


class TableSamples(Samples):
    """Images and labels of a CSV file, in the order of their paths.

    Relative paths start in the folder of the file, in its subfolder images, or in one named like the file. Image files
    may be named without their ending.

    Args:
        table: The rows.
        reading: What labels are, and where.

    Attributes:
        file: The CSV file.
        columns: Where the labels are.
        unread: Other columns.
        problems: Rows that cannot be read, images that are missing or have several rows.

    Raises:
        DataError: no row can be read.
    """

    def __init__(self, table: Table, reading: Reading) -> None:
        self.file = str(table.path)
        self.columns = reading.columns
        self.unread = [name for name in table.columns if name not in reading.columns]
        found: list[tuple[str, Any, int, list[str]]] = []
        folder = table.path.parent
        files = _Files([folder, folder / "images", folder / table.path.stem])
        cells = zip(*(table.columns[name] for name in reading.columns), strict=True)
        for line, image, row in zip(table.lines, table.images, cells, strict=True):
            faults: list[str] = []
            label = None
            try:
                label = _label(reading, row)
            except ValueError as error:
                faults.append(str(error))
            path = ""
            if not image:
                faults.append(f"{table.image} is empty, expected the path of an image")
            elif "://" in image:
                faults.append(f"{image} is a URL; download it and give its path")
            else:
                path, what = files.find(image)
                faults += [f"the image {path} {what}"] if what else []
            found.append((path, label, line, faults))
        _note_repeated(found)
        found.sort(key=lambda one: (natural_key(one[0]), one[2]))
        names = _class_names(reading, [label for _, label, *_ in found])
        numbers = {name: number for number, name in enumerate(names)}
        labels = [_numbered(reading.kind, label, numbers) for _, label, *_ in found]
        super().__init__(labels, names, reading.kind)
        self._paths = [path for path, *_ in found]
        rows = [(line, what, i) for i, (_, _, line, faults) in enumerate(found) for what in faults]
        rows += [(line, what, None) for line, what in table.broken]
        self.problems = [
            Problem(self.file, what, image, source=f"{self.file}, line {line}")
            for line, what, image in sorted(rows, key=lambda row: row[0])
        ]
        if len({problem.image for problem in self.problems if problem.image is not None}) == len(found):
            raise DataError(f"{self.file} has no row that can be used:\n{listed(self.problems)}")

    def load(self, index: int) -> ImageLike:
        """Return the path of an image."""
        return self._paths[index]

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return self._paths[index]

    def signature(self, index: int) -> str:
        """Return the path of an image and its label: other labels give another division into splits."""
        text = self.kind.text(self.labels[index], self.class_names).replace("/", "_")
        return f"{self._paths[index]}: {text}"


def _note_repeated(rows: Sequence[tuple[str, Any, int, list[str]]]) -> None:
    """Add to the faults of rows whose image has another row; of equal rows the first one stays."""
    first: dict[str, tuple[str, Any, int, list[str]]] = {}
    for row in rows:
        path, label, line, faults = row
        if not path:
            continue
        _, known, before, theirs = first.setdefault(path, row)
        if before == line:
            continue
        if known is None or label is None or known == label:
            faults.append(f"the image {path} is in line {before} already")
        else:
            faults.append(f"the image {path} has another label in line {before}")
            if not any("another label" in fault for fault in theirs):
                theirs.append(f"the image {path} has another label in line {line}")


def _class_names(reading: Reading, labels: Sequence[Any]) -> list[str]:
    """Return the names of classes or numbers: in the order of the columns, else in natural order."""
    if reading.kind is SINGLE_LABEL or reading.listed:
        return sorted({name for label in labels for name in label or ()}, key=natural_key)
    return list(reading.columns)


def _numbered(kind: LabelKind[Any], label: Any, numbers: Mapping[str, int]) -> Any:
    """Return a label in numbers of classes; that of no class where a row cannot be read."""
    if label is None:
        return kind.unknown
    if kind is REGRESSION:
        return label
    found = tuple(sorted({numbers[name] for name in label}))
    return found[0] if kind is SINGLE_LABEL else found


def open_tables(files: Mapping[str, Path], target: TargetKind | None = None) -> dict[str, TableSamples]:
    """Open the CSV files of a data set.

    Args:
        files: Files by their split.
        target: What labels are; None recognizes it by the columns of the first file.

    Raises:
        DataError: a file cannot be read, or the labels of the files are not of one kind.
    """
    tables = {split: read_table(path) for split, path in files.items()}
    main = next(iter(tables.values()))
    reading = read_as(main, target)
    for table in tables.values():
        if missing := [name for name in reading.columns if name not in table.columns]:
            raise DataError(f"{table.path} has no column {missing[0]!r}, which {main.path} has. Add it.")
    return {split: TableSamples(table, reading) for split, table in tables.items()}
