"""The model families, built from a ModelConfig: normalised images [n, h, w, c] -> logits [n, classes] or values."""

from edgecbam.recipe import ModelConfig

from .cost import Cost
from .dropout import CountedDropout
from .families import FAMILIES, build
from .pretrained import backbone_layers, freeze, load_pretrained, unfreeze

__all__ = [
    "FAMILIES",
    "Cost",
    "CountedDropout",
    "ModelConfig",
    "backbone_layers",
    "build",
    "freeze",
    "load_pretrained",
    "unfreeze",
]
