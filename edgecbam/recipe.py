"""A recipe: everything that decides a run, as one value that is passed whole and written as TOML.

A recipe file may be partial; what it leaves out has the defaults below. The file in a run folder is complete.
Keys that nobody knows, wrong types and values out of range are refused with the nearest name or the bound.
"""

import dataclasses
import difflib
import hashlib
import math
import os
import tomllib
import types
import typing
import unicodedata
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from edgecbam.errors import InputError

DEFAULT_RECIPE = "fashion_cbam"
Profile = Literal["xnnpack", "compat", "reference"]
Precision = Literal["auto", "float32", "mixed_bfloat16"]
Attention = Literal["none", "channel", "spatial", "cbam", "article"]
Family = Literal[
    "resnet",
    "article",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet20",
    "resnet32",
    "resnet50_keras",
    "mobilenetv2",
    "edge",
]
Task = Literal["classification", "regression"]


def _bounded(default: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    """A dataclass field whose numbers must lie in [low, high]."""
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how a pixel becomes a model input: ``(pixel - mean) / std`` with pixels in 0…255.

    The default mean 128 and std 128 make the int8 input exact: its scale is 1/128 and the integer is pixel - 128.
    ``height``, ``width`` and ``channels`` of 0 are taken from the data set (28x28x1 for the built-in images).

    ``targets`` names a CSV file for regression: a column ``file`` and a column of numbers for each target, read in a
    folder of images. ``standardize_targets`` lets the network learn (value - mean) / std of the training targets.

    ``cache`` says where decoded images are kept: in memory, in a file on disk, or nowhere, which decodes them anew in
    every epoch; ``auto`` takes memory where half of what is free holds them, else the disk, else nowhere.
    """

    source: str = "builtin"
    height: int = _bounded(0, 0, 4096)
    width: int = _bounded(0, 0, 4096)
    channels: int = _bounded(0, 0, 3)
    resize: Literal["crop", "stretch"] = "crop"
    mean: tuple[float, ...] = _bounded((128.0,), 0, 255)
    std: tuple[float, ...] = _bounded((128.0,), 1e-3, 1e6)
    validation_fraction: float = _bounded(0.05, 0.0, 0.9)
    test_fraction: float = _bounded(0.2, 0.01, 0.9)
    train_images: int = _bounded(0, 0)
    test_images: int = _bounded(0, 0)
    skip_bad: bool = False
    targets: str = ""
    standardize_targets: bool = True
    cache: Literal["auto", "memory", "disk", "none"] = "auto"
    seed: int = _bounded(1, 0, 2**31 - 1)


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    ``widths`` are the channels of the stages and ``blocks`` the blocks in each, for families that leave them open
    (resnet, edge); empty takes the family's own, and one block a stage where only widths are given. ``width``
    multiplies the channels of the other families.

    ``attention_init``: ``paper`` starts the gates as the authors' code does, ``open`` close to 1, so that a network
    with attention starts as one without. ``attention_placement``: behind every block, or behind the last block of each
    stage only.

    ``weights``: a file of Keras' ImageNet weights to start from, or ``imagenet``, which downloads it; empty starts at
    random. Only the families in Keras' own layout (mobilenetv2, resnet50_keras) take one.
    """

    family: Family = "resnet"
    width: float = _bounded(1.0, 0.01, 8.0)
    widths: tuple[int, ...] = _bounded((), 1, 8192)
    blocks: tuple[int, ...] = _bounded((), 0, 200)
    attention: Attention = "cbam"
    attention_init: Literal["paper", "open"] = "paper"
    attention_placement: Literal["block", "stage"] = "block"
    reduction_ratio: int = _bounded(8, 1, 1024)
    spatial_kernel: int = _bounded(7, 1, 31)
    dropout: float = _bounded(0.0, 0.0, 0.95)
    weights: str = ""


@dataclass(frozen=True)
class TrainConfig:
    """Float training.

    ``schedule``: after warm-up the learning rate is ``learning_rate * decay_rate ** (epoch / decay_epochs)``
    (``exponential``), or falls to 0 over all epochs along half a cosine (``cosine``).

    ``loss``: ``cross_entropy``, ``mean_squared_error``, a function of your own as ``module:name``, or ``auto``: the
    first for classes and the second for targets. ``class_weights`` gives a weight for each class in label order;
    ``balance_classes`` weighs each by the inverse of its share of the training images.

    ``freeze_epochs``: how many epochs train the head and the attention only, where ``model.weights`` are given.

    Augmentation: ``flip`` left to right, ``shift_pixels`` at most; ``brightness``, ``contrast`` and ``saturation``
    change by a factor of 1 ± their value at most; ``random_erasing`` is the probability that a rectangle is erased;
    ``mixup`` the alpha of its Beta distribution, 0 for none.

    ``distribution``: ``mirrored`` over the devices of this machine, ``multi_worker`` over those that TF_CONFIG names,
    ``none``, or ``auto``: multi_worker where TF_CONFIG is set, mirrored where there are several GPUs, else none.
    ``checkpoint_minutes``: how often a long epoch is saved in its midst.
    """

    epochs: int = _bounded(20, 1, 100_000)
    batch_size: int = _bounded(64, 1, 65_536)
    optimizer: Literal["sgd", "momentum", "adam", "adamw", "rmsprop"] = "adamw"
    learning_rate: float = _bounded(4e-3, 1e-9, 100.0)
    momentum: float = _bounded(0.9, 0.0, 0.9999)
    weight_decay: float = _bounded(1e-2, 0.0, 10.0)
    l2: float = _bounded(0.0, 0.0, 10.0)
    loss: str = "auto"
    label_smoothing: float = _bounded(0.0, 0.0, 0.99)
    class_weights: tuple[float, ...] = _bounded((), 0.0, 1e6)
    balance_classes: bool = False
    freeze_epochs: int = _bounded(0, 0, 100_000)
    decay_rate: float = _bounded(0.85, 1e-6, 1.0)
    decay_epochs: float = _bounded(1.0, 1e-3, 1e6)
    schedule: Literal["exponential", "cosine"] = "exponential"
    staircase: bool = False
    warmup_epochs: float = _bounded(1.0, 0.0, 1e6)
    ema_decay: float = _bounded(0.998, 0.0, 0.999999)
    precision: Precision = "auto"
    flip: bool = True
    shift_pixels: int = _bounded(2, 0, 256)
    brightness: float = _bounded(0.0, 0.0, 1.0)
    contrast: float = _bounded(0.0, 0.0, 1.0)
    saturation: float = _bounded(0.0, 0.0, 1.0)
    random_erasing: float = _bounded(0.0, 0.0, 1.0)
    mixup: float = _bounded(0.0, 0.0, 10.0)
    distribution: Literal["auto", "none", "mirrored", "multi_worker"] = "auto"
    peer_timeout_seconds: float = _bounded(300.0, 1.0, 86_400.0)
    checkpoint_minutes: float = _bounded(10.0, 0.0, 1e5)
    seed: int = _bounded(1, 0, 2**31 - 1)


@dataclass(frozen=True)
class QuantizeConfig:
    """Quantization-aware training, which continues from the float EMA weights in float32."""

    epochs: int = _bounded(2, 0, 100_000)
    batch_size: int = _bounded(64, 1, 65_536)
    learning_rate: float = _bounded(2e-4, 1e-9, 100.0)
    decay_rate: float = _bounded(0.3, 1e-6, 1.0)
    decay_epochs: float = _bounded(1.0, 1e-3, 1e6)
    ema_decay: float = _bounded(0.99, 0.0, 0.999999)
    calibration_images: int = _bounded(1024, 1, 1_000_000)


@dataclass(frozen=True)
class ExportConfig:
    """What the exported files look like. ``samples_*`` cap the held-out images that travel with them.

    ``profile`` says which ops attention becomes: ``xnnpack`` the fastest, ``compat`` those that also older runtimes
    run in one piece, ``reference`` the paper's, unchanged. All compute the same (see docs/lowering.md).

    ``onnx_input`` is the type of the images of .onnx files; as ``uint8`` they are the integers of model_uint8.tflite.
    ``onnx_batch`` is how many images they take at once; 0 leaves it free. ``model_version``, ``model_author`` and
    ``model_license`` stand in the metadata of the app's files and on the model card.
    """

    profile: Profile = "xnnpack"
    onnx_opset: int = _bounded(17, 13, 18)
    onnx_input: Literal["float32", "uint8"] = "float32"
    onnx_batch: int = _bounded(1, 0, 1)
    samples_images: int = _bounded(2000, 1, 100_000)
    samples_mib: int = _bounded(64, 1, 4096)
    model_version: str = "1"
    model_author: str = ""
    model_license: str = ""


@dataclass(frozen=True)
class VerifyConfig:
    """Thresholds of the gates. Fractions are 0…1; errors of float files are relative to the largest reference logit."""

    min_qat_agreement: float = _bounded(0.995, 0.0, 1.0)
    max_onnx_lsb: int = _bounded(1, 0, 255)
    min_onnx_agreement: float = _bounded(0.999, 0.0, 1.0)
    max_accuracy_drop: float = _bounded(0.005, 0.0, 1.0)
    max_float_error: float = _bounded(1e-4, 0.0, 1.0)
    min_fp16_agreement: float = _bounded(0.995, 0.0, 1.0)
    max_saturated: float = _bounded(0.01, 0.0, 1.0)
    max_rmse_increase: float = _bounded(0.05, 0.0, 10.0)
    partitions: int = _bounded(1, 0, 10_000)


@dataclass(frozen=True)
class BenchmarkConfig:
    """What ``run`` measures after the export; the command ``benchmark`` can do more."""

    runtimes: tuple[str, ...] = ("litert", "onnxruntime")
    threads: int = _bounded(1, 1, 1024)
    protocol: Literal["quick", "standard", "rigorous"] = "quick"


@dataclass(frozen=True)
class Recipe:
    """All decisions of a run. Equal recipes, seeds and machines give equal files."""

    name: str = "custom"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)

    @property
    def task(self) -> Task:
        """Whether the network tells classes or values."""
        return "regression" if self.data.targets else "classification"

    def digest(self, *sections: str) -> str:
        """sha256 (hex) of the TOML text of the named sections, or of the whole recipe when none is named."""
        plain = _untuple(dataclasses.asdict(self))
        chosen = {name: plain[name] for name in sections} if sections else plain
        return hashlib.sha256(_toml(chosen).encode()).hexdigest()


def to_toml(recipe: Recipe) -> str:
    """The complete recipe as TOML text."""
    return _toml(_untuple(dataclasses.asdict(recipe)))


def _toml(value: dict[str, Any]) -> str:
    import tomli_w  # a machine that only measures reads recipes at most, and need not have it

    return tomli_w.dumps(value)


def _untuple(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _untuple(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def from_toml(text: str, where: str = "recipe") -> Recipe:
    """Read TOML text; raises InputError for bad syntax, unknown keys, wrong types and values out of range."""
    return from_table(_parse(text, where), where)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError of its own: a number of over 4,300 digits
        raise InputError(f"{where} is not valid TOML: {error}") from None


def from_table(table: dict[str, Any], where: str = "recipe") -> Recipe:
    """Build a recipe from nested dictionaries; raises InputError as from_toml does."""
    recipe: Recipe = _build(Recipe, table, where, prefix="")
    if recipe.model.widths and recipe.model.blocks and len(recipe.model.widths) != len(recipe.model.blocks):
        raise InputError(
            f"{where}: model.widths has {len(recipe.model.widths)} stages but model.blocks has "
            f"{len(recipe.model.blocks)}: give one number of blocks for each width"
        )
    if not _is_file_name(recipe.name):
        raise InputError(
            f"{where}: name = {_shown(recipe.name)} must do as the name of a folder: take letters, digits, - and _, "
            "100 at most"
        )
    if recipe.model.spatial_kernel % 2 == 0:
        raise InputError(f"{where}: model.spatial_kernel must be odd, got {recipe.model.spatial_kernel}")
    if not recipe.benchmark.runtimes:
        raise InputError(f"{where}: benchmark.runtimes is empty: name at least one, such as litert")
    return recipe


def _is_file_name(name: str) -> bool:
    """Whether a folder of any system can have the name, and it shows as it is."""
    strange = any(character in '/\\:*?"<>|' or unicodedata.category(character)[0] == "C" for character in name)
    return bool(name) and not strange and name == name.strip() and name[0] != "." and len(name.encode()) <= 100


def shipped() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    folder = resources.files("edgecbam") / "recipes"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def require_trust(recipe: Recipe, where: str, trust: bool) -> None:
    """Refuse to import what a recipe out of a file names, unless the user trusts it.

    Raises:
        InputError: ``train.loss`` is an import path and ``trust`` is False.
    """
    if ":" in recipe.train.loss and not trust:
        raise InputError(f"{where} would run code, train.loss = {recipe.train.loss!r}: if you know it, add --trust")


def load(name_or_path: str, assignments: tuple[str, ...] = ()) -> Recipe:
    """Load a shipped recipe by name or a TOML file by path, then apply ``section.key=value`` assignments.

    Raises:
        InputError: no such recipe (the nearest name is given), or anything from_toml refuses.
    """
    path = Path(name_or_path)
    if name_or_path in shipped():
        text = (resources.files("edgecbam") / "recipes" / f"{name_or_path}.toml").read_text("utf-8")
        where = f"recipe {name_or_path}"
    elif os.path.isfile(path):  # False, not an error, for a name too long to exist
        try:
            text, where = path.read_text("utf-8"), str(path)
        except (UnicodeDecodeError, OSError) as error:
            raise InputError(f"cannot read the recipe {path}: {error}") from None
    else:
        raise InputError(f"no recipe {name_or_path!r}: {_nearest(name_or_path, shipped())}, or give a TOML file")
    table = _parse(text, where)
    for assignment in assignments:
        _assign(table, assignment)
    return from_table(table, where)


def override(recipe: Recipe, assignments: tuple[str, ...]) -> Recipe:
    """A copy of the recipe with ``section.key=value`` assignments applied; raises InputError as load does."""
    table = tomllib.loads(to_toml(recipe))
    for assignment in assignments:
        _assign(table, assignment)
    return from_table(table, "--set")


def _assign(table: dict[str, Any], assignment: str) -> None:
    key, separator, text = assignment.partition("=")
    if not separator or not key.strip():
        raise InputError(f"--set {assignment!r} is not of the form section.key=value, such as train.epochs=5")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()  # a bare word is a string: --set train.optimizer=adam
    *parents, last = key.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {assignment!r}: {parent} is a value, not a section")
    table[last] = value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _nearest(word: str, known: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {prefix}{close[0]}" if close else f"known are {', '.join(known)}"


def _build(cls: type, table: dict[str, Any], where: str, prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, value in table.items():
        if key not in fields:
            raise InputError(f"{where}: unknown key {prefix}{key}: {_nearest(key, list(fields), prefix)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise InputError(f"{where}: {prefix}{key} must be a section, got {_shown(value)}")
            values[key] = _build(typing.cast(type, hint), value, where, f"{prefix}{key}.")
        else:
            values[key] = _convert(value, hint, fields[key].metadata, f"{where}: {prefix}{key}")
    return cls(**values)


def _convert(value: Any, hint: Any, bounds: types.MappingProxyType[Any, Any], what: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = list(typing.get_args(hint))
        if value not in choices:
            raise InputError(f"{what} = {_shown(value)} is not known: {_nearest(str(value)[:80], choices)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise InputError(f"{what} must be a list, got {_shown(value)}")
        return tuple(_convert(item, typing.get_args(hint)[0], bounds, what) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise InputError(f"{what} is too large for a number") from None
    if type(value) is not hint:
        raise InputError(f"{what} must be of type {hint.__name__}, got {_shown(value)}")
    if bounds and hint in (int, float):
        low, high = bounds["low"], bounds["high"]
        if not low <= value <= high:
            raise InputError(f"{what} must lie between {low:g} and {high:g}, got {value!r}")
    return value
