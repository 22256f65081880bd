"""Training: exponentially decaying learning rate, moving average of the weights, checkpoints."""

from .average import WeightAverage, batchnorm_statistics
from .history import EpochRecord
from .inference import predict
from .learning_rate import WarmUpDecay, schedule
from .loop import FitResult, fit
from .optimizers import make_optimizer
from .precision import begin, precision_policy, resolve_precision
from .steps import make_step

__all__ = [
    "EpochRecord",
    "FitResult",
    "WarmUpDecay",
    "WeightAverage",
    "batchnorm_statistics",
    "begin",
    "fit",
    "make_optimizer",
    "make_step",
    "precision_policy",
    "predict",
    "resolve_precision",
    "schedule",
]
