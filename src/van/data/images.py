"""Images of any file format, color mode or array type as plain RGB or grey PIL images."""

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.readers.img_extensions import add_img_extensions, get_img_extensions
from timm.utils import natural_key

from van.data.folders import files_below, refuse_special, refuse_url
from van.errors import DataError

# by default, timm's readers only look for .png, .jpg and .jpeg
add_img_extensions((".avif", ".bmp", ".gif", ".jfif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff", ".webp"))

ImageLike = str | Path | bytes | IO[bytes] | Image.Image | np.ndarray | torch.Tensor

# what Pillow's decoders raise on broken files
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,  # also NotImplementedError
    struct.error,
    zlib.error,
)


def mode_for(in_chans: int) -> str:
    """Return the PIL mode of images with so many channels.

    Raises:
        DataError: image files never have this many channels.
    """
    if in_chans not in (1, 3):
        raise DataError(
            f"The model takes {in_chans} channels, image files have 1 or 3. Call the model on tensors instead."
        )
    return "L" if in_chans == 1 else "RGB"


def read_image(source: ImageLike, mode: str | None = "RGB", name: str | None = None) -> Image.Image:
    """Decode an image completely and convert it to one color mode.

    EXIF rotation is applied, transparency is put on white, and of an animation the first frame is taken. Greys of more
    than 8 bits are scaled to 8: from 0-65535, floating point from 0-1 where its values lie there, and from 0 to the
    largest value where that is above 65535.

    Args:
        source: Path, bytes, open file, PIL image, array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or tensor (C, H, W)
            with the same numbers of channels. Arrays and tensors are uint8 0-255, uint16 0-65535, bool, or floating
            point 0-1.
        mode: "RGB" or "L"; None keeps the mode of the image.
        name: What to call the image in an error; by default its path.

    Raises:
        DataError: the image cannot be decoded, has pixels that are not finite, is too large (Pillow's limit against
            decompression bombs), a URL or not a file, or an array has another shape, type or range.
    """
    if isinstance(source, torch.Tensor):
        if source.ndim != 3:
            raise DataError(f"{name or 'The tensor'} has shape {tuple(source.shape)}, expected (C, H, W).")
        source = source.detach().cpu().permute(1, 2, 0)
        name = name or "The tensor"
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()  # NumPy has no bfloat16
    if isinstance(source, np.ndarray):
        return one_mode(_from_array(source, name or "The array"), mode)
    if isinstance(source, Image.Image):
        return _decode(source, mode, name or str(getattr(source, "filename", "")) or "The image")
    if isinstance(source, str | Path):
        refuse_url(source)
        refuse_special(source)
        name = name or str(source)
    if not (isinstance(source, str | Path | bytes) or hasattr(source, "read")):
        raise DataError(
            f"{name or 'The image'} is of type {type(source).__name__}, expected a path, bytes, an open file, a PIL "
            "image, an array or a tensor."
        )
    opened: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    name = str(name or getattr(source, "name", None) or "The image")
    try:
        with warnings.catch_warnings():
            # Pillow warns at half its limit against bombs and about odd metadata; only decoding matters here
            warnings.simplefilter("ignore")
            with Image.open(opened) as image:
                return _decode(image, mode, name)
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large to decode safely: {error} Resize or crop it.") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image in a known format. Remove or replace it.") from error
    except IsADirectoryError as error:
        raise DataError(f"{name} is a folder, expected an image file.") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{name} does not exist. Check the path.") from error
    except PermissionError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}). Check its permissions.") from error
    except _BROKEN as error:
        raise DataError(f"{name} cannot be decoded, the file is broken ({error}). Remove or replace it.") from error


def _decode(image: Image.Image, mode: str | None, name: str) -> Image.Image:
    try:
        image.load()
        if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
            raise DataError(
                f"{name} has pixels that are NaN or infinite. Replace them by the value of black or white, or remove "
                "the file."
            )
        return one_mode(ImageOps.exif_transpose(image), mode)
    except _BROKEN as error:
        raise DataError(f"{name} cannot be decoded, the file is broken ({error}). Remove or replace it.") from error


def one_mode(image: Image.Image, mode: str | None) -> Image.Image:
    """Return a decoded image in another color mode; see read_image."""
    if mode is None:
        return image
    if image.mode.startswith("I") or image.mode == "F":  # convert() would clip these instead of scaling
        pixels = np.asarray(image, dtype=np.float64)
        largest = pixels.max(initial=0.0)
        if image.mode == "F" and largest <= 1.0:
            white = 1.0
        elif image.mode.startswith("I;16") or 255.0 < largest <= 65535.0:
            white = 65535.0
        else:
            white = max(255.0, largest)
        image = Image.fromarray(np.clip(pixels * (255.0 / white), 0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or 0 in array.shape:
        raise DataError(
            f"{name} has height, width, channels {array.shape}, expected an array (H, W) or (H, W, C) or a tensor "
            "(C, H, W) with C 1, 3 or 4."
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.uint16:
        array = (array / 257.0).round().astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0.0 and array.max() <= 1.0):
            raise DataError(
                f"{name} has floating-point values outside 0 to 1. Scale it to that range and do not normalize it."
            )
        array = (array * 255.0).round().astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise DataError(f"{name} has type {array.dtype}, expected uint8, uint16, bool or floating point from 0 to 1.")
    return Image.fromarray(np.ascontiguousarray(array))


def list_images(paths: Sequence[str | Path]) -> list[str]:
    """Return image files in the order given; a folder stands for the images below it in natural order.

    Args:
        paths: Files and folders; see van.data.folders.files_below. A file is taken whatever its name is.

    Raises:
        DataError: a folder has no images or cannot be read, or a path is a URL.
    """
    found = []
    for given in paths:
        refuse_url(given)
        path = Path(given)
        if path.is_dir():
            known = get_img_extensions(as_set=True)
            inside = files_below(path, known)
            if not inside:
                raise DataError(f"{path} has no images. Known file endings are {' '.join(sorted(known))}.")
            found += sorted(inside, key=natural_key)
        else:
            found.append(str(path))
    return found
