"""Model repositories of NVIDIA Triton Inference Server: an exported file, and what the server has to know of it."""

import json
from collections.abc import Sequence
from pathlib import Path

from van.engine.predictor import Predictor
from van.export.formats import Content, Format, Tensor, write_checked
from van.files import new_folder_at, parents_of

_MAX_BATCH = 8
_WAIT = 5000  # microseconds for further requests, as van serve --max-wait-ms
_TYPES = {"float16": "FP16", "float32": "FP32", "float64": "FP64"}


def write_repository(kind: Format, predictor: Predictor, folder: Path, content: Content) -> Path:
    """Write the folder of a model: config.pbtxt, labels.txt and the file as version 1.

    Args:
        kind: Format of the file, one that Triton has a backend for.
        predictor: Whose network is exported.
        folder: Where it goes; its name is that of the model.
        content: What goes into the file.

    Raises:
        VanError: see van.export.
    """
    with parents_of(folder), new_folder_at(folder) as unfinished:
        path = write_checked(kind, predictor, unfinished / "1" / f"model{kind.ending}", content)
        names = [" ".join(name.split()) for name in predictor.class_names or ()]
        (unfinished / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        (unfinished / "config.pbtxt").write_text(config(folder.name, kind, path, len(names)), encoding="utf-8")
    return folder


def config(name: str, kind: Format, path: Path, classes: int) -> str:
    """Return the configuration of a model, a ModelConfig in the text format of protobuf.

    Args:
        name: Of the model.
        kind: Format of the file.
        path: The file; tensors are named and shaped as it says.
        classes: Number of labels.
    """
    inputs, outputs = kind.signature(path)
    batched = kind.triton_batches and all(one.shape[:1] == ("batch",) for one in (*inputs, *outputs))
    lines = [
        f"name: {json.dumps(name, ensure_ascii=False)}",
        f'backend: "{kind.triton}"',
        f"max_batch_size: {_MAX_BATCH if batched else 0}",
    ]
    for side, tensors in (("input", inputs), ("output", outputs)):
        for one in tensors:
            labeled = side == "output" and classes and one.shape[1:] == (classes,)
            lines += [
                f"{side} {{",
                *_described(one, batched),
                *(['  label_filename: "labels.txt"'] if labeled else []),
                "}",
            ]
    if batched:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_WAIT} }}")
    return "\n".join([*lines, *kind.triton_lines]) + "\n"


def _described(tensor: Tensor, batched: bool) -> list[str]:
    dims = [one if isinstance(one, int) else -1 for one in tensor.shape[int(batched) :]]
    lines = [
        f'  name: "{tensor.name}"',
        f"  data_type: TYPE_{_TYPES.get(tensor.type, tensor.type.upper())}",
        f"  dims: {_listed(dims or [1])}",
    ]
    return lines if dims else [*lines, "  reshape: { shape: [] }"]  # a number for each image


def _listed(numbers: Sequence[int]) -> str:
    return f"[{', '.join(map(str, numbers))}]"
