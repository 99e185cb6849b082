import subprocess
import sys
from pathlib import Path

import pytest

from van.data.folders import data_folder, refuse_url
from van.errors import DataError


@pytest.mark.parametrize(
    "path", ["https://host/a.jpg", "http://host/a.jpg", "s3://host/a.jpg", Path("https://host/a.jpg")]
)
def test_urls_are_refused(path):
    with pytest.raises(DataError, match=r"://host/a\.jpg is a URL.*download"):
        refuse_url(path)


@pytest.mark.parametrize("path", ["a.jpg", "/data/https/a.jpg", "C:/data", "httpsfolder/a"])
def test_paths_are_not_urls(path):
    refuse_url(path)
    assert data_folder(path) == Path(path)


def test_options_load_without_torch():
    modules = "van.data.augmentation, van.data.formats, van.data.folders"
    code = f"import sys, {modules}; print([m for m in ('torch', 'timm', 'numpy', 'lightning') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
