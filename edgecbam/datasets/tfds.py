"""Data sets of TensorFlow Datasets, https://www.tensorflow.org/datasets: ``tfds:NAME``, ``tfds:NAME/CONFIG:1.0.0``.

One with an image and a class label will do. It is read from TFDS' own folder ($TFDS_DATA_DIR, else
~/tensorflow_datasets), and downloaded into it where it is not there yet. The set's ``train`` is trained on; its
``validation`` and ``test`` are taken as they are, and split off ``train`` where the set does not have them or has no
labels for them, stratified as in a folder of images. A position in ``Dataset.split`` counts the examples of a split
in the order of its files.
"""

import contextlib
import difflib
import functools
import hashlib
import io
import itertools
import logging
import os
import re
import socket
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam import preprocessing
from edgecbam.datasets import arrays, cache, folder, sampling
from edgecbam.datasets.dataset import Dataset
from edgecbam.datasets.decode import each
from edgecbam.errors import InputError, MissingPackage
from edgecbam.events import Event, OnEvent
from edgecbam.preprocessing import UnreadableImage
from edgecbam.recipe import DataConfig

PREFIX = "tfds:"
PARTS = ("train", "validation", "test")
_NETWORK = ("storage.googleapis.com", 443)  # where TFDS keeps much of its own
_SECONDS = 10.0


def load(data: DataConfig, on_event: OnEvent) -> tuple[Dataset, DataConfig]:
    """Open, download if need be, split, decode; see the module.

    Args:
        data: its source begins with ``tfds:``. Images of one size keep it; of others, and of channels, the same is
            taken as of a folder.
        on_event: told of each decoded image.

    Raises:
        InputError: no such data set, it cannot be downloaded, or it is none of images and class labels.
        EnvironmentFailure: as cache.keep.
        MissingPackage: tensorflow-datasets is not installed.
    """
    builder = _prepared(data.source, on_event)
    image, label, classes = _features(data.source, builder)
    labels = {name: _labels(builder, name, label) for name in builder.info.splits if name in PARTS}
    if "train" not in labels:
        raise InputError(
            f"{data.source} has no split train, only {', '.join(sorted(builder.info.splits))}: choose another data set"
        )
    for name in [name for name, values in labels.items() if name != "train" and not _all_labelled(values)]:
        on_event(Event("data", message=f"passed over the split {name} of {data.source}, which has no labels"))
        del labels[name]
    if not _all_labelled(labels["train"]):
        raise InputError(f"{data.source} has images without labels in train: choose another data set")
    origin, rows = _split(data.source, classes, labels, data)
    names = tuple(
        Path(data.source, origin[part], str(row)) for part, chosen in zip(PARTS, rows, strict=True) for row in chosen
    )
    data = _with_shape(data, builder, image, origin["train"], rows[0], names)
    wanted = preprocessing.describe(data)

    def encoded(_: list[int]) -> Iterator[tuple[int, bytes]]:
        streams = (_pick(builder, origin[part], image, chosen) for part, chosen in zip(PARTS, rows, strict=True))
        return enumerate(itertools.chain.from_iterable(streams))

    def one(item: tuple[int, bytes]) -> np.ndarray:
        return preprocessing.load_encoded(item[1], names[item[0]], wanted)

    source = cache.Source(
        count=len(names),
        items=encoded,
        one=one,
        fingerprint=functools.cache(lambda: _fingerprint(builder, origin, rows)),
        name=data.source,
        again=False,
    )
    images, reasons = cache.keep(source, data, each, on_event)
    bad = {position: UnreadableImage(names[position], reason) for position, reason in reasons.items()}
    if bad and not data.skip_bad:
        raise InputError(folder.complaint(Path(data.source), bad, len(names)))
    if bad:
        on_event(Event("data", message=f"left out {len(bad)} unreadable of {len(names)} images"))
    kept = folder.readable(bad, (len(rows[0]), len(rows[1]), len(rows[2])))
    positions = np.concatenate(rows)
    values = np.concatenate([labels[origin[part]][chosen] for part, chosen in zip(PARTS, rows, strict=True)])
    bad_files = tuple(sorted(folder.names(Path(data.source), names, list(bad))))
    split = arrays.record(data.seed, (positions[kept[0]], positions[kept[1]], positions[kept[2]]), origin)
    return folder.assemble(classes, images, values, kept, bad_files, split), data


def _prepared(source: str, on_event: OnEvent) -> Any:
    """The builder of a data set that lies on this machine, downloaded if it did not."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        if error.name == "tensorflow_datasets":
            raise MissingPackage("tensorflow-datasets", "tfds", f"data.source = {source!r}") from None
        raise
    name = source.removeprefix(PREFIX)
    folder_ = os.environ.get("TFDS_DATA_DIR") or None
    with _quiet():
        try:
            builder = tensorflow_datasets.builder(name, data_dir=folder_)
        except tensorflow_datasets.core.registered.DatasetNotFoundError:
            near = difflib.get_close_matches(name, tensorflow_datasets.list_builders(), n=1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else "see https://www.tensorflow.org/datasets/catalog"
            raise InputError(f"data.source = {source!r} is no data set of TensorFlow Datasets: {hint}") from None
        except Exception as error:  # no such config or version, and whatever else a builder raises
            raise InputError(f"data.source = {source!r} cannot be opened ({_one_line(error)}): mend the name") from None
        if builder.is_prepared():
            return builder
        where = Path(builder.data_path)
        _require_network(source, where)
        on_event(Event("data", message=f"downloading {source} into {where}"))
        tensorflow_datasets.disable_progress_bar()
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # what it prints the event has said
                builder.download_and_prepare()
        except Exception as error:  # of the network, of a missing package, of a download by hand
            raise InputError(
                f"{source} is not in {where} and cannot be prepared there ({_one_line(error)}): prepare it with "
                "tensorflow-datasets and copy it there, or use --data builtin"
            ) from None
        return builder


def _require_network(source: str, where: Path) -> None:
    """Find out in seconds that there is no network: TFDS would try again for minutes."""
    if urllib.request.getproxies():
        return
    try:
        socket.create_connection(_NETWORK, timeout=_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"{source} is not in {where} and has to be downloaded, but there is no network ({_one_line(error)}): "
            "prepare it on a machine with network and copy that folder here, or use --data builtin"
        ) from None


def _features(source: str, builder: Any) -> tuple[str, str, tuple[str, ...]]:
    """The names of the image and of the label, and the class names."""
    from tensorflow_datasets import features

    known = builder.info.features
    table = dict(known.items()) if isinstance(known, features.FeaturesDict) else {}
    images = [name for name, feature in table.items() if type(feature) is features.Image]
    labels = [name for name, feature in table.items() if type(feature) is features.ClassLabel]
    keys = builder.info.supervised_keys
    if keys and len(keys) == 2 and keys[0] in images and keys[1] in labels:
        images, labels = [keys[0]], [keys[1]]
    if len(images) != 1 or len(labels) != 1:
        raise InputError(
            f"{source} has the features {', '.join(sorted(table)) or 'of no table'}, but one image and one class label "
            "are needed: choose a data set for image classification"
        )
    names = table[labels[0]].names
    if len(names) < 2:
        raise InputError(f"{source} has {len(names)} class: a classifier needs two")
    return images[0], labels[0], tuple(names)


def _read(builder: Any, split: str, feature: str, **decoders: Any) -> Iterable[Any]:
    """One feature of all examples of a split, in the order of its files."""
    import tensorflow_datasets

    examples = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders=tensorflow_datasets.decode.PartialDecoding({feature: True}, decoders=decoders or None),
        read_config=tensorflow_datasets.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    return (example[feature] for example in examples.as_numpy_iterator())


def _labels(builder: Any, split: str, label: str) -> np.ndarray:
    return np.fromiter(_read(builder, split, label), np.int64)


def _all_labelled(labels: np.ndarray) -> bool:
    return len(labels) > 0 and int(labels.min()) >= 0


def _pick(builder: Any, split: str, image: str, rows: np.ndarray) -> Iterator[bytes]:
    """The encoded images at the given positions, which ascend."""
    from tensorflow_datasets import decode

    if not len(rows):
        return
    wanted = set(rows.tolist())
    for position, raw in enumerate(_read(builder, split, image, **{image: decode.SkipDecoding()})):
        if position in wanted:
            yield raw
        if position == rows[-1]:
            return


def _split(
    source: str, classes: tuple[str, ...], labels: dict[str, np.ndarray], data: DataConfig
) -> tuple[dict[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Which split of the set each part comes from, and the positions there, ascending."""
    origin = {part: part if part in labels else "train" for part in PARTS}
    left = np.arange(len(labels["train"]))
    if "test" in labels:
        test = np.arange(len(labels["test"]))
    else:
        counts = np.bincount(labels["train"], minlength=len(classes))
        if counts.min() < 2:
            raise InputError(
                f"class {classes[int(counts.argmin())]} of {source} has {counts.min()} images in train: a class needs "
                "at least 2, one to train and one to test on; choose another data set"
            )
        count = round(data.test_fraction * len(left))
        test = sampling.stratified(labels["train"], count, data.seed, sampling.TEST, at_least=1, leave=1)
        left = sampling.complement(len(left), test)
    of_left = labels["train"][left]
    if "validation" in labels:
        validation = np.arange(len(labels["validation"]))
        train = sampling.subset(of_left, data.train_images, data.seed, sampling.TRAIN_SUBSET, "data.train_images")
    else:
        train, validation = sampling.split_train(of_left, data)
        validation = left[validation]
    of_test = labels[origin["test"]][test]
    test = test[sampling.subset(of_test, data.test_images, data.seed, sampling.TEST_SUBSET, "data.test_images")]
    return origin, (left[train], validation, test)


def _with_shape(
    data: DataConfig, builder: Any, image: str, split: str, rows: np.ndarray, names: tuple[Path, ...]
) -> DataConfig:
    height, width, channels = builder.info.features[image].shape
    if height and width:
        square = data.height or data.width
        data = replace(data, height=square or height, width=data.width or square or width)
    if channels in (1, 3):
        data = replace(data, channels=data.channels or channels)
    if data.height and data.width and data.channels:
        return data
    sample = list(_pick(builder, split, image, rows[: folder.SHAPE_SAMPLE]))
    return folder.with_shape(data, names[: len(sample)], sample)


def _fingerprint(builder: Any, origin: dict[str, str], rows: tuple[np.ndarray, ...]) -> str:
    """Changes where the prepared files or the choice of examples do."""
    where = Path(builder.data_path)
    files = cache.of_files(where, tuple(path for path in where.rglob("*") if path.is_file()))
    hasher = hashlib.sha256(repr(origin).encode())
    for chosen in rows:
        hasher.update(b"|" + chosen.astype("<i8").tobytes())
    return f"{files}\n{hasher.hexdigest()}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines of TFDS, which say what the error will say."""
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3.connectionpool")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r'^Failed to construct dataset .*?\}": ', "", text)  # which only repeats the name
    return text if len(text) <= 200 else text[:200] + " …"
