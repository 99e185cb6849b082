"""Maps that saliency measures are tested with, and what pysodmetrics says of them.

`python tests/tasks/saliency/saliency_maps.py` writes saliency_values.json anew. It needs pysodmetrics, which the tests
do not: install it elsewhere, as it brings OpenCV.
"""

import json
import warnings
from pathlib import Path

import numpy as np

VALUES = Path(__file__).with_name("saliency_values.json")


def _smooth(rng, height, width):
    """Waves of random direction, from 0 to 1."""
    y, x = np.mgrid[:height, :width]
    a, b, c, d = rng.random(4)
    return 0.5 + 0.25 * (np.sin(8 * a * y / height + 6 * b) + np.cos(9 * c * x / width + 6 * d))


def cases():
    """Names with map and mask, uint8 (H, W)."""
    found = {}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        height, width = 24 + 7 * seed, 40 - 3 * seed
        mask = _smooth(rng, height, width) > 0.6
        noise = rng.random((height, width))
        maps = 0.7 * mask + 0.3 * noise if seed % 2 else 0.5 * _smooth(rng, height, width) + 0.5 * noise
        found[f"random {seed}"] = (np.floor(maps * 255), mask * 255)
    rng = np.random.default_rng(6)
    noise, half = np.floor(rng.random((20, 30)) * 255), np.zeros((20, 30))
    half[3:15, :12] = 255
    corner, one = np.zeros((20, 30)), np.zeros((20, 30))
    corner[-2:, -3:] = one[7, 9] = 255
    full, empty = np.full((20, 30), 255), np.zeros((20, 30))
    found |= {
        "nothing is salient": (noise, empty),
        "all is salient": (noise, full),
        "nothing, nothing found": (empty, empty),
        "nothing, all found": (full, empty),
        "all, nothing found": (empty, full),
        "all, all found": (full, full),
        "nothing found": (empty, half),
        "all found": (full, half),
        "one grey": (np.full((20, 30), 100), half),
        "right": (half, half),
        "inverted": (255 - half, half),
        "in the corner": (noise, corner),
        "one pixel": (noise, one),
        "not of full range": (60 + noise // 4, half),
        "mask of greys": (noise, np.where(half > 0, 129, 128)),
    }
    return {name: (maps.astype(np.uint8), mask.astype(np.uint8)) for name, (maps, mask) in found.items()}


def main():
    """Write the values that pysodmetrics gives, for each case and for all of them."""
    from importlib.metadata import version

    import py_sod_metrics as sod

    def measured(pairs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            f, w, s, e, mae = sod.Fmeasure(), sod.WeightedFmeasure(), sod.Smeasure(), sod.Emeasure(), sod.MAE()
        for maps, mask in pairs:
            for measure in (f, w, s, e, mae):
                measure.step(maps, mask)
        f, e = f.get_results(), e.get_results()["em"]
        precision, recall = f["pr"]["p"], f["pr"]["r"]
        below = 0.3 * precision + recall
        return {
            "max_F": f["fm"]["curve"].max(),
            "mean_F": f["fm"]["curve"].mean(),
            "adaptive_F": f["fm"]["adp"],
            "weighted_F": w.get_results()["wfm"],
            "S": s.get_results()["sm"],
            "max_E": e["curve"].max(),
            "mean_E": e["curve"].mean(),
            "adaptive_E": e["adp"],
            "MAE": mae.get_results()["mae"],
            "max_F_of_means": (1.3 * precision * recall / np.where(below == 0, 1, below)).max(),
        }

    made = cases()
    values = {name: measured([pair]) for name, pair in made.items()}
    content = {
        "made by": f"pysodmetrics {version('pysodmetrics')}, numpy {np.__version__}, saliency_maps.py",
        "cases": values,
        "all": measured(made.values()),
    }
    VALUES.write_text(json.dumps(content, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
