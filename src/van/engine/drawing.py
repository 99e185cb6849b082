"""Draw predictions and annotations on images. Arrays in, PIL images out.

The drawing functions return a new RGB image. Its longer side has `size` pixels; without a size it is that of the image,
or a whole multiple of it with at least 512 pixels, so that labels stay legible. Lines and text have the same thickness
whatever the scale, so draw at the size at which the result will be seen.
"""

import colorsys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from van.errors import DataError

Colour = tuple[int, int, int]
LegendEntry = tuple[str, Colour | None]
"""A name and its colour; None stands for the stripes of pixels without a label."""

# left and right in two colours of Okabe and Ito, the middle in white: distinct for every reader on a dark rim
LEFT, RIGHT, MIDDLE = (230, 159, 0), (86, 180, 233), (255, 255, 255)
SIDES: tuple[LegendEntry, ...] = (("the person's left", LEFT), ("the person's right", RIGHT), ("middle", MIDDLE))
"""Legend of `draw_keypoints`."""

_LEGIBLE = 512  # pixels of the longer side: names cannot be read on smaller images
_LONGEST_NAME = 24  # characters
_SHORTEST = 3  # letters of a name that is cut in the middle
_LEGEND_LINES = 8  # of the legend beside an image, however low the image is
_TINT = 0.6  # of class colours
_MASK_TINT = 0.4  # of instance masks, which may overlap
_BASE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
_SHADES = (0.0, 0.5, -0.45, 0.25, -0.25)  # towards white, towards black
# DejaVu comes with matplotlib; the others are the usual fonts for East Asian names
_FAMILIES = (
    *("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Zen Hei", "IPAexGothic"),
    *("Microsoft YaHei", "Malgun Gothic", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo"),
)


# --------------------------------------------------------------------------------------------------- colours and text


def palette(count: int) -> np.ndarray:
    """Return a colour for each label, independent of the number of classes.

    Okabe and Ito's colours, which colour-blind readers can tell apart, then shades of them, then evenly spread hues of
    alternating brightness. Drawings also write the names.

    Returns:
        RGB, shape (count, 3), uint8.
    """
    colours = []
    for i in range(count):
        turn, place = divmod(i, len(_BASE))
        if turn < len(_SHADES):
            colours.append(_shade(np.array([int(_BASE[place][k : k + 2], 16) for k in (1, 3, 5)]), _SHADES[turn]))
        else:
            hue = i * 0.618034 % 1
            colours.append(255 * np.array(colorsys.hls_to_rgb(hue, (0.35, 0.55, 0.75)[i % 3], (0.9, 0.6)[i // 3 % 2])))
    return np.array(colours).round().astype(np.uint8).reshape(count, 3)


def _shade(colour: np.ndarray, amount: float) -> np.ndarray:
    """Return a colour moved towards white (amounts up to 1) or black (down to -1)."""
    return colour + (255 - colour) * amount if amount > 0 else colour * (1 + amount)


def shorten(text: str, length: int) -> str:
    """Return a text of one line, cut in the middle where it has more characters than `length`."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length // 2] + "…" + text[length // 2 + 1 - length :]


@cache
def font_families() -> tuple[str, ...]:
    """Return the installed font families that drawings and plots use, in order of preference."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return tuple(name for name in _FAMILIES if name in installed)


@cache
def _font_file(family: str) -> tuple[str, frozenset[int]]:
    from matplotlib import font_manager

    file = str(font_manager.findfont(family))
    return file, frozenset(font_manager.get_font(file).get_charmap())


def printable(text: str) -> str:
    """Return a text of one line with a box in place of characters that no installed font has."""
    known = (_font_file(family)[1] for family in font_families())  # large fonts are read only where they are needed
    missing = {ord(character) for character in text} - {ord(" ")}
    for characters in known:
        if not (missing := missing - characters):
            break
    return "".join("□" if ord(c) in missing else c for c in " ".join(text.split()))


@cache
def _truetype(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return the first font that has all characters of a text, or else the first."""
    codes = {ord(character) for character in text}
    families = font_families()
    file = next((file for file, known in map(_font_file, families) if codes <= known), _font_file(families[0])[0])
    return _truetype(file, size)


def _text_height(size: tuple[int, int]) -> int:
    """Return the size of the font for legends and large objects."""
    return max(13, round(max(size) / 55))


def _triple(colour: Any) -> Colour:
    red, green, blue = (int(channel) for channel in colour)
    return red, green, blue


# ---------------------------------------------------------------------------------------------------- shared primitives


def _canvas(image: Image.Image, size: int | None) -> tuple[Image.Image, np.ndarray]:
    """Return a copy of an image at the size of the drawing, and the factors (x, y) it was scaled by."""
    picture, edge = image.convert("RGB"), max(image.size)
    factor = max(1, -(-_LEGIBLE // edge)) if size is None else size / edge
    if factor != 1:
        shape = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        picture = picture.resize(shape, Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.LANCZOS)
    return picture, np.array(picture.size) / np.array(image.size)


def _resized(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an array (H, W) of labels at a size (width, height), by the nearest pixel."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size[::-1], array.shape, strict=True)
    )
    return array[rows[:, None], columns]


def _check_shape(image: Image.Image, array: np.ndarray, what: str) -> None:
    if image.size != array.shape[::-1]:
        raise DataError(
            f"The {what} has shape {array.shape}, but the image has {image.height} x {image.width} pixels. "
            "Both must have the same height and width."
        )


class _Labels:
    """Writes texts beside objects so that they hide neither each other nor small objects."""

    def __init__(self, picture: Image.Image, objects: np.ndarray):
        self.draw = ImageDraw.Draw(picture)
        self.size = picture.size
        self.objects = objects.reshape(-1, 4)
        self.taken = np.empty((0, 4))
        self.texts: list[tuple[str, ImageFont.FreeTypeFont, Colour]] = []
        self.full: list[tuple[float, float]] = []  # sizes of texts for which there is no free place any more

    def add(self, text: str, box: Sequence[float], colour: Colour, centred: bool = False) -> None:
        """Place a text at a box (x1, y1, x2, y2): in its middle, or above it and otherwise where there is room."""
        text = shorten(printable(text), max(4, self.size[0] // 8))
        largest = _text_height(self.size)
        # a text as wide as its object where that is legible
        wanted = largest * (box[2] - box[0]) / max(1.0, font_for(text, largest).getlength(text))
        font = font_for(text, round(min(max(wanted, max(12, largest * 0.65)), largest)))
        left, top, right, bottom = font.getbbox(text)
        while right - left + 6 >= self.size[0] and len(text) > 1:  # on very narrow images
            text = shorten(text, len(text) - 1) if len(text) > _SHORTEST else text[:-1]
            left, top, right, bottom = font.getbbox(text)
        place = self._place(box, right - left + 6, bottom - top + 6, centred)
        self._connect(place, box, colour)
        self.taken = np.vstack([self.taken, place])
        self.texts.append((text, font, colour))

    def write(self) -> None:
        """Write the texts, above the lines that connect them with their objects."""
        for place, (text, font, colour) in zip(self.taken.tolist(), self.texts, strict=True):
            left, top, *_ = font.getbbox(text)
            self.draw.rectangle(place, fill=colour, outline="black")
            ink = "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else "white"
            self.draw.text((place[0] + 3 - left, place[1] + 3 - top), text, fill=ink, font=font)

    def _place(self, box: Sequence[float], wide: float, high: float, centred: bool) -> np.ndarray:
        """Return the rectangle of a text of this size, the best of those at the box and around it."""
        x1, y1, x2, y2 = box
        middle = ((x1 + x2 - wide) / 2, (y1 + y2 - high) / 2)
        across = (x1, x2 - wide, middle[0])
        corners = [middle] if centred else []
        corners += [(x, y) for y in (y1 - high, y2 + 1, y1 + 2, y2 - high - 2) for x in across]
        corners += [(x, y) for x in (x2 + 1, x1 - wide - 1) for y in (y1, y2 - high, middle[1])]
        for step in range(1, 9):  # further and further away
            away = step * (high + 1)
            corners += [(x, y) for y in (y1 - high - away, y2 + 1 + away) for x in across]
            corners += [(x, y) for x in (x2 + away, x1 - wide - away) for y in (y1 - away, middle[1], y2 + away)]
        room = np.maximum(np.array(self.size) - (wide, high) - 1, 0)
        lows = np.clip(np.array(corners), 0, room)
        places = np.hstack([lows, lows + np.array((wide, high))])
        hidden = (_overlaps(places, self.objects) / _areas(self.objects).clip(1)).sum(axis=1)
        covered = (_overlaps(places, self.taken) > 1).sum(axis=1)
        best = int((10 * covered + hidden + 0.02 * np.arange(len(places))).argmin())
        free = self._free((wide, high), (x1 + x2, y1 + y2)) if covered[best] else None
        return places[best] if free is None else free

    def _free(self, size: tuple[float, float], twice: tuple[float, float]) -> np.ndarray | None:
        """Return the place of a text of this size that covers no other, nearest to a middle; None where there is none.

        Where there is any, there is also one that touches others, or the picture's edge, on its left and above.
        """
        if any(wide <= size[0] and high <= size[1] for wide, high in self.full):
            return None
        room = np.array(self.size) - size - 1
        corners = np.stack(
            np.meshgrid(np.append(self.taken[:, 2] + 1, 0), np.append(self.taken[:, 3] + 1, 0)), axis=-1
        ).reshape(-1, 2)
        corners = corners[(corners <= room).all(axis=1)]
        corners = corners[np.argsort(np.abs(2 * corners + size - twice).sum(axis=1), kind="stable")]
        for some in np.array_split(corners, max(1, len(corners) // 512)):  # nearest first
            places = np.hstack([some, some + size])
            free = ~(_overlaps(places, self.taken) > 1).any(axis=1)
            if free.any():
                return places[int(free.argmax())]
        self.full.append(size)
        return None

    def _connect(self, place: np.ndarray, box: Sequence[float], colour: Colour) -> None:
        """Draw a line from a text to its object where they are apart."""
        low, high = np.maximum(place[:2], box[:2]), np.minimum(place[2:], box[2:])
        start, end = np.where(low <= high, (low + high) / 2, high), np.where(low <= high, (low + high) / 2, low)
        if np.abs(end - start).max() > 4:
            ends = [float(v) for v in (*np.clip(start, place[:2], place[2:]), *np.clip(end, box[:2], box[2:]))]
            for fill, width in (("black", 3), (colour, 1)):
                self.draw.line(ends, fill=fill, width=width)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _overlaps(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the areas that rectangles have in common, shape (ones, others)."""
    low, high = np.maximum(ones[:, None, :2], others[:, :2]), np.minimum(ones[:, None, 2:], others[:, 2:])
    return (high - low).clip(0).prod(axis=2)


def draw_note(image: Image.Image, text: str) -> Image.Image:
    """Return an image with a note at its lower left edge, such as that nothing was found."""
    picture = image.convert("RGB")
    draw, height = ImageDraw.Draw(picture), _text_height(picture.size)
    text = printable(text)
    font = font_for(text, height)
    letters = max(8, int((picture.width - 12) / (font.getlength(text) / max(1, len(text)) + 0.5)))
    lines = textwrap.fill(text, letters)
    left, top, right, bottom = draw.multiline_textbbox((0, 0), lines, font=font)
    y = picture.height - (bottom - top) - 12
    draw.rectangle((0, y, right - left + 12, picture.height), fill="black")
    draw.multiline_text((6 - left, y + 6 - top), lines, fill="white", font=font)
    return picture


def _stripes(width: int, height: int, step: int) -> np.ndarray:
    """Return which pixels of a pattern of diagonal stripes are light, shape (height, width)."""
    return (np.add.outer(np.arange(height), np.arange(width)) // step % 2).astype(bool)


@lru_cache(maxsize=8)
def _widest(texts: tuple[str, ...], height: int) -> float:
    """Return the width of the widest of some texts of one line in pixels."""
    shown = [shorten(printable(text), _LONGEST_NAME + 14) for text in texts]
    return max((font_for(text, height).getlength(text) for text in shown), default=0)


def _with_legend(picture: Image.Image, entries: Iterable[LegendEntry], possible: Sequence[str]) -> Image.Image:
    """Return a picture with names and colours on its right; white space below where they are more than its height.

    Args:
        picture: Of any size.
        entries: What to list.
        possible: The widest texts that entries may have; pictures of one video have the same size by them.
    """
    entries = [(shorten(printable(name), _LONGEST_NAME + 14), colour) for name, colour in entries]
    height = _text_height(picture.size)
    line = height + height // 2
    most = max(_LEGEND_LINES, (picture.height - line // 2) // line)
    if len(entries) > most:
        entries = [*entries[: most - 1], (f"and {len(entries) - most + 1} more", (255, 255, 255))]
    fonts = [font_for(text, height) for text, _ in entries]
    width = round(max(_widest(tuple(possible), height), _widest(tuple(text for text, _ in entries), height)))
    rows = min(most, len(possible))
    canvas = Image.new("RGB", (picture.width + width + 3 * line, max(picture.height, line // 2 + rows * line)), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for i, (font, (text, colour)) in enumerate(zip(fonts, entries, strict=True)):
        x, y = picture.width + line // 2, line // 2 + i * line
        if colour is None:
            light = _stripes(height, height, max(2, height // 5))
            canvas.paste(Image.fromarray(np.where(light, 160, 100).astype(np.uint8)), (x, y))
        if not (i == most - 1 and text.startswith("and ")):
            draw.rectangle((x, y, x + height, y + height), fill=colour, outline="black")
        draw.text((x + line, y + height / 2), text, fill="black", font=font, anchor="lm")
    return canvas


# ---------------------------------------------------------------------------------------------------- boxes and poses


def draw_boxes(
    image: Image.Image,
    boxes: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    scores: Sequence[float] | np.ndarray | None = None,
    masks: np.ndarray | None = None,
    size: int | None = None,
    track_ids: np.ndarray | None = None,
) -> Image.Image:
    """Draw boxes with class names, and masks, in the colours of the classes.

    Args:
        image: Of any mode.
        boxes: Corners x1, y1, x2, y2 in pixels of the image, shape (N, 4).
        labels: Class indices, shape (N,).
        class_names: Name of each class.
        scores: From 0 to 1, shape (N,), written behind the names; None for annotations.
        masks: Which pixels belong to each object, bool, shape (N, H, W).
        size: Longer side of the result in pixels.
        track_ids: Numbers of the objects, shape (N,), written before the names; -1 for none.

    Raises:
        DataError: the masks and the image differ in height or width.
    """
    picture, scale = _canvas(image, size)
    colours = [_triple(colour) for colour in palette(len(class_names))]
    width = max(2, round(max(picture.size) / 400))
    inside = np.array(picture.size) - 1.0
    placed = np.asarray(boxes, dtype=float).reshape(-1, 2, 2) * scale
    low = np.clip(placed[:, 0], 0, inside - 3)
    placed = np.hstack([low, np.maximum(np.minimum(placed[:, 1], inside), low + 3).clip(None, inside)])
    order = np.argsort(-_areas(placed), kind="stable").tolist()  # large ones first, so that they hide nothing
    if masks is not None:
        for i in order:
            _check_shape(image, masks[i], "mask")
            _draw_mask(picture, masks[i], colours[int(labels[i])], width)
    draw = ImageDraw.Draw(picture)
    for i in order:
        x1, y1, x2, y2 = placed[i].tolist()
        draw.rectangle((x1, y1, x2, y2), outline="black", width=width + 2)  # visible on any background
        if min(x2 - x1, y2 - y1) > 2:
            draw.rectangle((x1 + 1, y1 + 1, x2 - 1, y2 - 1), outline=colours[int(labels[i])], width=width)
    writer = _Labels(picture, placed)
    names = [shorten(class_names[int(label)], _LONGEST_NAME) for label in labels]
    if scores is not None:
        names = [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
    texts = with_ids(names, track_ids)
    for i in range(len(placed)) if scores is None else np.argsort(-np.asarray(scores), kind="stable").tolist():
        writer.add(texts[i], placed[i].tolist(), colours[int(labels[i])])
    writer.write()
    return picture


def with_ids(texts: Sequence[str], track_ids: np.ndarray | None) -> list[str]:
    """Return the texts of objects with the numbers of their tracks before them, where they have one.

    Args:
        texts: Of each object.
        track_ids: Of each object, -1 for none; None where objects are not tracked.
    """
    ids = [-1] * len(texts) if track_ids is None else track_ids.tolist()
    return [text if number < 0 else f"#{number} {text}" for text, number in zip(texts, ids, strict=True)]


def _draw_mask(picture: Image.Image, mask: np.ndarray, colour: Colour, width: int) -> None:
    """Tint the pixels of a mask, and draw its outline."""
    pixels = _resized(mask.astype(bool), picture.size)
    core = pixels.copy()
    for shift in range(1, width // 2 + 1):
        core[shift:] &= pixels[:-shift]
        core[:-shift] &= pixels[shift:]
        core[:, shift:] &= pixels[:, :-shift]
        core[:, :-shift] &= pixels[:, shift:]
    strength = np.where(core, np.uint8(round(255 * _MASK_TINT)), np.where(pixels, np.uint8(255), np.uint8(0)))
    picture.paste(colour, (0, 0), Image.fromarray(strength))


def _side(names: Sequence[str]) -> Colour:
    """Return the colour of the side of the body that keypoints are on; that of the middle where they differ."""
    sides = {next((side for side in ("left", "right") if side in name.lower()), "middle") for name in names}
    return {"left": LEFT, "right": RIGHT}.get(sides.pop(), MIDDLE) if len(sides) == 1 else MIDDLE


def draw_keypoints(
    image: Image.Image,
    persons: Sequence[np.ndarray],
    keypoint_names: Sequence[str],
    skeleton: Sequence[tuple[int, int]],
    texts: Sequence[str] = (),
    score_threshold: float = 0.2,
    size: int | None = None,
) -> Image.Image:
    """Draw skeletons: left sides orange, right ones blue, all with a dark rim.

    A note on the image says so where there are no persons, or persons of whom nothing can be drawn.

    Args:
        image: Of any mode.
        persons: (K, 3) each: x, y in pixels of the image, score or visibility.
        keypoint_names: Names of the keypoints.
        skeleton: Pairs of keypoints that are joined.
        texts: A text for each person, written above the head.
        score_threshold: Keypoints with a lower score are left out.
        size: Longer side of the result in pixels.
    """
    picture, scale = _canvas(image, size)
    draw = ImageDraw.Draw(picture)
    unit = max(picture.size) / 480
    heads, shown_texts = [], []
    for number, person in enumerate(persons):
        shown = person[:, 2] >= score_threshold
        if not shown.any():
            continue
        places = (person[:, :2] + 0.5) * scale - 0.5
        points = [tuple(place) for place in places.tolist()]
        # lines as thick as the person allows: thin ones on a small person in a large image
        extent = float(np.ptp(places[shown], axis=0).max())
        width = min(max(2.0 * unit, extent / 50), 6.0 * unit)
        for rim in (True, False):
            for a, b in skeleton:
                if shown[a] and shown[b]:
                    colour = (0, 0, 0) if rim else _side([keypoint_names[a], keypoint_names[b]])
                    thick = max(1, round(width + (2 * unit if rim else 0)))
                    draw.line([points[a], points[b]], fill=colour, width=thick)
        radius = 0.9 * width + 0.5 * unit
        for (x, y), name, visible in zip(points, keypoint_names, shown, strict=True):
            if visible:
                circle = (x - radius, y - radius, x + radius, y + radius)
                draw.ellipse(circle, fill=_side([name]), outline="black", width=max(1, round(unit)))
        if number < len(texts):
            # the text goes above the highest keypoint
            x, y = places[shown][np.argmin(places[shown, 1])]
            heads.append((x - extent / 6, y - radius - 4 * unit, x + extent / 6, y + extent / 6))
            shown_texts.append(texts[number])
    writer = _Labels(picture, np.array(heads))
    for text, head in zip(shown_texts, heads, strict=True):
        writer.add(text, head, (0, 0, 0))
    writer.write()
    if not persons:
        return draw_note(picture, "no persons")
    best = [float(person[:, 2].max(initial=0.0)) for person in persons]
    failed = [score for score in best if score < score_threshold]
    if not failed:
        return picture
    who = "" if len(failed) == len(persons) == 1 else f"{len(failed)} of {len(persons)} persons: "
    return draw_note(picture, f"{who}no keypoint above {score_threshold:g} (best {max(failed):.2f})")


# ------------------------------------------------------------------------------------------------------ labelled pixels


def class_map(labels: np.ndarray, count: int) -> Image.Image:
    """Return labels as an image whose pixel values are the labels, with a palette that colours them.

    Args:
        labels: Class indices, 255 where there is none, shape (H, W).
        count: Number of classes.
    """
    image = Image.fromarray(labels.astype(np.uint8))
    colours = np.zeros((256, 3), np.uint8)
    colours[:count] = palette(count)
    image.putpalette(colours.ravel().tolist())
    return image


def class_shares(labels: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Return the share of all pixels that each class of a label map (H, W) covers, the largest first."""
    return {class_names[label]: share for label, share in _shares(labels, len(class_names))}


def _shares(labels: np.ndarray, count: int) -> list[tuple[int, float]]:
    counts = np.bincount(labels[labels < count], minlength=count)
    return [(int(i), float(counts[i] / labels.size)) for i in np.argsort(-counts, kind="stable") if counts[i]]


def _is_background(name: str) -> bool:
    return name.strip(" _").lower() in ("background", "bg")


def class_legend(class_names: Sequence[str], unlabelled: str = "ignored") -> list[LegendEntry]:
    """Return names and colours of all classes as `draw_classes` draws them, and last the pixels without a class."""
    colours = palette(len(class_names))
    entries: list[LegendEntry] = [
        (f"{name} (not coloured)", (255, 255, 255)) if _is_background(name) else (name, _triple(colour))
        for name, colour in zip(class_names, colours, strict=True)
    ]
    return [*entries, (unlabelled, None)]


def _tinted(
    image: Image.Image, numbers: np.ndarray, colours: np.ndarray, tinted: np.ndarray, striped: np.ndarray,
    size: int | None,
) -> tuple[Image.Image, np.ndarray]:  # fmt: skip
    """Colour pixels by their number over grey, stripe those without a label, and draw white lines between numbers.

    Returns:
        The picture, and the factors (x, y) it was scaled by.
    """
    picture, scale = _canvas(image, size)
    numbers, tinted, striped = (_resized(part, picture.size) for part in (numbers, tinted, striped))
    # uint8 throughout: large images would take gigabytes as floats
    overlay = Image.fromarray(colours.round().astype(np.uint8)[np.where(tinted, numbers, 0)])
    grey = picture.convert("L").convert("RGB")
    pixels = np.where(tinted[..., None], np.asarray(Image.blend(grey, overlay, _TINT)), np.asarray(picture))
    if striped.any():
        light = _stripes(picture.width, picture.height, max(3, max(picture.size) // 160))
        pattern = Image.fromarray(np.where(light, 170, 0).astype(np.uint8)).convert("RGB")
        pixels = np.where(striped[..., None], np.asarray(Image.blend(grey, pattern, 0.3)), pixels)
    edges = np.zeros(numbers.shape, bool)
    edges[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    edges[1:] |= numbers[1:] != numbers[:-1]
    for _ in range(max(picture.size) // 1200):
        edges[1:] |= edges[:-1]
        edges[:, 1:] |= edges[:, :-1]
    pixels[edges] = 255
    return Image.fromarray(pixels), scale


def draw_classes(
    image: Image.Image,
    labels: np.ndarray,
    class_names: Sequence[str],
    legend: bool = True,
    size: int | None = None,
) -> Image.Image:
    """Colour an image by the classes of its pixels.

    A class named "background" is left as it is; pixels without a class are striped.

    Args:
        image: Of any mode.
        labels: Class indices, shape (H, W); 255, or anything else that is no class, where pixels are ignored.
        class_names: Name of each class.
        legend: Whether to write colours, names and shares of the pixels on the right, the largest first.
        size: Longer side of the image in the result in pixels, without the legend.

    Raises:
        DataError: the labels and the image differ in height or width.
    """
    _check_shape(image, labels, "label map")
    count = len(class_names)
    coloured = np.array([*(not _is_background(name) for name in class_names), False])
    labels = np.minimum(labels, count)
    ignored = labels == count
    picture, _ = _tinted(image, labels, palette(count), coloured[labels], ignored, size)
    if not legend:
        return picture
    every = class_legend([shorten(name, _LONGEST_NAME) for name in class_names])
    shares = [*_shares(labels, count), *([(count, float(ignored.mean()))] if ignored.any() else [])]
    entries = [(f"{every[i][0]} {100 * share:.1f} %", every[i][1]) for i, share in shares]
    return _with_legend(picture, entries, [f"{name} 100.0 %" for name, _ in every])


def draw_segments(
    image: Image.Image,
    segmentation: np.ndarray,
    segments: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    legend: bool = True,
    size: int | None = None,
) -> Image.Image:
    """Colour an image by its segments: every object in another shade of its class's colour, with its name.

    Pixels that belong to no segment are striped.

    Args:
        image: Of any mode.
        segmentation: Number of the segment of each pixel, 0 for none, shape (H, W).
        segments: For each segment its id (that number), label and isthing, and perhaps score and iscrowd.
        class_names: Name of each class.
        legend: Whether to write colours, names and numbers of segments on the right.
        size: Longer side of the image in the result in pixels, without the legend.

    Raises:
        DataError: the segmentation and the image differ in height or width.
    """
    _check_shape(image, segmentation, "segmentation")
    base = palette(len(class_names)).astype(float)
    colours = np.zeros((max([int(s["id"]) for s in segments] + [int(segmentation.max(initial=0))]) + 1, 3))
    seen: dict[int, int] = {}
    for segment in segments:
        label = int(segment["label"])
        turn = seen[label] = seen.get(label, -1) + 1
        colours[int(segment["id"])] = _shade(base[label], (0.0, 0.35, -0.3, 0.55, -0.5)[turn % 5])
    none = segmentation == 0
    picture, scale = _tinted(image, segmentation, colours, ~none, none, size)
    writer = _Labels(picture, np.empty((0, 4)))
    for segment in segments:
        ys, xs = np.nonzero(segmentation == segment["id"])
        if not segment.get("isthing") or not len(ys):
            continue
        # the pixel of the segment that is nearest to its middle: the middle itself may lie outside
        near = int(np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2))
        x, y = (np.array([xs[near], ys[near]]) + 0.5) * scale
        half = np.ptp(xs) * scale[0] / 2
        text = shorten(class_names[int(segment["label"])], _LONGEST_NAME) + (" group" if segment.get("iscrowd") else "")
        text += f" {segment['score']:.2f}" if "score" in segment else ""
        writer.add(text, (x - half, y - 1, x + half, y + 1), _triple(colours[int(segment["id"])]), centred=True)
    writer.write()
    if not legend:
        return picture
    entries: list[LegendEntry] = [
        (f"{shorten(class_names[label], _LONGEST_NAME)}: {turn + 1}", _triple(base[label]))
        for label, turn in sorted(seen.items())
    ]
    if none.any():
        entries.append((f"no segment {100 * none.mean():.1f} %", None))
    possible = [f"{shorten(name, _LONGEST_NAME)}: 00" for name in class_names]
    return _with_legend(picture, entries, [*possible, "no segment 100.0 %"])


# ------------------------------------------------------------------------------------------------ saliency and rankings


def saliency_image(saliency: np.ndarray) -> Image.Image:
    """Return saliency from 0 to 1, shape (H, W), as a greyscale image."""
    return Image.fromarray((saliency.clip(0, 1) * 255).round().astype(np.uint8))


def draw_saliency(image: Image.Image, saliency: np.ndarray, size: int | None = None) -> Image.Image:
    """Return an image, its saliency with a scale, and the image with everything else dimmed, side by side.

    Args:
        image: Of any mode.
        saliency: From 0 to 1, shape (H, W).
        size: Longer side of each of the three panels in pixels.

    Raises:
        DataError: the map and the image differ in height or width.
    """
    _check_shape(image, saliency, "saliency map")
    picture, _ = _canvas(image, size)
    grey = saliency_image(saliency).resize(picture.size, Image.Resampling.BILINEAR)
    cut = Image.composite(picture, Image.eval(picture, lambda value: value // 5), grey)
    width, height = picture.size
    text, gap = _text_height(picture.size), max(8, width // 40)
    line = 2 * text
    canvas = Image.new("RGB", (3 * width + 2 * gap, height + 2 * line), "white")
    draw = ImageDraw.Draw(canvas)
    font = font_for("saliency", text)
    panels = (("image", picture), ("saliency", grey), ("salient part", cut))
    for i, (name, panel) in enumerate(panels):
        canvas.paste(panel.convert("RGB"), (i * (width + gap), line))
        draw.text((i * (width + gap) + width / 2, line / 2), name, fill="black", font=font, anchor="mm")
    bar = Image.linear_gradient("L").rotate(90).resize((max(1, width // 2), text))
    x, y = width + gap + width // 4, height + line + text // 2
    canvas.paste(bar.convert("RGB"), (x, y))
    draw.rectangle((x - 1, y - 1, x + bar.width, y + text), outline="black")
    draw.text((x - text // 2, y + text / 2), "0", fill="black", font=font, anchor="rm")
    draw.text((x + bar.width + text // 2, y + text / 2), "1", fill="black", font=font, anchor="lm")
    return canvas


def _beside(
    image: Image.Image,
    names: Sequence[str],
    amounts: Sequence[str],
    size: int | None,
    row: float,
    class_names: Sequence[str] = (),
    rows: int = 0,
) -> tuple[Image.Image, ImageDraw.ImageDraw, int, int, int, list[int]]:
    """Return an image with lines of text and amounts on its right, and where to draw on.

    Args:
        image: Of any mode.
        names: Begin the lines.
        amounts: End the lines.
        size: Longer side of the image in pixels.
        row: Height of a line by that of its text.
        class_names: All names, which there is to be room for.
        rows: Lines that there is to be room for.

    Returns:
        The picture, what draws on it, height of the text, left and right edge of the lines, and the top of each.
    """
    picture, _ = _canvas(image, size)
    height = _text_height(picture.size)
    texts = [shorten(printable(name), _LONGEST_NAME + 14) for name in names]
    widest = max(_widest(tuple(names), height), _widest(tuple(class_names), height))
    width = max(12 * height, round(widest + 5 * height))
    step = round(row * height)
    below = max(len(texts), rows) * step + height
    canvas = Image.new("RGB", (picture.width + width + 2 * height, max(picture.height, below)), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    left, right = picture.width + height, picture.width + height + width
    tops = [height // 2 + i * step for i in range(len(texts))]
    for y, text, amount in zip(tops, texts, amounts, strict=True):
        draw.text((left, y + height / 2), text, fill="black", font=font_for(text, height), anchor="lm")
        draw.text((right, y + height / 2), amount, fill="black", font=font_for(amount, height), anchor="rm")
    return canvas, draw, height, left, right, tops


def draw_ranking(
    image: Image.Image,
    names: Sequence[str],
    probabilities: Sequence[float] | np.ndarray,
    size: int | None = None,
    class_names: Sequence[str] = (),
    rows: int = 0,
) -> Image.Image:
    """Return an image with its most likely classes on the right, as names with bars.

    Args:
        image: Of any mode.
        names: Classes to show, the most likely first.
        probabilities: Of each, from 0 to 1.
        size: Longer side of the image in the result in pixels, without the bars.
        class_names: All names, which there is to be room for.
        rows: Classes that there is to be room for.
    """
    percent = [f"{100 * probability:.1f} %" for probability in probabilities]
    canvas, draw, height, left, right, tops = _beside(image, names, percent, size, 2.2, class_names, rows)
    for y, probability in zip(tops, probabilities, strict=True):
        bar = (y + round(1.25 * height), y + round(1.6 * height))
        draw.rectangle((left, bar[0], right, bar[1]), fill="#e6e6e6")
        draw.rectangle((left, bar[0], left + (right - left) * float(probability), bar[1]), fill=_BASE[0])
    return canvas


def draw_values(
    image: Image.Image, names: Sequence[str], values: Sequence[str], size: int | None = None
) -> Image.Image:
    """Return an image with values on the right.

    Args:
        image: Of any mode.
        names: What the values are called.
        values: As they are shown.
        size: Longer side of the image in the result in pixels, without the values.
    """
    return _beside(image, names, values, size, 1.6)[0]
