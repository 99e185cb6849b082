"""Images to look at: where they come from, listed one by one, and each of them decoded once."""

import glob
import os
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions
from timm.utils import natural_key
from torch.utils.data import Dataset

from van.data.folders import files_below, refuse_url
from van.data.images import ImageLike, one_mode, read_image
from van.data.video import ENDINGS, BrokenFrame, Clip, Frame, is_clip, is_live, with_frames
from van.errors import DataError

STDIN = "-"
LARGEST_DOWNLOAD = 64 * 2**20  # bytes
_PATIENCE = 20.0  # seconds without a byte from a server
_LONGEST_DOWNLOAD = 120.0  # seconds
_SCHEMES = ("http://", "https://")
_UNKNOWN_TYPES = ("application/octet-stream", "binary/octet-stream")  # of servers that do not know images
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


@dataclass(frozen=True)
class Packed:
    """An image inside a tar file, which is read in place and never unpacked; as text "FILE.tar/NAME".

    Attributes:
        tar: The tar file.
        name: Path inside it.
        start: First byte.
        size: Number of bytes.
    """

    tar: str
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}/{self.name}"

    def read(self) -> bytes:
        """Return the bytes of the image.

        Raises:
            DataError: they cannot be read.
        """
        try:
            with Path(self.tar).open("rb") as file:
                if self.start + self.size > os.fstat(file.fileno()).st_size:  # reading would set all of it aside
                    raise DataError(f"{self} goes beyond the end of the tar file. Get or create it again.")
                file.seek(self.start)
                return file.read(self.size)
        except OSError as error:
            raise DataError(f"{self} cannot be read ({error.strerror or error}).") from error


@dataclass(frozen=True)
class Unlisted:
    """Images that cannot be listed, such as those of a damaged tar file; takes the place of an image.

    Attributes:
        source: What was given.
        problem: What is wrong with it, in a sentence.
    """

    source: str
    problem: str

    def __str__(self) -> str:
        return self.source


def is_url(source: object) -> bool:
    """Whether a source is text that names a file on a web server."""
    return isinstance(source, str) and source.lower().startswith(_SCHEMES)


class ImageSources:
    """The images and clips of files, folders, globs, lists, tar files, URLs and standard input, in the order given.

    Files and folders are found at once, so that mistakes show early; lists, tar files and standard input are read while
    their images are looked at, and take no memory.

    Args:
        sources: Image files and clips; folders, for the images below them in natural order, or the clips where there
            are no images, or else the tar files; patterns such as "photos/**/*.jpg"; text files (.txt) with a path or
            URL a line; tar files, such as WebDataset shards; URLs (http and https); and "-" for standard input, lines
            like those of a text file. Paths in lists are relative to the current folder.
        frame_stride: Take every frame of a clip (1), every second one (2), ...

    Attributes:
        once: Whether they can be listed only once: standard input is among them.

    Raises:
        DataError: a folder has no images, a pattern matches nothing, or a source cannot be used.
    """

    def __init__(self, sources: Sequence[str | Path], frame_stride: int = 1) -> None:
        self._parts: list[list[str | Clip] | Callable[[], Iterator[str | Packed | Unlisted | Clip]]] = []
        self._frame_stride = frame_stride
        self.once = sum(str(source) == STDIN for source in sources) > 0
        if sum(str(source) == STDIN for source in sources) > 1:
            raise DataError("- is given twice, but standard input can be read only once. Leave one out.")
        for source in sources:
            self._add(str(source))

    def __iter__(self) -> Iterator[str | Packed | Unlisted | Clip]:
        return chain.from_iterable(part if isinstance(part, list) else part() for part in self._parts)

    @property
    def total(self) -> int | None:
        """How many images and frames there are, as far as clips say; None where only reading on can tell."""
        lists = [part for part in self._parts if isinstance(part, list)]
        if len(lists) < len(self._parts):
            return None
        counts = [one.count() if isinstance(one, Clip) else 1 for part in lists for one in part]
        return sum(counts) if all(counts) else None

    def _add(self, source: str) -> None:
        path, lower = Path(source), source.lower()
        if source == STDIN:
            self._parts.append(lambda: map(self._named, _lines(sys.stdin.buffer)))
        elif is_url(source) or is_live(source):
            if lower.endswith((".txt", ".tar", *_COMPRESSED)):
                raise DataError(f"{source} is not an image. Download it and give its path.")
            self._add_one(source)
        elif path.is_dir():
            known = get_img_extensions(as_set=True)
            inside = sorted(files_below(path, known), key=natural_key)
            clips = [] if inside else sorted(files_below(path, ENDINGS), key=natural_key)
            tars = [] if inside or clips else sorted(files_below(path, [".tar"]), key=natural_key)
            if not (inside or clips or tars):
                raise DataError(
                    f"{path} has no images or clips. Known file endings are {' '.join(sorted((*known, *ENDINGS)))}."
                )
            self._parts += [[*inside, *map(self._named, clips)], *(_tar(tar) for tar in tars)]
        elif not os.path.lexists(path) and glob.has_magic(source):
            found = [one for one in sorted(glob.glob(source, recursive=True), key=natural_key) if Path(one).is_file()]  # noqa: PTH207 - pathlib's takes no absolute patterns
            if not found:
                raise DataError(f"{source} matches no files. Check the pattern.")
            for one in found:
                self._add_file(one)
        else:
            self._add_file(source)

    def _add_file(self, source: str) -> None:
        lower = source.lower()
        if lower.endswith(_COMPRESSED):
            raise DataError(f"{source} is compressed. Unpack it, or decompress it to a .tar file.")
        if lower.endswith(".tar") and Path(source).is_file():
            self._parts.append(_tar(source))
        elif lower.endswith(".txt") and Path(source).is_file():
            self._parts.append(lambda: map(self._named, _listed(source)))
        else:
            refuse_url(source)
            self._add_one(source)

    def _add_one(self, source: str) -> None:
        if not (self._parts and isinstance(self._parts[-1], list)):
            self._parts.append([])
        cast(list, self._parts[-1]).append(self._named(source))

    def _named(self, one: Any) -> Any:
        """Return a clip for text that names one, and everything else as it is."""
        return Clip(one, self._frame_stride) if is_clip(one) else one


def _tar(path: str) -> Callable[[], Iterator[Packed | Unlisted]]:
    return lambda: _packed(path)


def _lines(file: IO[bytes]) -> Iterator[str]:
    """Yield paths and URLs, one a line; file names need not be text in any encoding."""
    for number, line in enumerate(file):
        name = os.fsdecode((line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line).rstrip(b"\r\n"))
        if name.strip():
            yield name


def _listed(path: str) -> Iterator[str | Unlisted]:
    try:
        with Path(path).open("rb") as file:
            yield from _lines(file)
    except OSError as error:
        yield Unlisted(path, f"{path} cannot be read ({error.strerror}). Check its permissions.")


def _packed(path: str) -> Iterator[Packed | Unlisted]:
    """Yield the images of a tar file; hidden ones, links and other files are left out."""
    known = tuple(get_img_extensions(as_set=True))
    found = False
    try:
        if Path(path).stat().st_size % tarfile.BLOCKSIZE:  # tarfile silently stops at a truncated header
            yield Unlisted(path, f"{path} is truncated or not a plain tar file. Get or create it again.")
            return
        with tarfile.open(path, "r:") as tar:  # in a compressed file there is nothing to find by its place
            while (member := tar.next()) is not None:
                cast(Any, tar).members = []  # it would keep them all
                name = member.name
                hidden = any(part.startswith(".") and part not in (".", "..") for part in PurePosixPath(name).parts)
                if member.isreg() and not hidden and name.lower().endswith(known):
                    found = True
                    yield Packed(path, name, member.offset_data, member.size)
            end = tar.offset
        with Path(path).open("rb") as file:  # tarfile takes a damaged header for the end, which is zeros
            file.seek(end)
            if any(file.read(tarfile.BLOCKSIZE)):
                yield Unlisted(path, f"{path} is damaged after {end} bytes. Get or create it again.")
                return
        if not found:
            yield Unlisted(path, f"{path} has no images. Known file endings are {' '.join(sorted(known))}.")
    except (tarfile.TarError, OSError) as error:
        yield Unlisted(path, f"{path} cannot be read as a tar file ({error}). Get or create it again.")


def fetch(url: str) -> bytes:
    """Return an image from a web server.

    Args:
        url: Beginning with http:// or https://.

    Raises:
        DataError: it cannot be reached, is too slow or too large, or says that it is no image.
    """
    if not is_url(url):
        raise DataError(f"{url} is not a URL, expected one that begins with http:// or https://.")
    end = time.monotonic() + _LONGEST_DOWNLOAD
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "van", "Accept": "image/*"})  # noqa: S310 - checked above
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
            if not is_url(answer.url):  # ftp is allowed in redirections
                raise DataError(f"{url} leads to {answer.url}, expected http or https.")
            kind = answer.headers.get_content_type() if "content-type" in answer.headers else _UNKNOWN_TYPES[0]
            if not (kind.startswith("image/") or kind in _UNKNOWN_TYPES):
                raise DataError(f"{url} is of type {kind}, expected an image. Check the address.")
            content = bytearray()
            while part := answer.read1(1 << 16):
                content += part
                if len(content) > LARGEST_DOWNLOAD:
                    raise DataError(
                        f"{url} has more than {LARGEST_DOWNLOAD // 2**20} MiB. Download it and give its path."
                    )
                if time.monotonic() > end:
                    raise DataError(f"{url} takes more than {_LONGEST_DOWNLOAD:.0f} s. Download it and give its path.")
            expected = answer.headers.get("content-length")
            if expected is not None and expected.isdecimal() and len(content) < int(expected):
                raise DataError(f"{url} breaks off after {len(content)} of {expected} bytes. Try again.")
            return bytes(content)
    except urllib.error.HTTPError as error:
        raise DataError(f"{url} cannot be read: the server answers {error.code} {error.reason}.") from error
    except TimeoutError as error:
        raise DataError(f"{url} does not answer within {_PATIENCE:.0f} s. Try again.") from error
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        why = getattr(error, "reason", None) or error
        if isinstance(why, TimeoutError):
            raise DataError(f"{url} does not answer within {_PATIENCE:.0f} s. Try again.") from error
        raise DataError(f"{url} cannot be read ({why}). Check the address and the network.") from error


# ------------------------------------------------------------------------------------------------ decoding


@dataclass
class PreparedImage:
    """An image that was decoded once.

    Attributes:
        item: What the preparation made of it.
        size: Height and width of the image in pixels.
        path: Its path, URL, or place in a tar file; None where it was in memory.
        image: The RGB image itself, where it was to be kept.
        frame: Its number in a clip, from 1; None for images.
        time: Seconds since the first frame of the clip.
    """

    item: Any
    size: tuple[int, int]
    path: str | None = None
    image: Image.Image | None = None
    frame: int | None = None
    time: float | None = None


@dataclass
class Waiting:
    """An image before it is decoded, in a form that loading processes can be sent.

    Attributes:
        source: Anything that read_image takes, a URL, a frame, or what ImageSources lists.
        path: As in PreparedImage.
        name: What to call it in an error; None takes its path.
    """

    source: Any
    path: str | None
    name: str | None


def in_batches(images: Iterable[Any], batch_size: int, sent: bool) -> Iterator[list[Waiting]]:
    """Yield images in batches, and take no more of them than are asked for.

    Args:
        images: Anything that read_image takes, URLs, and what ImageSources lists; clips stand for their frames.
        batch_size: Images per batch.
        sent: Whether they go to loading processes, where open files cannot go.
    """
    several = not hasattr(images, "__len__") or len(cast(Any, images)) > 1
    numbered = enumerate(with_frames(images, batch_size), 1)
    while batch := list(islice(numbered, batch_size)):
        yield [_waiting(image, f"Image {number}" if several else None, sent) for number, image in batch]


def _waiting(source: Any, name: str | None, sent: bool) -> Waiting:
    path = str(source) if isinstance(source, str | Path | Packed | Unlisted | Frame | BrokenFrame) else None
    named = path or getattr(source, "filename", None) or getattr(source, "name", None)
    name = str(named) if named else name
    if sent and path is None:
        if isinstance(source, Image.Image):
            try:
                source = read_image(source, None, name)
            except DataError as error:
                source = Unlisted(name or "The image", str(error))
        elif hasattr(source, "read"):
            source = cast(Any, source).read()
    return Waiting(source, path, name)


class ImageFiles(Dataset):
    """Images that are decoded once each; an item is a PreparedImage, or the DataError of an image that is broken.

    What stands for an index is a Waiting, so that images can be listed while others are looked at.

    Args:
        prepare: Turns a PIL image into what a network takes, such as a tensor.
        mode: PIL mode of the images that prepare gets.
        keep: Keep the RGB images too, to draw on.
    """

    def __init__(self, prepare: Callable[[Any], Any], mode: str = "RGB", keep: bool = False) -> None:
        self.prepare = prepare
        self.mode = mode
        self.keep = keep

    def __getitem__(self, waiting: Waiting) -> PreparedImage | DataError:
        try:
            image = kept = read_image(_content(waiting.source), None if self.keep else self.mode, waiting.name)
            if self.keep:
                image, kept = one_mode(image, self.mode), one_mode(image, "RGB")
            # decoding has dropped it; a frame is no file
            frame = waiting.source if isinstance(waiting.source, Frame) else None
            name = "" if frame else waiting.path or getattr(waiting.source, "filename", "")
            cast(Any, image).filename = name
            item = self.prepare(image)
            place = (frame.number, frame.time) if frame else (None, None)
            return PreparedImage(item, (image.height, image.width), waiting.path, kept if self.keep else None, *place)
        except DataError as error:
            return error


def _content(source: Any) -> ImageLike:
    """Return what read_image takes."""
    if isinstance(source, Unlisted | BrokenFrame):
        raise DataError(source.problem)
    if isinstance(source, Frame):
        return source.image
    if is_url(source):
        return fetch(source)
    return cast(Any, source).read() if isinstance(source, Packed) else source
