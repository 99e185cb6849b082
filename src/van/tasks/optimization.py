"""How a model is optimised: one set of options for command line, recipes and Python."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Optimization:
    """Optimiser and schedule besides the learning rate.

    Attributes:
        optimizer: timm's name of the optimiser: adamw, adam, sgd, lamb, ...
        weight_decay: Not applied to biases, norms and layer scales.
        schedule: How the learning rate falls after the warm-up: cosine, poly (power of the share that is left) or step.
        milestones: Epochs at whose end schedule step multiplies the learning rate by gamma; steps where the length of
            training is given in steps (iterations).
        gamma: See milestones.
        power: Of schedule poly.
        warmup_epochs: Epochs in which the learning rate rises linearly.
        warmup_iterations: Steps in which it does, in place of warmup_epochs.
        cooldown_epochs: Epochs at the smallest learning rate after the cosine.
        min_lr: Smallest learning rate; the warm-up starts from it.
        clip_grad: Largest norm of the gradient; null for none.
        ema_decay: Decay of an exponential moving average of the weights, which is then what is validated and saved;
            null for none.
    """

    optimizer: str = "adamw"
    weight_decay: float = 0.05
    schedule: Literal["cosine", "step", "poly"] = "cosine"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    power: float = 1.0
    warmup_epochs: float = 1.0
    warmup_iterations: int | None = None
    cooldown_epochs: int = 0
    min_lr: float = 1e-6
    clip_grad: float | None = None
    ema_decay: float | None = None


@dataclass
class ClassificationOptimization(Optimization):
    """Optimiser, schedule and loss of a classifier besides the learning rate.

    Attributes:
        label_smoothing: Share of the target that is spread over all classes.
    """

    label_smoothing: float = 0.1
