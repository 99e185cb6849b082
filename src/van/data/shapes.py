"""The built-in data set of dense tasks: images of shapes and stick figures, in COCO formats.

Outline and marking tell the shapes apart. Color is a hint only: three quarters of the shapes have the typical color of
their class, the others a random one. Texture, size and position are drawn from the same distributions for all classes.
Figures seen from the front show a face; figures seen from behind show hair and a satchel. Left and right can therefore
be told apart, and a mirrored image is as valid as the original.
"""

import colorsys
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import contour_generator
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from van.errors import DataError
from van.files import new_folder_at

KEYPOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""The 17 COCO keypoints, in COCO's order."""

# 1-based, as in COCO
_SKELETON = [
    *((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11)),
    *((2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)),
]

# 4 is left out on purpose: COCO's category ids have gaps as well
THINGS = {"person": 1, "circle": 2, "square": 3, "triangle": 5, "star": 6}
STUFF = {"sky": 92, "ground": 93}
_COLORS = {
    "person": (220, 20, 60),
    "circle": (0, 82, 220),
    "square": (250, 170, 30),
    "triangle": (110, 30, 150),
    "star": (235, 215, 90),
    "sky": (110, 170, 200),
    "ground": (90, 140, 80),
}
_SUPERCATEGORY = {"person": "person", "sky": "background", "ground": "background"}

# typical hue of each class, and how often a shape has it
_HUES = {"circle": 0.02, "square": 0.6, "triangle": 0.36, "star": 0.14}
_USUAL_HUE = 0.75
_FINE = 4  # supersampling factor
_CLASSES = [*THINGS, *STUFF]
_VOID = 255

Color = tuple[int, int, int]


def make_shapes(folder: str | Path, images: int = 2400, size: int = 128, seed: int = 0) -> None:
    """Write the data set. The same arguments give identical files with the same versions of NumPy and Pillow.

    FOLDER/{train,val}/*.jpg are the images, four fifths of them for training. FOLDER/annotations holds
    instances_SPLIT.json (boxes, masks as polygons and RLE, crowd regions), person_keypoints_SPLIT.json (COCO's 17
    keypoints), panoptic_SPLIT.json and panoptic_SPLIT/*.png. FOLDER/semantic holds label maps as PNG (255 is ignored)
    and classes.txt. FOLDER/saliency/masks/SPLIT holds masks of 0 and 255, FOLDER/saliency/images/SPLIT copies of their
    images; images without objects are left out, as in other saliency data sets. Boxes, areas and masks cover only what
    is visible.

    Args:
        folder: Folder to write, which must be empty or not exist. It appears only when everything is written.
        images: Number of images, at least 2.
        size: Longer side in pixels, at least 48; the shorter side is as long or three quarters of it.
        seed: Random seed, 0 or more.

    Raises:
        DataError: the folder is not empty, or an argument is out of range.
    """
    folder = Path(folder)
    for name, value, least in (("images", images, 2), ("size", size, 48), ("seed", seed, 0)):
        if value < least:
            raise DataError(f"{name} is {value}, expected {least} or more.")
    held_out = max(1, images // 5)
    numbers = list(range(1, images + 1))
    with new_folder_at(folder) as beside:
        with tqdm(total=images, desc="Drawing shapes", unit=" images", leave=False, disable=None) as progress:
            _write_split(beside, "train", numbers[:-held_out], size, seed, progress)
            _write_split(beside, "val", numbers[-held_out:], size, seed, progress)
        (beside / "semantic" / "classes.txt").write_text("\n".join(_CLASSES) + "\n")


def shapes_folder(root: str | Path | None = None) -> Path:
    """Return the folder of the data set at its default size, creating it if it is missing.

    Args:
        root: Folder of the data sets; by default "data". The folder returned is ROOT/shapes.
    """
    folder = Path(root or "data") / "shapes"
    if not folder.is_dir() or not any(folder.iterdir()):
        try:
            make_shapes(folder)
        except DataError:
            if not (folder / "semantic" / "classes.txt").is_file():  # no other process was faster
                raise
    return folder


# ---------------------------------------------------------------------------------------------------------- drawing


@dataclass
class _Layer:
    """A drawn object: premultiplied color (h, w, 3) from 0 to 255, alpha (h, w) from 0 to 1, and its position."""

    category: str
    color: np.ndarray
    alpha: np.ndarray
    left: int
    top: int
    keypoints: np.ndarray | None = None  # (17, 3): x, y in the image, and 0 for unknown ones, else 1
    crowd: bool = False

    def on(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return color and alpha on a canvas of this size."""
        color = np.zeros((height, width, 3), np.float32)
        alpha = np.zeros((height, width), np.float32)
        y0, x0 = max(0, self.top), max(0, self.left)
        y1 = min(height, self.top + self.alpha.shape[0])
        x1 = min(width, self.left + self.alpha.shape[1])
        if y1 > y0 and x1 > x0:
            inside = np.s_[y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left]
            color[y0:y1, x0:x1] = self.color[inside]
            alpha[y0:y1, x0:x1] = self.alpha[inside]
        return color, alpha


class _Brush:
    """Draws into a window of the image, in pixel coordinates of the image.

    Args:
        low: Top left corner (x, y) of the window.
        high: Bottom right corner.
    """

    def __init__(self, low: Any, high: Any) -> None:
        self.left, self.top = math.floor(low[0]) - 1, math.floor(low[1]) - 1
        self._shape = (math.ceil(high[0]) + 1 - self.left, math.ceil(high[1]) + 1 - self.top)
        fine = (self._shape[0] * _FINE, self._shape[1] * _FINE)
        self._images = Image.new("RGB", fine), Image.new("L", fine)
        self._color, self._mask = map(ImageDraw.Draw, self._images)

    def _fine(self, points: Any) -> list[tuple[float, float]]:
        return [tuple(p) for p in ((np.asarray(points) - (self.left, self.top)) * _FINE - 0.5).tolist()]

    def polygon(self, points: Any, color: Color) -> None:
        fine = self._fine(points)
        self._color.polygon(fine, fill=color)
        self._mask.polygon(fine, fill=255)

    def disc(self, center: Any, radius: float, color: Color) -> None:
        (x, y), r = self._fine([center])[0], radius * _FINE
        self._color.ellipse((x - r, y - r, x + r, y + r), fill=color)
        self._mask.ellipse((x - r, y - r, x + r, y + r), fill=255)

    def limb(self, points: Any, width: float, color: Color) -> None:
        fine, broad = self._fine(points), max(1, round(width * _FINE))
        self._color.line(fine, fill=color, width=broad)
        self._mask.line(fine, fill=255, width=broad)
        for point in points:
            self.disc(point, width / 2, color)

    def layer(self, category: str, **more: Any) -> _Layer:
        color, mask = (np.asarray(image.reduce(_FINE), np.float32) for image in self._images)
        return _Layer(category, color, mask / 255.0, self.left, self.top, **more)


def _color(rng: np.random.Generator, unlike: np.ndarray | None = None, hue: float | None = None) -> Color:
    """Return a random color near `hue`, with an RGB distance of at least 90 from `unlike`, where these are given."""
    color = (0, 0, 0)
    for _ in range(20):
        tint = rng.random() if hue is None else (hue + rng.normal(0, 0.04)) % 1.0
        r, g, b = colorsys.hsv_to_rgb(tint, rng.uniform(0.15 if hue is None else 0.45, 1.0), rng.uniform(0.2, 1.0))
        color = (round(255 * r), round(255 * g), round(255 * b))
        if unlike is None or np.linalg.norm(np.subtract(color, unlike)) >= 90:
            break
    return color


def _tone(color: Sequence[float], factor: float) -> Color:
    r, g, b = (round(min(255.0, value * factor)) for value in color)
    return r, g, b


def _rotated(points: np.ndarray, degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ np.array([[c, s], [-s, c]])


def _outline(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Return the corners (n, 2) of a randomly rotated shape around the origin, with a radius of about 1."""
    if kind == "square":
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.8
    elif kind == "triangle":
        corners = np.array([[rng.uniform(-0.35, 0.35), -1.1], [1.0, 0.75], [-1.0, 0.75]])
    else:
        points = 48 if kind == "circle" else 10
        angles = np.arange(points) * (2 * math.pi / points)
        radii = np.ones(points)
        if kind == "star":
            radii = np.where(np.arange(points) % 2, rng.uniform(0.4, 0.5), 1.15)
        corners = np.stack([radii * np.sin(angles), -radii * np.cos(angles)], 1)
    return _rotated(corners, rng.uniform(0, 360))


def _draw_marking(brush: _Brush, kind: str, corners: np.ndarray, center: np.ndarray, color: Color) -> None:
    """Draw the marking inside a shape: a disc in circles, a cross in squares, a bar in triangles, none in stars."""
    if kind == "circle":
        brush.disc(center, 0.38 * float(np.linalg.norm(corners[0])), color)
    elif kind == "square":
        for i in (0, 1):
            ends = [(corners[(i + side) % 4] + corners[(i + side + 1) % 4]) / 2 for side in (0, 2)]
            across = (corners[(i + 1) % 4] - corners[i]) * 0.1
            brush.polygon(
                np.array([ends[0] - across, ends[0] + across, ends[1] + across, ends[1] - across]) + center, color
            )
    elif kind == "triangle":
        foot = (corners[1] + corners[2]) / 2
        across = (corners[2] - corners[1]) * 0.08
        low, high = 0.7 * foot + 0.3 * corners[0], 0.25 * foot + 0.75 * corners[0]
        brush.polygon(np.array([low - across, low + across, high + across, high - across]) + center, color)


def _draw_shape(rng: np.random.Generator, kind: str, center: np.ndarray, radius: float, around: np.ndarray) -> _Layer:
    corners = _outline(rng, kind)
    points = corners * radius + center
    brush = _Brush(points.min(0), points.max(0))
    fill = _color(rng, around, _HUES[kind] if rng.random() < _USUAL_HUE else None)
    rim = rng.uniform(0.08, 0.16) if rng.random() < 0.6 else 0.0
    if rim:
        brush.polygon(points, _tone(fill, rng.choice([0.35, 0.5, 1.6])))
    brush.polygon(corners * (radius * (1 - rim)) + center, fill)
    _draw_marking(brush, kind, corners * radius, center, _tone(fill, rng.choice([0.45, 0.6])))
    layer = brush.layer(kind)
    ys, xs = np.mgrid[: layer.alpha.shape[0], : layer.alpha.shape[1]]
    along = _rotated(np.stack([xs + layer.left - center[0], ys + layer.top - center[1]], -1), rng.uniform(0, 360))
    along = along[..., 0] / radius
    texture = rng.choice(["plain", "slope", "stripes"], p=[0.4, 0.35, 0.25])
    if texture == "slope":
        layer.color *= np.clip(1 + rng.uniform(0.1, 0.35) * along, 0.4, 1.4)[..., None]
    elif texture == "stripes":
        layer.color *= np.where(np.sin(along * rng.uniform(4, 9)) > 0, 1.0, rng.uniform(0.65, 0.85))[..., None]
    layer.color = np.minimum(layer.color, 255.0 * layer.alpha[..., None]).astype(np.float32)
    return layer


@dataclass
class _Figure:
    """A stick figure: keypoints (17, 2), head, tips of the feet (left, right), and whether it faces the viewer."""

    joints: np.ndarray
    head: np.ndarray
    head_radius: float
    feet: np.ndarray
    front: bool


def _pose(rng: np.random.Generator) -> _Figure:
    """Return a figure in a random pose, about 1 high, with its hips at the origin."""
    front = bool(rng.random() < 0.65)
    joints, feet = np.zeros((17, 2)), np.zeros((2, 2))

    def reach(start: np.ndarray, side: float, length: float, degrees: float) -> np.ndarray:
        a = math.radians(degrees)  # 0 is straight down, positive angles point outwards
        return start + length * rng.uniform(0.85, 1.0) * np.array([side * math.sin(a), math.cos(a)])

    # a figure that faces the viewer has its left hand on the right of the image
    for i, side in enumerate((1.0, -1.0) if front else (-1.0, 1.0)):
        joints[5 + i] = shoulder = np.array([side * 0.125, -0.29])
        joints[11 + i] = hip = np.array([side * 0.075, 0.0])
        raised, spread = rng.uniform(5, 150), rng.uniform(-4, 40)
        joints[7 + i] = elbow = reach(shoulder, side, 0.17, raised)
        joints[9 + i] = reach(elbow, side, 0.17, raised + rng.uniform(-50, 95))
        joints[13 + i] = knee = reach(hip, side, 0.22, spread)
        shin = spread + rng.uniform(-45, 8)
        joints[15 + i] = ankle = reach(knee, side, 0.21, shin)
        feet[i] = ankle + 0.06 * np.array([side, 0.35])

    radius = rng.uniform(0.095, 0.11)
    head = np.array([0.0, -0.29 - 0.045 - radius])
    turned = rng.uniform(-0.3, 0.3)
    face = np.array([[turned, 0.15], [0.4 + 0.8 * turned, -0.22], [-0.4 + 0.8 * turned, -0.22], [1, 0], [-1, 0]])
    if not front:
        face[:, 0] *= -1
    tilt = rng.uniform(-15, 15)
    joints[:5] = head + _rotated(face * radius, tilt)

    lean = rng.normal(0, 12)
    return _Figure(_rotated(joints, lean), _rotated(head, lean), radius, _rotated(feet, lean), front)


def _draw_figure(
    rng: np.random.Generator, center: np.ndarray, height: float, around: np.ndarray, brush: _Brush | None = None
) -> _Layer:
    """Draw a figure `height` pixels high around `center`, onto `brush` where one is given."""
    figure = _pose(rng)
    r = figure.head_radius
    ends = np.concatenate([figure.joints[5:], figure.feet, [figure.head - 1.2 * r, figure.head + 1.2 * r]])
    low, high = ends.min(0) - 0.04, ends.max(0) + 0.04
    scale = height / (high[1] - low[1])
    middle = (low + high) / 2

    def place(points: np.ndarray) -> np.ndarray:
        return (points - middle) * scale + center

    joints, head, feet, r = place(figure.joints), place(figure.head), place(figure.feet), r * scale
    brush = brush or _Brush(place(low), place(high))
    shirt, trousers = _color(rng, around), _color(rng, around)
    skin = _tone((255, 205, 160), rng.uniform(0.45, 1.0))
    hair = _tone([(40, 30, 25), (90, 50, 20), (200, 160, 70)][rng.integers(3)], rng.uniform(0.7, 1.1))
    dark = _tone(shirt, 0.3)
    line = max(0.5, 0.012 * scale)

    def limb(points: Any, width: float, color: Color) -> None:
        brush.limb(points, width * scale + 2 * line, dark)
        brush.limb(points, width * scale, color)

    for i in range(2):
        limb([joints[15 + i], feet[i]], 0.05, _tone(hair, 0.8))
        limb([joints[11 + i], joints[13 + i], joints[15 + i]], 0.075, _tone(trousers, rng.uniform(0.85, 1.1)))
    torso = joints[[5, 6, 12, 11]]
    neck = torso[:2].mean(0)
    brush.limb([neck, head], 0.07 * scale, skin)
    brush.limb([*torso, torso[0]], 0.06 * scale + 2 * line, dark)
    brush.limb([*torso, torso[0]], 0.06 * scale, shirt)
    brush.polygon(torso, shirt)
    if not figure.front:
        hips, bag = torso[2:].mean(0), torso - torso.mean(0)
        brush.polygon(torso.mean(0) + 0.85 * bag + 0.04 * (hips - neck), _tone(shirt, 0.25))
        brush.polygon(torso.mean(0) + 0.6 * bag + 0.04 * (hips - neck), _tone(shirt, 0.55))
    for i in range(2):
        limb([joints[7 + i], joints[9 + i]], 0.05, skin)
        limb([joints[5 + i], joints[7 + i]], 0.06, _tone(shirt, rng.uniform(0.75, 1.2)))
    for ear in joints[3:5]:
        brush.disc(ear, 0.22 * r + line, dark)
        brush.disc(ear, 0.22 * r, skin)
    brush.disc(head, r + line, dark)
    brush.disc(head, r, hair)
    if figure.front:
        down = (neck - head) / np.linalg.norm(neck - head)
        brush.disc(head + 0.2 * r * down, 0.8 * r, skin)
        for eye in joints[1:3]:
            brush.disc(eye, 0.24 * r, (250, 250, 250))
            brush.disc(eye, 0.15 * r, (15, 15, 15))
        brush.disc(joints[0], 0.16 * r, (200, 60, 50))
    named = np.ones((17, 1))
    if not figure.front:
        named[:3] = 0
    return brush.layer("person", keypoints=np.concatenate([joints, named], 1))


def _draw_crowd(rng: np.random.Generator, kind: str, center: np.ndarray, side: float, around: np.ndarray) -> _Layer:
    """Draw a group of tiny objects of one class, which are annotated together as a crowd."""
    reach = rng.uniform(0.13, 0.22) * side
    count = int(rng.integers(9, 16))
    places = center + rng.uniform(-1, 1, (count, 2)) * (reach, reach * rng.uniform(0.45, 0.8))
    places = places[np.argsort(places[:, 1])]
    tiny = 0.07 * side
    brush = _Brush(places.min(0) - 2.5 * tiny, places.max(0) + 2.5 * tiny)
    for place in places:
        if kind == "person":
            _draw_figure(rng, place, rng.uniform(1.6, 2.2) * tiny, around, brush)
        else:
            fill = _color(rng, around)
            corners = _outline(rng, kind) * tiny * rng.uniform(0.4, 0.55)
            brush.polygon(corners + place, _tone(fill, 0.5))
            brush.polygon(0.8 * corners + place, fill)
    return brush.layer(kind, crowd=True)


def _smooth(rng: np.random.Generator, cells: tuple[int, int], height: int, width: int) -> np.ndarray:
    """Return smooth noise (height, width) with about `cells` bumps vertically and horizontally."""
    coarse = Image.fromarray(rng.normal(size=(cells[0] + 1, cells[1] + 1)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _background(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of sky and ground (height, width, 3) and the mask of the ground (height, width)."""
    ys, xs = np.mgrid[:height, :width]
    horizon = rng.uniform(0.3, 0.7)
    if rng.random() < 0.1:
        horizon = rng.choice([-1.0, 2.0])
    line = horizon + rng.uniform(-0.12, 0.12) * (xs / width - 0.5) + 0.03 * _smooth(rng, (1, 5), height, width)[:1]
    ground = ys / height > line
    top = colorsys.hsv_to_rgb(rng.uniform(0.5, 0.68), rng.uniform(0.1, 0.55), rng.uniform(0.5, 0.95))
    low = colorsys.hsv_to_rgb(rng.choice([0.08, 0.58, 0.95]), rng.uniform(0.05, 0.35), rng.uniform(0.7, 1.0))
    slope = np.clip(ys / (height * max(horizon, 0.3)), 0, 1)[..., None]
    clouds = np.clip(_smooth(rng, (5, 4), height, width), 0, 2)[..., None] * rng.uniform(0, 0.12)
    sky = (1 - slope) * top + slope * np.asarray(low) + clouds
    soil = colorsys.hsv_to_rgb(rng.uniform(0.05, 0.38), rng.uniform(0.1, 0.6), rng.uniform(0.25, 0.7))
    rough = rng.uniform(0.04, 0.14) * _smooth(rng, (height // 4, width // 9), height, width)
    rough = rough + rng.uniform(0.05, 0.15) * _smooth(rng, (4, 4), height, width)
    earth = np.asarray(soil) * (1 + rough[..., None])
    return np.clip(np.where(ground[..., None], earth, sky), 0, 1).astype(np.float32) * 255, ground


def _clutter(rng: np.random.Generator, height: int, width: int, side: float) -> _Layer:
    """Draw specks, strokes and thin scribbles that belong to no class."""
    brush = _Brush((1, 1), (width - 1, height - 1))
    for _ in range(int(rng.integers(4, 22))):
        place = rng.uniform(0, 1, 2) * (width, height)
        color = _color(rng)
        if rng.random() < 0.4:
            brush.disc(place, rng.uniform(0.006, 0.014) * side, color)
        else:
            steps = rng.normal(0, 0.035 * side, (int(rng.integers(2, 5)), 2))
            brush.limb(place + steps.cumsum(0), rng.uniform(0.006, 0.014) * side, color)
    return brush.layer("clutter")


# ------------------------------------------------------------------------------------------------------------ scenes


@dataclass
class _Scene:
    """An image and its ground truth.

    Attributes:
        picture: (h, w, 3) uint8.
        layers: The objects from back to front.
        seen: Visible alpha (h, w) of each object.
        ground: Mask (h, w) of the ground; the rest of the background is sky.
        void: Mask (h, w) of background pixels without a label.
    """

    picture: np.ndarray
    layers: list[_Layer]
    seen: list[np.ndarray]
    ground: np.ndarray
    void: np.ndarray


def _draw_scene(rng: np.random.Generator, number: int, size: int) -> _Scene:
    height, width = [(size, size), (size, size * 3 // 4), (size * 3 // 4, size)][rng.choice(3, p=[0.5, 0.2, 0.3])]
    side = min(height, width)
    picture, ground = _background(rng, height, width)
    marks = _clutter(rng, height, width, side)
    color, alpha = marks.on(height, width)
    picture = picture * (1 - alpha[..., None]) + color
    void = alpha > 0.5

    layers: list[_Layer] = []
    seen: list[np.ndarray] = []
    full: list[float] = []

    def put(layer: _Layer, least_inside: float) -> bool:
        """Add an object in front, unless too little of it, or of an object behind it, would be visible."""
        nonlocal picture
        color, alpha = layer.on(height, width)
        whole = float(layer.alpha.sum())
        if alpha.sum() < least_inside * whole:
            return False
        behind = [mask * (1 - alpha) for mask in seen]
        for before, mask, area in zip(layers, behind, full, strict=True):
            if (mask > 0.5).sum() < (0.6 if before.category == "person" else 0.4) * area:
                return False
        seen[:] = [*behind, alpha]
        layers.append(layer)
        full.append(whole)
        picture = picture * (1 - alpha[..., None]) + color
        return True

    def around(center: np.ndarray, radius: float) -> np.ndarray:
        x0, y0 = np.maximum(center - radius, 0).astype(int)
        x1, y1 = np.ceil(center + radius).astype(int)
        return picture[min(y0, height - 1) : max(y1, 1), min(x0, width - 1) : max(x1, 1)].mean((0, 1))

    def somewhere(radius: float) -> np.ndarray:
        """Return a random place; a third of the places are near an existing object."""
        if layers and rng.random() < 0.35:
            near = layers[rng.integers(len(layers))]
            middle = np.array([near.left + near.alpha.shape[1] / 2, near.top + near.alpha.shape[0] / 2])
            angle, far = rng.uniform(0, 2 * math.pi), rng.uniform(0.6, 1.0) * (radius + max(near.alpha.shape) / 3)
            return middle + far * np.array([math.cos(angle), math.sin(angle)])
        edge = 0.75 * radius
        return np.array([rng.uniform(edge, width - edge), rng.uniform(edge, height - edge)])

    # by number, not at random, so that small data sets have both as well
    empty, crowded = number % 13 == 6, number % 9 == 3
    if crowded and not empty:
        center = rng.uniform(0.25, 0.75, 2) * (width, height)
        put(_draw_crowd(rng, str(rng.choice(list(THINGS))), center, side, around(center, 0.2 * side)), 0.7)
    kinds = [] if empty else ["person"] * int(rng.choice(3, p=[0.2, 0.45, 0.35]))
    if not empty:
        kinds += rng.choice([kind for kind in THINGS if kind != "person"], int(rng.integers(1, 5))).tolist()
    for kind in rng.permutation(kinds).tolist():
        for _ in range(8):
            if kind == "person":
                tall = rng.uniform(0.42, 0.72) * height
                center = somewhere(0.4 * tall)
                center[1] = rng.uniform(0.46 * tall, max(0.47 * tall, height - 0.46 * tall))
                layer, least = _draw_figure(rng, center, tall, around(center, 0.3 * tall)), 0.85
            else:
                radius = 0.5 * side * math.exp(rng.uniform(math.log(0.14), math.log(0.56)))
                center = somewhere(radius)
                layer, least = _draw_shape(rng, kind, center, radius, around(center, radius)), 0.65
            if put(layer, least):
                break

    picture = picture * rng.uniform(0.85, 1.1) + rng.normal(0, rng.uniform(1, 7), picture.shape)
    drawn = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    if rng.random() < 0.2:
        drawn = drawn.filter(ImageFilter.GaussianBlur(0.5))
    return _Scene(np.asarray(drawn), layers, seen, ground, void)


# ----------------------------------------------------------------------------------------------------------- writing


def _polygons(field: np.ndarray) -> list[list[float]] | None:
    """Return the polygons x, y, x, y, ... of an alpha (h, w) at 0.5; None if it has holes or no outline."""
    lines = contour_generator(z=np.pad(field, 1)).lines(0.5)
    areas = [float(np.sum(a[:-1, 0] * a[1:, 1] - a[1:, 0] * a[:-1, 1])) / 2 for a in map(np.asarray, lines)]
    outer = max(areas, key=abs, default=0.0)
    if any(area * outer < 0 and abs(area) >= 2 for area in areas):
        return None
    found = []
    for line, area in zip(lines, areas, strict=True):
        if area * outer <= 0 or abs(area) < 1:
            continue
        points = np.asarray(line)[:-1]
        for _ in range(4):  # drop every other point that is within 0.07 pixels of a line
            before, after = np.roll(points, 1, 0), np.roll(points, -1, 0)
            along, off = after - before, points - before
            far = np.abs(along[:, 0] * off[:, 1] - along[:, 1] * off[:, 0]) / np.maximum(np.hypot(*along.T), 1e-9)
            keep = (far > 0.07) | (np.arange(len(points)) % 2 == 0)
            if keep.sum() < 4:
                break
            points = points[keep]
        # centers of pixels are at 0.5, and padding added a row and a column
        found.append(np.round(np.clip(points - 0.5, 0, field.shape[::-1]), 2).ravel().tolist())
    return found or None


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return COCO's uncompressed RLE of a mask (h, w): run lengths in column-major order, zeros first."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]), [mask.size]])
    return {"counts": np.diff(edges).tolist(), "size": list(mask.shape)}


def _box(mask: np.ndarray) -> list[int]:
    """Return the bounding box x, y, width, height of a mask."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)]


def _annotation(rng: np.random.Generator, layer: _Layer, seen: np.ndarray) -> dict[str, Any]:
    """Return the annotation of an object, without its id and image."""
    mask = seen > 0.5
    by_runs = layer.crowd or rng.random() < 0.1
    outlines = None if by_runs else _polygons(seen)
    if outlines is None:
        box: list[Any] = _box(mask)
    else:
        points = np.concatenate(outlines).reshape(-1, 2)
        low, high = points.min(0), points.max(0)
        box = np.round([*low, *(high - low)], 2).tolist()
    return {
        "category_id": THINGS[layer.category],
        "segmentation": _run_lengths(mask) if outlines is None else outlines,
        "area": int(mask.sum()),
        "bbox": box,
        "iscrowd": int(layer.crowd),
    }


def _keypoints(layer: _Layer, seen: np.ndarray) -> dict[str, Any]:
    """Return the keypoints of a figure with their visibility: 2 visible, 1 hidden, 0 outside the image or unknown."""
    height, width = seen.shape
    flat: list[float] = []
    for x, y, named in [] if layer.keypoints is None else layer.keypoints:
        if layer.crowd or not named or not (0 <= x < width and 0 <= y < height):
            flat += [0, 0, 0]
        else:
            flat += [round(float(x), 2), round(float(y), 2), 2 if seen[int(y), int(x)] > 0.5 else 1]
    flat = flat or [0] * (3 * len(KEYPOINTS))
    return {"keypoints": flat, "num_keypoints": sum(v > 0 for v in flat[2::3])}


def _categories(kind: str) -> list[dict[str, Any]]:
    categories: list[dict[str, Any]] = []
    for name, number in {**THINGS, **(STUFF if kind == "panoptic" else {})}.items():
        entry: dict[str, Any] = {"supercategory": _SUPERCATEGORY.get(name, "shape"), "id": number, "name": name}
        if kind == "person_keypoints":
            if name != "person":
                continue
            entry |= {"keypoints": list(KEYPOINTS), "skeleton": [list(bone) for bone in _SKELETON]}
        elif kind == "panoptic":
            entry |= {"isthing": int(name in THINGS), "color": list(_COLORS[name])}
        categories.append(entry)
    return categories


def _label_maps(rng: np.random.Generator, scene: _Scene) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Return semantic labels (h, w), panoptic ids as RGB (h, w, 3), and the segments."""
    regions = [(name, mask & ~scene.void, False) for name, mask in (("sky", ~scene.ground), ("ground", scene.ground))]
    regions += [(layer.category, seen > 0.5, layer.crowd) for layer, seen in zip(scene.layers, scene.seen, strict=True)]
    semantic = np.full(scene.ground.shape, _VOID, np.uint8)
    owner = np.full(scene.ground.shape, -1)
    for i, (name, mask, _) in enumerate(regions):
        semantic[mask] = _CLASSES.index(name)
        owner[mask] = i
    panoptic = np.zeros((*owner.shape, 3), np.uint8)
    segments: list[dict[str, Any]] = []
    used = {0}
    for i, (name, _, crowd) in enumerate(regions):
        mask = owner == i
        if not mask.any():
            continue
        color = np.array(_COLORS[name])
        while (number := int(color @ (1, 256, 65536))) in used:
            color = np.clip(_COLORS[name] + rng.integers(-20, 21, 3), 0, 255)
        used.add(number)
        panoptic[mask] = color
        segments.append(
            {
                "id": number,
                "category_id": {**THINGS, **STUFF}[name],
                "area": int(mask.sum()),
                "bbox": _box(mask),
                "iscrowd": int(crowd),
            }
        )
    return semantic, panoptic, segments


def _write_split(folder: Path, split: str, numbers: Sequence[int], size: int, seed: int, progress: Any) -> None:
    annotations = folder / "annotations"
    salient_images, salient_masks = (folder / "saliency" / kind / split for kind in ("images", "masks"))
    folders = [folder / split, annotations / f"panoptic_{split}", folder / "semantic" / split]
    for path in (*folders, salient_images, salient_masks):
        path.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    entries: dict[str, list[dict[str, Any]]] = {"instances": [], "person_keypoints": [], "panoptic": []}
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        scene = _draw_scene(rng, number, size)
        height, width = scene.ground.shape
        name = f"{number:06d}"
        images.append({"license": 1, "file_name": f"{name}.jpg", "height": height, "width": width, "id": number})
        for i, (layer, seen) in enumerate(zip(scene.layers, scene.seen, strict=True)):
            entry = {**_annotation(rng, layer, seen), "image_id": number, "id": 100 * number + i}
            entries["instances"].append(entry)
            if layer.category == "person":
                entries["person_keypoints"].append({**entry, **_keypoints(layer, seen)})
        semantic, panoptic, segments = _label_maps(rng, scene)
        entries["panoptic"].append({"segments_info": segments, "file_name": f"{name}.png", "image_id": number})
        salient = np.zeros((height, width), np.uint8)
        for layer, seen in zip(scene.layers, scene.seen, strict=True):
            if not layer.crowd:
                salient[seen > 0.5] = 255
        Image.fromarray(scene.picture).save(folders[0] / f"{name}.jpg", quality=92)
        for path, labels in zip(folders[1:], (panoptic, semantic), strict=True):
            Image.fromarray(labels).save(path / f"{name}.png")
        if salient.any():
            shutil.copy(folders[0] / f"{name}.jpg", salient_images)
            Image.fromarray(salient).save(salient_masks / f"{name}.png")
        progress.update()
    info = {"description": f"Shapes and stick figures, {size} pixels, seed {seed}", "version": "1.0"}
    licenses = [{"id": 1, "name": "Public domain (drawn by a program)", "url": ""}]
    for kind, annotated in entries.items():
        content = {"info": info, "licenses": licenses, "images": images, "annotations": annotated}
        text = json.dumps({**content, "categories": _categories(kind)}, separators=(",", ":"))
        (annotations / f"{kind}_{split}.json").write_text(text)
