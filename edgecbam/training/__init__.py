"""Training: losses, optimisers, schedules, moving average of the weights, checkpoints, several devices."""

from . import cluster, distribution, losses
from .average import WeightAverage, batchnorm_statistics
from .history import EpochRecord
from .inference import predict
from .learning_rate import WarmUpCosine, WarmUpDecay, schedule
from .loop import FitResult, check, fit
from .optimizers import make_optimizer
from .precision import begin, precision_policy, resolve_precision
from .steps import make_step

__all__ = [
    "EpochRecord",
    "FitResult",
    "WarmUpCosine",
    "WarmUpDecay",
    "WeightAverage",
    "batchnorm_statistics",
    "begin",
    "check",
    "cluster",
    "distribution",
    "fit",
    "losses",
    "make_optimizer",
    "make_step",
    "precision_policy",
    "predict",
    "resolve_precision",
    "schedule",
]
