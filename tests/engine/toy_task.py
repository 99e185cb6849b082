"""A task from outside the package: regress the mean colour of an image. CONTRIBUTING shows it as the example."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from torchmetrics import MeanAbsoluteError, MetricCollection
from torchvision.transforms.v2 import functional

from van.data.images import list_images, read_image
from van.engine.data import DataModule
from van.engine.evaluation import Evaluation
from van.engine.learner import Learner
from van.engine.metric import Metric
from van.engine.options import TrainOptions
from van.engine.result import Result
from van.engine.task import Task
from van.networks.options import NetworkOptions


def shrink(image):
    return functional.to_dtype(functional.pil_to_tensor(image.resize((8, 8))), torch.float32, scale=True)


class Images(Dataset):
    def __init__(self, folder):
        self.paths = list_images([folder])

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        pixels = shrink(read_image(self.paths[index]))
        return pixels, pixels.mean((1, 2))


@dataclass
class LinearOptions(NetworkOptions):
    architecture: Literal["linear"] = "linear"

    def build(self, outputs, pretrained=None, device=None):
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3, device=device))
        network.options = self
        return network


@dataclass(kw_only=True)
class MeanColourOptions(TrainOptions):
    data: str
    model: LinearOptions = field(default_factory=LinearOptions)


@dataclass(kw_only=True)
class MeanColour(Result):
    colour: tuple[float, float, float]

    def to_dict(self):
        return {**super().to_dict(), "colour": list(self.colour)}

    def summary(self):
        return "red {:.2f}, green {:.2f}, blue {:.2f}".format(*self.colour)

    def draw(self):
        return Image.new("RGB", (64, 64), tuple(round(255 * c) for c in self.colour))


class MeanColourLearner(Learner):
    def losses(self, batch):
        return {"l1": (self.model(batch[0]) - batch[1]).abs().mean()}


class MeanColourTask(Task):
    name, summary, architecture = "mean_colour", "the mean colour of an image", "linear"
    formats, demo_data, demo = ("a folder of images",), "", ""
    metrics = (Metric("mae", "mean absolute error", "", higher_is_better=False),)
    train_options = MeanColourOptions

    def data(self, options, processes):
        images = Images(options.data)
        return DataModule(images, images, ["red", "green", "blue"], options.batch_size // processes, 0)

    def learner(self, network, options, data):
        return MeanColourLearner(network, self.metrics, MetricCollection({"mae": MeanAbsoluteError()}), options)

    def prepare(self, predictor):
        return shrink

    def predict(self, predictor, items, sizes):
        colours = predictor.model(torch.stack(items).to(predictor.device)).clamp(0, 1).tolist()
        return [
            MeanColour(class_names=predictor.class_names, size=s, colour=c) for s, c in zip(sizes, colours, strict=True)
        ]

    def open_split(self, options, predictor):
        return Images(options.data), []

    def evaluation(self, predictor, split, workers):
        return Evaluation(predictor, split, workers, MetricCollection({"mae": MeanAbsoluteError()}))
