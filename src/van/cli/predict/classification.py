"""`van predict` for classifiers: say what is on images."""

import csv
import io
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from van.errors import DataError
    from van.inference.predictor import Prediction


def predict(
    images: list[str],
    *,
    weights: str,
    top_k: int = 5,
    batch_size: int = 32,
    workers: int | None = None,
    device: str | None = None,
    format: Literal["text", "csv", "jsonl"] | None = None,
    output: str | None = None,
) -> int:
    """Say what is on images, in the order in which they are given.

    Args:
        images: Image files, and folders whose images are taken in natural order of their paths.
        weights: Weight file of any known layout, a run folder, or the name of published weights such as van_b0.
        top_k: Classes to show per image.
        batch_size: Images per batch.
        workers: Processes that decode; by default none for a few images, else one per processor, at most 8.
        device: cpu, cuda, ...; by default a GPU if there is one.
        format: Form of the result; by default text, or what the ending of output says (.csv, .jsonl).
        output: New file for the result in place of the terminal.
    """
    import os
    import sys
    from pathlib import Path

    from tqdm import tqdm

    from van.data.images import list_images
    from van.errors import DataError, VanError
    from van.inference.predictor import Predictor

    if top_k < 1 or batch_size < 1:
        raise VanError(f"top_k is {top_k} and batch_size {batch_size}, expected at least 1 each.")
    form = format or {".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}.get(Path(output or "").suffix.lower(), "text")
    if output and Path(output).exists():
        raise VanError(f"{output} exists. Give another name for the results.")
    paths = list_images(images)
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if len(paths) > 4 * batch_size else 0
    predictor = Predictor(weights, device, batch_size)
    top_k = min(top_k, len(predictor.class_names))
    broken = 0
    with Path(output).open("x", encoding="utf-8", newline="") if output else nullcontext(sys.stdout) as target:
        if form == "csv":
            columns = [f"{what}_{i + 1}" for i in range(top_k) for what in _COLUMNS]
            target.write(_csv_line(["image", *columns, "error"]))
        # the bar goes to standard error, so that the results can be piped
        bar = tqdm(predictor.stream(paths, top_k, workers), total=len(paths), unit=" images", desc="Predicting")
        for path, result in zip(paths, bar, strict=True):
            if isinstance(result, DataError):
                broken += 1
                tqdm.write(f"van predict: {result}", file=sys.stderr)
            line = _LINES[form](path, result, top_k)
            if output:
                target.write(line)
            else:
                tqdm.write(line, file=sys.stdout, end="")
    if output:
        print(f"{len(paths) - broken} predictions written: {output}")
    if broken:
        print(f"van predict: {broken} of {len(paths)} images could not be read, see above.", file=sys.stderr)
    return 1 if broken else 0


def _text_line(path: str, result: "Prediction | DataError", top_k: int) -> str:
    if isinstance(result, Exception):
        return ""
    pairs = zip(result.probabilities, result.classes, strict=True)
    return f"{path}: " + ", ".join(f"{name} {probability:.1%}" for probability, name in pairs) + "\n"


def _csv_line(cells: list[object]) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _csv_row(path: str, result: "Prediction | DataError", top_k: int) -> str:
    if isinstance(result, Exception):
        return _csv_line([path, *[""] * (len(_COLUMNS) * top_k), str(result)])
    pairs = zip(result.classes, result.probabilities, strict=True)
    return _csv_line([path, *(cell for name, p in pairs for cell in (name, round(p, 6))), ""])


def _json_line(path: str, result: "Prediction | DataError", top_k: int) -> str:
    if isinstance(result, Exception):
        content = {"image": path, "error": str(result)}
    else:
        content = {
            "image": path,
            "classes": result.classes,
            "probabilities": [round(p, 6) for p in result.probabilities],
        }
    return json.dumps(content, ensure_ascii=False) + "\n"


_COLUMNS = ("class", "probability")
_LINES = {"text": _text_line, "csv": _csv_row, "jsonl": _json_line}
