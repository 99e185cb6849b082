"""From the body of a request to images. Nothing in it is ever taken for a path or a URL."""

import base64
import binascii
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException, Request
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from van.engine.options import ServeOptions
from van.errors import DataError

if TYPE_CHECKING:
    from van.data.inputs import PreparedImage

# those that Pillow decodes by itself; EPS, for one, would start Ghostscript
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_STRUCTURE = 100  # brackets and commas that no JSON body needs beyond one comma per image


class ImagesInJSON(BaseModel):
    """A body in JSON: image files in base64."""

    model_config = ConfigDict(extra="forbid")
    images: list[str]


@dataclass
class Upload:
    """An image as it was sent.

    Attributes:
        data: Content of the image file.
        name: File name that the client gave, which only comes back in its answer.
        number: Which image of the request it is, in words.
    """

    data: bytes
    name: str | None
    number: str


async def read_images(request: Request, options: ServeOptions) -> list[Upload]:
    """Return the images in the body of a request.

    Raises:
        HTTPException: the body is none of the three forms, holds no image, or too many.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        files = await _read_form(request, options.max_images)
    elif kind == "application/json":
        files = await run_in_threadpool(_read_json, await request.body(), options.max_images)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        files = [(await request.body(), None)]
    else:
        raise HTTPException(
            415,
            f"The content type is {kind or 'not given'}, expected multipart/form-data with files, application/json "
            "with images in base64, or the bytes of one image as image/* or application/octet-stream.",
        )
    if not files or not all(data for data, _ in files):
        raise HTTPException(
            422, "There is no image in the request." if not files else "An image of the request is empty."
        )
    count = len(files)
    return [
        Upload(data, name, f"Image {i + 1} of {count}" if count > 1 else "The image")
        for i, (data, name) in enumerate(files)
    ]


async def _read_form(request: Request, most: int) -> list[tuple[bytes, str | None]]:
    parser = MultiPartParser(request.headers, request.stream(), max_files=most, max_fields=0)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        many = "Too many files" in error.message
        hint = " Send each image as a file; there are no other fields." if "Too many fields" in error.message else ""
        raise HTTPException(413 if many else 422, f"The form cannot be used: {error.message}{hint}") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    try:
        return [(await file.read(), file.filename or None) for file in files]
    finally:
        await form.close()


def _read_json(body: bytes, most: int) -> list[tuple[bytes, str | None]]:
    # millions of empty lists would take a thousand times their size; base64 has none of these characters
    if body.count(b",") > most + _STRUCTURE or body.count(b"[") + body.count(b"{") > _STRUCTURE:
        raise HTTPException(413, f"The JSON holds more than the {most} images that a request may have.")
    try:
        images = ImagesInJSON.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise HTTPException(
            422,
            f'The JSON cannot be used ({where or "all of it"}: {first["msg"]}). Expected {{"images": [BASE64, ...]}}.',
        ) from error
    if len(images) > most:
        raise HTTPException(413, f"The request has {len(images)} images, at most {most} are allowed.")
    try:
        return [(base64.b64decode(image, validate=True), None) for image in images]
    except (binascii.Error, ValueError) as error:
        raise HTTPException(422, f"An image in the JSON is not base64: {error}.") from error


def prepare(upload: Upload, options: ServeOptions, make: Callable[[Any], Any], mode: str) -> "PreparedImage":
    """Decode an image.

    Args:
        upload: The image.
        options: Say how many pixels it may have.
        make: Turns a PIL image into what the network takes; see Task.prepare.
        mode: PIL mode of the images that `make` gets.

    Raises:
        HTTPException: it cannot be decoded, or is too large.
    """
    from van.data.inputs import ImageFiles, Waiting

    name = upload.name or upload.number
    try:
        image = Image.open(io.BytesIO(upload.data), formats=_known())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise HTTPException(413, f"{name} has too many pixels. Send a smaller image.") from error
    except Exception as error:  # whatever Pillow raises on such bytes
        raise HTTPException(
            422, f"{name} is not an image in a known format ({', '.join(_known())}), or its header is broken."
        ) from error
    with image:
        if image.width * image.height > options.max_pixels:
            raise HTTPException(
                413,
                f"{name} has {image.width} x {image.height} pixels, at most {options.max_pixels} are allowed. Send a "
                "smaller image.",
            )
        image.filename = upload.name or ""
        found = ImageFiles(make, mode)[Waiting(image, upload.name, name)]
    if isinstance(found, DataError):
        raise HTTPException(422, str(found))
    found.path = upload.name
    return found


@cache
def _known() -> list[str]:
    """Return the formats of FORMATS that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]
