"""Write the images of docs/analysis.md: handwritten digits at random places of photographs, as class folders.

python docs/digits_in_photos.py FOLDER

Everything comes with scikit-learn. Each digit is white on a random part of one of two photographs, darkened, a third
to half as high as the image; train and val hold different digits.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from van.data.digits import load_split

SIDE = 96


def main(folder: Path) -> None:
    """Write FOLDER/train and FOLDER/val."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(array // 2) for array in load_sample_images().images]
    for part, digits in zip(("train", "val"), load_split(), strict=True):
        for index in range(len(digits)):
            photograph = photographs[rng.integers(2)].resize((214, 142))
            left, top = rng.integers(214 - SIDE + 1), rng.integers(142 - SIDE + 1)
            image = photograph.crop((left, top, left + SIDE, top + SIDE))
            side = int(rng.integers(SIDE // 3, SIDE // 2 + 1))
            ink = Image.fromarray(digits.load(index)).resize((side, side), Image.Resampling.BICUBIC)
            corner = rng.integers(SIDE - side + 1, size=2)
            image.paste((255, 255, 255), (int(corner[0]), int(corner[1])), ink)
            place = folder / part / digits.class_names[digits.labels[index]]
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{index:04}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
