"""Make .keras files in a folder, in a process of its own: ``python keras_models.py FOLDER``."""

import importlib.util
import sys
import zipfile
from pathlib import Path

import tf_keras as keras

from edgecbam import attention

FOLDER = Path(sys.argv[1])


def save(model: "keras.Model", name: str) -> None:
    model.save(FOLDER / f"{name}.keras")


def tiny() -> "keras.Model":
    """The network of tests/fixtures with a free batch."""
    path = Path(__file__).parents[1] / "fixtures" / "make_models.py"
    spec = importlib.util.spec_from_file_location("make_models", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fixed = module.make_keras_model()
    image = keras.Input(module.SHAPE, name="image")
    tensor = image
    for layer in fixed.layers[1:]:
        tensor = layer(tensor)
    return keras.Model(image, tensor)


save(tiny(), "tiny")

a, b = keras.Input((3,), batch_size=1, name="a"), keras.Input((3,), batch_size=1, name="b", dtype="int32")
total = keras.layers.Add(name="total")([a, keras.layers.Rescaling(2.0, name="doubled")(b)])
save(keras.Model([a, b], {"total": total, "b_as_it_is": keras.layers.Reshape((3,), name="same")(b)}), "several")

image = keras.Input((8, 8, 4), name="image")
save(keras.Model(image, attention.ChannelMean(name="mean")(image)), "ours")

image = keras.Input((None, None, 1), name="image")
save(keras.Model(image, keras.layers.Conv2D(2, 3, kernel_initializer="ones", name="conv")(image)), "free")

keras.mixed_precision.set_global_policy("mixed_float16")
image = keras.Input((8, 8, 1), name="image")
save(keras.Model(image, keras.layers.Conv2D(2, 3, name="conv")(image)), "half")

with zipfile.ZipFile(FOLDER / "tiny.keras") as source, zipfile.ZipFile(FOLDER / "weights.keras", "w") as target:
    for name in source.namelist():
        target.writestr(name, b"no weights" if name.endswith(".h5") else source.read(name))
