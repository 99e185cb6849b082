import subprocess
import sys
from pathlib import Path

import pytest

from van.data.folders import data_folder, files_below, refuse_url
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


def test_files_of_linked_folders_are_found_once(tmp_path):
    for name in ("in/a/1.png", "in/b/2.PNG", "in/.hidden/3.png", "in/b/.4.png", "in/notes.txt", "out/5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in" / "c").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "d").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "e.png").symlink_to("nowhere")
    names = [str(Path(path).relative_to(tmp_path / "in")) for path in files_below(tmp_path / "in", [".png"])]
    assert names == ["a/1.png", "b/2.PNG", "c/5.png", "e.png"]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../../x"])
def test_links_that_loop_are_named(tmp_path, target):
    folder = tmp_path / "x" / "in"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "up").symlink_to(target)
    with pytest.raises(DataError, match=r"a/up.* is a link to .*more than once\. Remove the link"):
        files_below(folder, [".png"])


def test_a_link_to_itself_is_named(tmp_path):
    (tmp_path / "a.png").symlink_to("a.png")
    with pytest.raises(DataError, match=r"a\.png cannot be opened"):
        files_below(tmp_path, [".png"])
