"""Weight files: one safetensors file with a header that says what it takes to build the network again.

The header is JSON under the metadata key "van": {"version": 1, "task", "class_names", "model", "extra"}. Files of other
projects have none; their task is recognized from the names of their tensors. Nothing in a file can run.
"""

import argparse
import html
import io
import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import safetensors

from van.errors import WeightsError
from van.files import write_atomically
from van.models.layouts import LAYOUTS, task_of

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "weights.safetensors"
_VERSION = 1
_FILES = (WEIGHTS_FILE, "model.safetensors", "pytorch_model.bin")
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module")
_DAMAGED = (  # what torch's unpickler raises on bytes that are no checkpoint
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    OverflowError,
    struct.error,
    safetensors.SafetensorError,  # torch.load reads .safetensors, too
)


@dataclass
class Header:
    """What a weight file says about its tensors.

    Attributes:
        task: Such as "detection".
        class_names: Names in the order of the labels; None if unknown.
        model: What the network is built from; empty for files of other projects.
        extra: Whatever else prediction needs, such as preprocessing or the names of keypoints; JSON values only.
        export: Of an exported file format, precision, preprocess, postprocess, features, image_size and the version of
            van; empty for weight files.
    """

    task: str
    class_names: list[str] | None
    model: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    export: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the header as it is written."""
        content = {"version": _VERSION, **asdict(self)}
        if not self.export:
            del content["export"]
        return content


def _header(content: Any, source: Path) -> Header | None:
    """Understand what a file says under "van", in today's or an older form; None if it says nothing."""
    if not isinstance(content, Mapping) or not content:
        return None
    names = content.get("class_names")
    kinds: dict[str, Any] = {"version": int, "task": str, "class_names": list, "extra": Mapping, "export": Mapping}
    kinds |= (
        {"model": Mapping} if "task" in content else {"model": str, "model_args": Mapping, "preprocessing": Mapping}
    )
    wrong = [key for key, kind in kinds.items() if not isinstance(content.get(key), kind | None)]
    if not wrong and not all(isinstance(name, str) for name in names or ()):
        wrong = ["class_names"]
    if wrong:
        raise WeightsError(
            f"{source} cannot be read: {wrong[0]!r} in its header is malformed. Download or copy it again."
        )
    if (content.get("version") or 0) > _VERSION:
        raise WeightsError(f"{source} was written by a newer version of van. Update van: pip install --upgrade.")
    if "task" in content:
        model, extra, export = (dict(content.get(key) or {}) for key in ("model", "extra", "export"))
        return Header(content["task"], names, model, extra, export)
    # before version 1 a classifier's header named no task
    model = {key: content[key] for key in ("model", "model_args", "in_chans") if key in content}
    return Header("classification", names, model, {"preprocessing": content.get("preprocessing") or {}})


# ------------------------------------------------------------------------------------------------ read


def file_in(path: Path) -> Path:
    """Return the weight file that a path names: itself, or the one inside a run or model folder."""
    if not path.is_dir():
        if not path.exists():
            raise WeightsError(f"{path} does not exist. Give a weight file, or a folder with one.")
        return path
    for name in _FILES:
        if (path / name).is_file():
            return path / name
    raise WeightsError(
        f"{path} is a folder without {', '.join(_FILES[:-1])} or {_FILES[-1]}. Give the weight file itself."
    )


def _open(path: str | Path) -> tuple[Path, bool]:
    """Return the file that a path names, and whether it is a safetensors file."""
    try:
        file = file_in(Path(path))
        with file.open("rb") as stream:
            return file, stream.read(9)[8:] == b"{"
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error}).") from error


def _safetensors_header(file: Path) -> tuple[Header | None, list[str]]:
    """Return the header and the names of the tensors of a safetensors file."""
    try:
        with safetensors.safe_open(file, framework="np") as content:
            return _header(json.loads((content.metadata() or {}).get("van", "{}")), file), list(content.keys())
    except (safetensors.SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise WeightsError(
            f"{file} cannot be read, it is truncated or damaged ({error}). Download or copy it again."
        ) from error


def _exported_header(file: Path) -> Header:
    """Return the header of an exported file, without the library that its format belongs to.

    Raises:
        WeightsError: it has none, or cannot be read.
    """
    try:
        content = EXPORTED[file.suffix.lower()](file)
        header = None if content is None else _header(json.loads(content), file)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read ({error.strerror or error}).") from error
    except (ValueError, LookupError, RecursionError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{file} cannot be read, it is truncated or damaged ({error}). Export or copy it again."
        ) from error
    if header is None:
        raise WeightsError(f"{file} was not written by van export: it does not say what it was trained for.")
    return header


def _onnx_metadata(file: Path) -> str | None:
    """Return the value of "van" in the metadata of an ONNX file: field 14 of the protobuf, passing over the others."""
    with file.open("rb") as stream:
        while tag := _varint(stream):
            number, kind = tag >> 3, tag & 7
            if kind == 0:
                _varint(stream)
            elif kind != 2:
                raise ValueError(f"field {number} has wire type {kind}")
            elif number != 14:
                stream.seek(_varint(stream), 1)
            else:
                entry = io.BytesIO(stream.read(_varint(stream)))
                pair = {}
                while tag := _varint(entry):
                    pair[tag >> 3] = entry.read(_varint(entry)).decode()
                if pair.get(1) == "van":
                    return pair.get(2)
    return None


def _varint(stream: BinaryIO) -> int:
    """Return the next number of a protobuf; 0 at the end."""
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            return 0
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("a number is longer than 64 bits")


def _openvino_metadata(file: Path) -> str | None:
    """Return the value of "van" in the rt_info of an OpenVINO file, which stands at the end of the XML."""
    found = re.search(r'<van value="([^"]*)"', file.read_text(encoding="utf-8"))
    return found and html.unescape(found[1])


def _torch_metadata(file: Path) -> str | None:
    """Return the extra file "van" in what torch.export.save wrote."""
    with zipfile.ZipFile(file) as archive:
        name = next((name for name in archive.namelist() if name.endswith("/extra/van")), None)
        return name and archive.read(name).decode()


EXPORTED: dict[str, Callable[[Path], str | None]] = {
    ".onnx": _onnx_metadata,
    ".xml": _openvino_metadata,
    ".pt2": _torch_metadata,
}
"""Endings of exported files, each with what finds the header in them."""


def _unpickled(file: Path, **options: Any) -> Any:
    """Return what torch.save wrote, tensors and plain values only: nothing in the file can run."""
    import torch

    try:
        # timm's training script, which made the published files, keeps its argparse.Namespace beside the weights
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about pickle protocols; what it cannot read is an error below
            return torch.load(file, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        if blocked is None:
            raise WeightsError(
                f"{file} is not a weight file that torch can read safely, and nothing in it was run; it may be "
                "damaged, or hold more than tensors. Download or copy it again."
            ) from error
        raise WeightsError(
            f"{file} was refused and nothing in it was run: it asks for {blocked[1]}, and a file that calls code can "
            "do anything. If you trust the file, save its tensors alone (state_dict, or safetensors) and use that."
        ) from error
    except _DAMAGED as error:
        raise WeightsError(
            f"{file} cannot be read, it is truncated or damaged ({error}). Download or copy it again."
        ) from error


def tensors_in(content: Any, source: str) -> "dict[str, Tensor]":
    """Find the state dict inside what training scripts put around it; averaged weights first, as in timm.

    Args:
        content: What read_file returned.
        source: What to call the file.

    Raises:
        WeightsError: there are no tensors.
    """
    import torch

    for _ in range(10):  # deeper is a file that contains itself
        if not isinstance(content, Mapping):
            break
        inner = next((k for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
            if tensors:
                return tensors
            break
        content = content[inner]
    raise WeightsError(
        f"{source} holds no tensors: expected a state dict, alone or under one of {', '.join(_WRAPPERS)}."
    )


def no_van(keys: Iterable[str], source: str) -> WeightsError:
    """Return the error for tensors that no layout knows.

    Args:
        keys: Their names.
        source: What to call the file.
    """
    shown = ", ".join(list(keys)[:3]) or "nothing"
    return WeightsError(
        f"{source} holds no VAN: none of the known layouts ({', '.join(LAYOUTS)}) has its keys (it starts with "
        f"{shown}). Give a VAN checkpoint."
    )


def read_file(path: str | Path) -> tuple[Path, Any, Header | None]:
    """Read what torch.save or safetensors wrote, tensors and plain values only: nothing in a file can run.

    Args:
        path: The file, or a folder with weights.safetensors, model.safetensors or pytorch_model.bin.

    Returns:
        The file, its content, and its header if it has one.

    Raises:
        WeightsError: the file is missing, damaged, or a pickle that would run code.
    """
    file, is_safetensors = _open(path)
    try:
        if is_safetensors:
            from safetensors.torch import load_file

            return file, load_file(file), _safetensors_header(file)[0]
        content = _unpickled(file, map_location="cpu")
        return file, content, _header(content.get("van"), file) if isinstance(content, Mapping) else None
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"{file} cannot be read, it is truncated or damaged ({error}). Download or copy it again."
        ) from error
    except OSError as error:
        raise WeightsError(f"{file} cannot be read ({error.strerror or error}).") from error


def read_header(path: str | Path) -> Header | None:
    """Return the header of a weight file without reading a tensor; None if it has none, as in other projects' files.

    Args:
        path: Weight file, or run folder.

    Raises:
        WeightsError: the file is missing or damaged, or from a newer version.
    """
    file, is_safetensors = _open(path)
    if is_safetensors:
        return _safetensors_header(file)[0]
    return _exported_header(file) if file.suffix.lower() in EXPORTED else None


def describe(path: str | Path) -> Header:
    """Return the header of a weight file, or what the names of its tensors tell, without reading a tensor.

    Args:
        path: Weight file of any known layout, or a folder with one.

    Returns:
        Without a header, the task alone: "semantic" for segmentation models of MMSegmentation, else "classification".

    Raises:
        WeightsError: the file is missing, damaged, no VAN, or a pickle that would run code.
    """
    file, is_safetensors = _open(path)
    if file.suffix.lower() in EXPORTED:
        return _exported_header(file)
    if is_safetensors:
        header, keys = _safetensors_header(file)
    else:
        content = _unpickled(file, map_location="meta", mmap=zipfile.is_zipfile(file))
        header = _header(content.get("van"), file) if isinstance(content, Mapping) else None
        keys = list(tensors_in(content, str(file)))
    if header is not None:
        return header
    task = task_of(keys)
    if task is None:
        raise no_van(keys, str(file))
    return Header(task, None)


def read_weights(path: str | Path) -> "tuple[Header, dict[str, Tensor]]":
    """Read a weight file.

    Args:
        path: The file, or a run folder with weights.safetensors.

    Returns:
        The header, as in describe, and the tensors as the file names them.

    Raises:
        WeightsError: the file is missing, damaged, no VAN, or a pickle that would run code.
    """
    if Path(path).suffix.lower() in EXPORTED:
        raise WeightsError(f"{path} is an exported file, expected the weights that it was made of.")
    file, content, header = read_file(path)
    tensors = tensors_in(content, str(file))
    if header is None:
        task = task_of(tensors.keys())
        if task is None:
            raise no_van(tensors, str(file))
        header = Header(task, None)
    return header, tensors


# ------------------------------------------------------------------------------------------------ write


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file, complete or not at all, with the permissions of any other new file.

    Args:
        path: The file; its folder is created.
        write: Called with the path to write to.

    Raises:
        WeightsError: it cannot be written; a file that was there is kept.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise WeightsError(
            f"{path} cannot be written ({error}). Check the folder, permissions and free space."
        ) from error
    return path


def write_weights(header: Header, tensors: "Mapping[str, Tensor]", path: str | Path) -> Path:
    """Write a weight file (.safetensors), complete or not at all.

    Args:
        header: What it says about the tensors.
        tensors: The network's state dict.
        path: The file.

    Returns:
        The file.

    Raises:
        WeightsError: the file has another suffix, or cannot be written.
        TypeError: the header has values that JSON cannot hold.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} should end in .safetensors: the header is written into the file.")
    metadata = {"format": "pt", "van": json.dumps(header.to_dict())}
    content = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    return write_whole(path, lambda file: save_file(content, file, metadata))
