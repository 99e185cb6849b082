"""How a model is optimised: one set of options for command line, recipes and Python."""

from dataclasses import dataclass


@dataclass
class Optimization:
    """Optimiser and schedule besides the learning rate.

    Attributes:
        optimizer: timm's name of the optimiser: adamw, adam, sgd, lamb, ...
        weight_decay: Not applied to biases, norms and layer scales.
        warmup_epochs: Epochs in which the learning rate rises linearly.
        cooldown_epochs: Epochs at the smallest learning rate after the cosine.
        min_lr: Smallest learning rate.
        label_smoothing: Share of the target that is spread over all classes.
        clip_grad: Largest norm of the gradient; null for none.
        ema_decay: Decay of an exponential moving average of the weights, which is then what is validated and saved;
            null for none.
    """

    optimizer: str = "adamw"
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    cooldown_epochs: int = 0
    min_lr: float = 1e-6
    label_smoothing: float = 0.1
    clip_grad: float | None = None
    ema_decay: float | None = None
