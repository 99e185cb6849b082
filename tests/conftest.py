"""Fixtures shared by all tests."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # tests that share the cores with anything else take minutes otherwise

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def coarse_plots(monkeypatch):
    """Plots are drawn with few pixels and without a layout, which is most of the time that a tiny run takes."""
    from matplotlib.figure import Figure

    save = Figure.savefig

    def savefig(figure, file, **options):
        figure.set_layout_engine("none")
        save(figure, file, **{**options, "dpi": 20})

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture(scope="session")
def golden_fill() -> ModuleType:
    """The module tests/golden/fill.py: fill(name, shape) and image(height, width)."""
    spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def official_shapes() -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the official checkpoints of B0 and B1."""
    return json.loads((GOLDEN / "official_keys.json").read_text())


@pytest.fixture(scope="session")
def official_b0(golden_fill, official_shapes) -> dict[str, torch.Tensor]:
    """An official state dict of VAN-B0, filled with the golden values. Do not change it in place."""
    return _filled(golden_fill, official_shapes["van_b0"])


@pytest.fixture(scope="session")
def official_b1(golden_fill, official_shapes) -> dict[str, torch.Tensor]:
    """An official state dict of VAN-B1, filled with the golden values. Do not change it in place."""
    return _filled(golden_fill, official_shapes["van_b1"])


def _filled(golden_fill: ModuleType, shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(golden_fill.fill(name, tuple(s)))) for name, s in shapes.items()}
