"""Several devices and several machines: the losses of one, who writes, a lost worker, and whatever TF_CONFIG has wrong.

The workers are processes on 127.0.0.1. They train in float32 without augmentation or dropout, with a step small enough
that rounding, in which a sum over two devices differs from one, does not grow.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from edgecbam import cli
from edgecbam.errors import InputError
from edgecbam.recipe import TrainConfig
from edgecbam.training import cluster

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "data.train_images=309",  # 300 to train on, so that the last batch of an epoch is of 12, in parts of 6 and 6
    "data.test_images=20",
    "data.height=16",
    "data.width=16",
    "model.widths=[8]",
    "model.blocks=[1]",
    "model.reduction_ratio=4",
    "model.dropout=0.0",
    "train.epochs=5",
    "train.batch_size=32",
    "train.optimizer=momentum",
    "train.learning_rate=0.01",
    "train.flip=false",
    "train.shift_pixels=0",
    "train.precision=float32",
    "train.peer_timeout_seconds=120",
)
STEPS = 50
SECONDS = 240


def environment(tf_config: dict[str, Any] | None = None) -> dict[str, str]:
    """Of a worker: this repository's edgecbam, no GPU, quiet."""
    given = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    given.pop("TF_CONFIG", None)
    return given if not tf_config else {**given, "TF_CONFIG": json.dumps(tf_config)}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def two_workers() -> list[dict[str, Any]]:
    """TF_CONFIG of two workers on this machine."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    return [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in (0, 1)]


@contextmanager
def started(commands: list[tuple[list[str], dict[str, Any]]], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes with their output in folder/0.log, folder/1.log, …; none outlives the block."""
    processes = []
    try:
        for index, (words, tf_config) in enumerate(commands):
            with (folder / f"{index}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(words, env=environment(tf_config), cwd=folder, stdout=log, stderr=log)
                )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def said(folder: Path, index: int) -> str:
    return (folder / f"{index}.log").read_text("utf-8", errors="replace")


def train_command(out: Path, *more: str) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return [sys.executable, "-m", "edgecbam", "train", "fashion_cbam", "--out", str(out), *settings, *more]


def arrays(stage: Path) -> dict[str, np.ndarray]:
    """What the last checkpoint of a stage holds."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(stage / "checkpoints")))
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith(("_CHECK", "save_counter"))]
    return {name: np.asarray(reader.get_tensor(name)) for name in names}


RECORDER = '''
"""api.train, with the loss of every step written to a file."""
import json, sys
from pathlib import Path
from edgecbam import api, recipe
from edgecbam.training import loop

loop.PROGRESS_SECONDS = -1.0  # an event for every step, with the mean loss of the epoch so far
losses, epoch, images, total = [], 0.0, 0, 0.0

def listen(event):
    global epoch, images, total
    if "loss" not in event.figures:
        return
    if event.figures["epoch"] != epoch:
        epoch, images, total = event.figures["epoch"], 0, 0.0
    all_images = event.step - int(epoch - 1) * (event.total // int(event.figures["epochs"]))
    sum_now = event.figures["loss"] * all_images
    losses.append((sum_now - total) / (all_images - images))
    images, total = all_images, sum_now

api.train(recipe.load("fashion_cbam", tuple(sys.argv[3:])), Path(sys.argv[1]), on_event=listen)
Path(sys.argv[2]).write_text(json.dumps(losses))
'''


def record_command(out: Path, losses: Path) -> list[str]:
    return [sys.executable, "-c", RECORDER, str(out), str(losses), *SETTINGS]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one worker has trained run ``alone`` and two workers ``pair``, with the losses of all steps."""
    folder = tmp_path_factory.mktemp("distribution")
    alone, pair = folder / "one", folder / "two"
    for one in (alone, pair):
        one.mkdir()
    with started([(record_command(folder / "alone", folder / "alone.json"), {})], alone) as (process,):
        assert process.wait(SECONDS) == 0, said(alone, 0)
    commands = [
        (record_command(folder / "pair", folder / f"pair{index}.json"), tf_config)
        for index, tf_config in enumerate(two_workers())
    ]
    with started(commands, pair) as processes:
        for index, process in enumerate(processes):
            assert process.wait(SECONDS) == 0, said(pair, index)
    return folder


def test_two_workers_have_the_losses_of_one(together: Path) -> None:
    alone, first, second = (json.loads((together / f"{name}.json").read_text()) for name in ("alone", "pair0", "pair1"))
    assert len(alone) == len(first) == STEPS
    assert first == second
    assert max(abs(a - b) for a, b in zip(alone, first, strict=True)) < 1e-4
    assert alone[-1] < alone[0]  # it is a training


def test_the_weights_are_those_of_one_worker(together: Path) -> None:
    alone, pair = arrays(together / "alone" / "train"), arrays(together / "pair" / "train")
    kernels = [name for name in alone if "kernel" in name and "optimizer" not in name]
    assert kernels
    for name in kernels:
        np.testing.assert_allclose(pair[name], alone[name], atol=2e-3)


def test_the_chief_alone_writes(together: Path) -> None:
    assert (together / "pair" / "train" / "model.keras").is_file()
    assert not (together / "pair" / ".train.partial").exists()
    written = sorted(path.name for path in together.iterdir())
    assert written == ["alone", "alone.json", "one", "pair", "pair0.json", "pair1.json", "two"]
    assert sorted(path.name for path in (together / "two").iterdir()) == ["0.log", "1.log"]


def in_the_midst_of_an_epoch(checkpoints: Path) -> bool:
    """Whether the newest checkpoint is of a step in the second epoch, of ten, or later."""
    path = tf.train.latest_checkpoint(str(checkpoints))
    number = int(path.rpartition("-")[2]) if path else 0
    return number > 10 and number % 10 != 0


def test_a_lost_worker_is_said_in_one_line_and_resuming_reaches_the_same_weights(
    together: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    saving = ("--set", "train.checkpoint_minutes=0.005")
    commands = [(train_command(out, *saving), tf_config) for tf_config in two_workers()]
    with started(commands, tmp_path) as (chief, worker):
        end = time.monotonic() + SECONDS
        while not in_the_midst_of_an_epoch(out / ".train.partial" / "checkpoints"):
            assert time.monotonic() < end
            assert chief.poll() is None, said(tmp_path, 0)
            time.sleep(0.02)
        worker.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert chief.wait(120) == 3, said(tmp_path, 0)
        assert time.monotonic() - killed < 90
    last = said(tmp_path, 0).splitlines()[-1]
    assert last.startswith("edgecbam: error: lost touch with worker 1 (127.0.0.1:"), last
    assert "--resume" in last
    assert not (out / "train").exists()

    commands = [(train_command(out, *saving, "--resume"), tf_config) for tf_config in two_workers()]
    with started(commands, tmp_path) as processes:
        for index, process in enumerate(processes):
            assert process.wait(SECONDS) == 0, said(tmp_path, index)
    assert "continuing in epoch" in said(tmp_path, 0)
    resumed, whole = arrays(out / "train"), arrays(together / "pair" / "train")
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


MIRRORED = '''
"""Trains on one and on two logical devices of this CPU; writes the losses."""
import dataclasses, json, sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from edgecbam import models, training
from edgecbam.datasets import Dataset
from edgecbam.events import ignore
from edgecbam.recipe import ModelConfig, TrainConfig

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
random = np.random.default_rng(0)
labels = np.arange(75) % 3
images = (random.integers(0, 100, (75, 16, 16, 1)) + 70 * labels[:, None, None, None]).astype(np.uint8)
data = Dataset(("a", "b", "c"), images, labels, images[:9], labels[:9], images[:9], labels[:9])
preprocessing = {"height": 16, "width": 16, "channels": 1, "resize": "crop", "mean": [128.0], "std": [128.0]}
settings = TrainConfig(
    epochs=3, batch_size=16, optimizer="momentum", learning_rate=0.01, flip=False, shift_pixels=0,
    precision="float32", l2=0.001, class_weights=(1.0, 2.0, 0.5), freeze_epochs=1,
)
network = ModelConfig(widths=(8,), blocks=(1,), reduction_ratio=4)

def train(folder, distribution, **changes):
    config = dataclasses.replace(settings, distribution=distribution, **changes)
    strategy = training.distribution.strategy(config, lambda text: None)
    training.begin(1)
    with strategy.scope(), training.precision_policy(config.precision):
        model = models.build(dataclasses.replace(network, dropout=0.2 if "epochs" in changes else 0.0), (16, 16, 1), 3)
    path = Path(sys.argv[1], folder)
    path.mkdir(exist_ok=True)
    result = training.fit(model, data, config, preprocessing, path / "checkpoints", stage="train", on_event=ignore)
    return strategy.num_replicas_in_sync, [record.loss for record in result.history], [
        weight.tobytes().hex() for weight in model.get_weights()
    ]

found = {"one": train("one", "none")[:2], "two": train("two", "mirrored")[:2]}
rest = {"precision": "mixed_bfloat16", "optimizer": "adamw", "freeze_epochs": 0, "checkpoint_minutes": 0.0}
whole = train("whole", "mirrored", epochs=2, **rest)
class Enough(Exception): pass
def stop(event):
    if event.message.startswith("epoch 1/"): raise Enough
ignore = stop
try:
    train("parts", "mirrored", epochs=2, **rest)
except Enough:
    pass
ignore = lambda event: None
found["resumed_alike"] = train("parts", "mirrored", epochs=2, **rest) == whole
Path(sys.argv[1], "found.json").write_text(json.dumps(found))
'''


def test_two_devices_have_the_losses_of_one(tmp_path: Path) -> None:
    with started([([sys.executable, "-c", MIRRORED, str(tmp_path)], {})], tmp_path) as (process,):
        assert process.wait(SECONDS) == 0, said(tmp_path, 0)
    found = json.loads((tmp_path / "found.json").read_text())
    (devices, alone), (mirrored_devices, mirrored) = found["one"], found["two"]
    assert (devices, mirrored_devices) == (1, 2)
    assert max(abs(a - b) for a, b in zip(alone, mirrored, strict=True)) < 1e-4
    assert alone[-1] < alone[0]
    assert found["resumed_alike"]


def tf_config(**changes: Any) -> str:
    value = {
        "cluster": {"worker": ["127.0.0.1:7001", "127.0.0.1:7002"]},
        "task": {"type": "worker", "index": 0},
    }
    return json.dumps({key: item for key, item in {**value, **changes}.items() if item is not None})


BAD = {
    "no JSON": ("{cluster:", "TF_CONFIG is not JSON .*: it must look like"),
    "a list": ("[]", "TF_CONFIG has no cluster"),
    "no cluster": (tf_config(cluster=None), "TF_CONFIG has no cluster"),
    "no task": (tf_config(task=None), "TF_CONFIG has no task with type and index"),
    "no index": (tf_config(task={"type": "worker"}), "TF_CONFIG has no task with type and index"),
    "a parameter server": (
        tf_config(cluster={"worker": ["a:1"], "ps": ["b:1"]}),
        "names tasks of type ps: only chief and worker",
    ),
    "an index too large": (
        tf_config(task={"type": "worker", "index": 2}),
        r"task\.index = 2, but the cluster has 2 of type worker: give 0 to 1",
    ),
    "an index that is none": (tf_config(task={"type": "worker", "index": "first"}), r"task\.index = 'first'"),
    "a task that is missing": (tf_config(task={"type": "chief", "index": 0}), "the cluster has 0 of type chief"),
    "another role": (tf_config(task={"type": "evaluator", "index": 0}), "must be chief or worker"),
    "no port": (tf_config(cluster={"worker": ["host1", "host2:1"]}), "'host1' of cluster.worker is not of the form"),
    "a bad port": (tf_config(cluster={"worker": ["host1:0", "host2:99999"]}), "'host1:0' of cluster.worker"),
    "no list": (tf_config(cluster={"worker": "host1:1"}), "must be a list of host:port"),
    "one twice": (tf_config(cluster={"worker": ["a:1", "a:1"]}), "names a:1 twice"),
    "two chiefs": (tf_config(cluster={"chief": ["a:1", "b:1"], "worker": ["c:1"]}), "names 2 chiefs"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_tf_config_is_one_line_and_nothing_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = BAD[name]
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match=message):
        cluster.of(TrainConfig())
    assert cli.main(["train", "--out", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("edgecbam: error: TF_CONFIG")
    assert list(tmp_path.iterdir()) == []


def test_who_trains_together() -> None:
    def of(text: str, **settings: Any) -> cluster.Cluster | None:
        return cluster.of(TrainConfig(**settings), {"TF_CONFIG": text})

    task = {"type": "worker", "index": 1}
    assert of(tf_config(task=task)) == cluster.Cluster(("127.0.0.1:7001", "127.0.0.1:7002"), 1)
    chief = {"chief": ["c:1"], "worker": ["a:1", "b:1"]}
    found = of(tf_config(cluster=chief, task=task))
    assert found == cluster.Cluster(("c:1", "a:1", "b:1"), 2)
    assert not found.is_chief
    assert of(tf_config(cluster={"worker": ["a:1"]})) is None  # one is none
    assert of("") is None
    assert of(tf_config(), distribution="none") is None
    with pytest.raises(InputError, match="multi_worker needs the environment variable TF_CONFIG"):
        of("", distribution="multi_worker")
    with pytest.raises(InputError, match=r"batch_size = 1 is smaller than the number of workers, 2"):
        of(tf_config(), batch_size=1)


def test_a_peer_that_does_not_answer_is_named_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, silent = free_ports(2)
    workers = {"worker": [f"127.0.0.1:{own}", f"127.0.0.1:{silent}"]}
    monkeypatch.setenv("TF_CONFIG", tf_config(cluster=workers))
    begun = time.monotonic()
    code = cli.main(["train", "--out", str(tmp_path / "run"), "--set", "train.peer_timeout_seconds=1"])
    assert time.monotonic() - begun < 30
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert f"no answer within 1 s from worker 1 (127.0.0.1:{silent}): connection refused" in lines[-1]
    assert any("waiting for worker 1" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_nobody_knows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(InputError, match=r"worker 1 \(nowhere:7002\): the name nowhere is not known"):
        cluster.wait_for_peers(cluster.Cluster((f"127.0.0.1:{free_ports(1)[0]}", "nowhere:7002"), 0), 0.0, str)


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on port {port}, which TF_CONFIG gives this worker"):
            cluster.wait_for_peers(cluster.Cluster((f"127.0.0.1:{port}", "127.0.0.1:1"), 0), 1.0, str)


def test_peers_that_listen_are_found() -> None:
    told: list[str] = []
    with socket.socket() as peer:
        peer.bind(("127.0.0.1", 0))
        peer.listen()
        addresses = (f"127.0.0.1:{free_ports(1)[0]}", f"127.0.0.1:{peer.getsockname()[1]}")
        cluster.wait_for_peers(cluster.Cluster(addresses, 0), 5.0, told.append)
    assert told == []


def test_the_other_stages_are_for_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CONFIG", tf_config())
    assert cli.main(["run", "--out", str(tmp_path / "run")]) == 2
    assert "`edgecbam train` trains on" in capsys.readouterr().err
