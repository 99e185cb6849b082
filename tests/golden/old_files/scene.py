"""The image that expected.npz describes: arithmetic of integers only, the same on every machine."""

import numpy as np


def scene(height: int = 96, width: int = 128) -> np.ndarray:
    """Return an RGB image of shape (height, width, 3), uint8: colour gradients, a rectangle and a disc."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * x // (width - 1), 255 * y // (height - 1), 127 + 0 * x], axis=2)
    image[height // 4 : height * 3 // 4, width // 8 : width // 2] = (230, 40, 30)
    image[(y - height // 2) ** 2 + (x - width * 3 // 4) ** 2 <= (height // 5) ** 2] = (20, 60, 220)
    return image.astype(np.uint8)
