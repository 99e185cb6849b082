"""What the analyses return, and the one way in which tables are printed and written."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# also a range, a dash for nothing, and a number with a remark
_NUMBER = re.compile(r"-?|[\d.,]+(e[-+]?\d+)?( ?- ?[\d.,]+)?( \(.*\))?")


@dataclass(frozen=True)
class Report:
    """The result of an analysis; print it, or read its data.

    Attributes:
        text: The result for people; tables are in Markdown.
        data: The result for programs; JSON can hold it.
        folder: Where files were written; None where none were.
        files: Their names.
        failures: What could not be measured, and why.
        finished: Whether the analysis came to its end; not after Ctrl-C.
    """

    text: str
    data: Any
    folder: Path | None = None
    files: Sequence[str] = ()
    failures: Sequence[str] = field(default=())
    finished: bool = True

    def __str__(self) -> str:
        return self.text if self.folder is None else f"{self.text}\n\nresults: {self.folder}: {' '.join(self.files)}"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return an aligned Markdown table; columns of numbers are aligned to the right.

    Args:
        rows: Text by heading, with the same headings in each row.
    """
    heads = list(rows[0])
    columns = [[row[head] for row in rows] for head in heads]
    widths = [max(map(len, (head, *column))) for head, column in zip(heads, columns, strict=True)]
    right = [all(map(_NUMBER.fullmatch, column)) for column in columns]

    def line(texts: Sequence[str]) -> str:
        padded = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 1) + ":" if r else "-" * (w + 2) for w, r in zip(widths, right, strict=True))
    return "\n".join([line(heads), f"|{rule}|", *(line(list(row.values())) for row in rows)])


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a table as CSV: numbers with six significant digits and without commas, nothing for None.

    Args:
        path: New file.
        rows: Values by heading, with the same headings in each row.

    Returns:
        The name of the file.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return path.name


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    plain = value.replace(",", "") if isinstance(value, str) else ""
    return plain if plain.isdecimal() else value


def number(value: float | None, form: str) -> str:
    """Return a number in a format; a dash for None."""
    return "-" if value is None else format(value, form)
