from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import van
from van.data.loaders import BlockBatches, as_is, batch_loader
from van.data.samples import ImageDataset
from van.data.sources import open_data
from van.errors import DataError


def write(folder, counts, split="train", rows=4, names=("a", "b")):
    """Write files of so many images with levels from 0 up, in groups of so many rows."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    folder.mkdir(exist_ok=True)
    level = 0
    for number, count in enumerate(counts):
        images = [Image.new("RGB", (8, 8), (level + i,) * 3) for i in range(count)]
        labels = [(level + i) % 2 for i in range(count)]
        level += count
        table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        table.to_parquet(folder / f"{split}-{number:05}-of-{len(counts):05}.parquet", batch_size=rows)


def level(image):
    return torch.tensor(image.getpixel((0, 0))[0])


def read(samples, processes, workers, batch_size=2, seed=0, epoch=0):
    """Return the levels that each process reads in an epoch."""
    found = []
    for rank in range(processes):
        order = BlockBatches(samples.blocks, batch_size, seed, processes, rank)
        order.set_epoch(epoch)
        loader = batch_loader(ImageDataset(samples, level), order, as_is, workers)
        found.append([int(image) for batch in loader for image, _ in batch])
    return found


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (3, 2)])
def test_no_image_comes_twice_in_an_epoch(tmp_path, processes, workers):
    write(tmp_path / "set", [18, 7, 11])
    write(tmp_path / "set", [2], "validation")
    samples = open_data(f"hfids/{tmp_path / 'set'}", str(tmp_path / "cache"))["train"]
    assert samples.blocks == [4, 4, 4, 4, 2, 4, 3, 4, 4, 3]
    seen = list(chain(*read(samples, processes, workers)))
    assert len(seen) == 36 // (2 * processes) * 2 * processes
    assert len(set(seen)) == len(seen)
    assert seen != sorted(seen)


def test_the_order_follows_from_the_seed_alone(tmp_path):
    write(tmp_path / "set", [24])
    samples = open_data(f"hfids/{tmp_path / 'set'}", str(tmp_path / "cache"))["train"]
    (one,), (other,) = read(samples, 1, 0), read(samples, 1, 2)
    assert one == other
    assert read(samples, 1, 0, epoch=1) != [one]
    assert sorted(chain(*read(samples, 2, 0))) == sorted(one)


def test_every_block_is_read_once(tmp_path, monkeypatch):
    write(tmp_path / "set", [40, 24])
    samples = open_data(f"hfids/{tmp_path / 'set'}", str(tmp_path / "cache"))["train"]
    reads = Counter()
    once = samples._read
    monkeypatch.setattr(samples, "_read", lambda block: reads.update([block]) or once(block))
    batches = BlockBatches(samples.blocks, 2)
    readers = [list(batches)[worker::4] for worker in range(4)]  # as four loading processes share them
    for own in readers:
        for _, index in chain(*own):
            samples.load(index)
    assert reads == Counter(range(len(samples.blocks)))
    assert not samples._kept


def test_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "set", [16, 10])
    write(tmp_path / "set", [6], "validation")
    model = {"embed_dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "mlp_ratios": [1, 1, 1, 1]}
    options = {"data": f"hfids/{tmp_path / 'set'}", "data_root": str(tmp_path / "cache"), "image_size": (32, 32)}
    with pytest.raises(DataError, match="sampling needs images that can be read in any order"):
        van.train(**options, model_args=model, sampling="balanced", output="run")
    more = {"class_weights": "balanced", "batch_size": 4, "workers": 0, "epochs": 1}
    run = van.train(**options, model_args=model, **more, output="run", quiet=True)
    assert run.finished
    assert van.evaluate(run.folder, options["data"], data_root=options["data_root"], quiet=True)["top1"] >= 0


def test_unusable_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "set", [8])
    with pytest.raises(DataError, match=r"is streamed, so it needs a split for validation\. Use hfds/"):
        van.train(data=f"hfids/{tmp_path / 'set'}", data_root=str(tmp_path / "cache"))
    (tmp_path / "folder" / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "folder" / "train" / "cat" / "1.png")
    with pytest.raises(DataError, match="is not in Parquet"):
        open_data(f"hfids/{tmp_path / 'folder'}", str(tmp_path / "cache"))
    file = next((tmp_path / "set").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"parquet cannot be read as a Parquet file"):
        open_data(f"hfids/{tmp_path / 'set'}", str(tmp_path / "cache"))
    assert not Path("runs").exists()


def test_classes_must_be_the_same_in_all_files(tmp_path):
    write(tmp_path / "set", [4, 4])
    write(tmp_path / "other", [4, 4], names=("b", "a"))
    (tmp_path / "other" / "train-00001-of-00002.parquet").rename(tmp_path / "set" / "train-00001-of-00002.parquet")
    with pytest.raises(DataError, match="has other class names than"):
        open_data(f"hfids/{tmp_path / 'set'}", str(tmp_path / "cache"))


def test_a_loader_of_its_own_reads_in_order(tmp_path):
    write(tmp_path / "set", [10], "validation")
    samples = open_data(f"hfids/{tmp_path / 'set'}", str(tmp_path / "cache"))["val"]
    loader = DataLoader(ImageDataset(samples, level), batch_size=3, num_workers=1)
    assert [v for levels, _ in loader for v in levels.tolist()] == list(range(10))
