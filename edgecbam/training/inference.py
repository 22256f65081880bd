"""Outputs of a Keras model in inference mode."""

from typing import Any

import numpy as np
import tensorflow as tf

from edgecbam.datasets import Images
from edgecbam.preprocessing import normalize

EVALUATION_BATCH = 250


def predict(model: Any, images: Images, preprocessing: dict[str, Any]) -> np.ndarray:
    """Outputs of a Keras model in inference mode: uint8 [n, h, w, c] -> float32 [n, classes or targets]."""
    call = _inference(model)
    parts = [
        call(tf.constant(normalize(images[start : start + EVALUATION_BATCH], preprocessing))).numpy()
        for start in range(0, len(images), EVALUATION_BATCH)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, model.output_shape[-1]), np.float32)


def _inference(model: Any) -> Any:
    """A compiled call in inference mode, traced once for each model."""
    if not hasattr(model, "_edgecbam_inference"):
        signature = [tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)]
        call = tf.function(lambda images: tf.cast(model(images, training=False), tf.float32), input_signature=signature)
        # past Keras, which would make it a part of the model, and so of every checkpoint from now on
        object.__setattr__(model, "_edgecbam_inference", call)
    return model._edgecbam_inference
