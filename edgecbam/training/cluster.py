"""The machines that train together, as the environment variable TF_CONFIG names them.

    TF_CONFIG='{"cluster": {"worker": ["10.0.0.1:7000", "10.0.0.2:7000"]}, "task": {"type": "worker", "index": 0}}'

Every machine has the same cluster and its own index. The first, or the task of type ``chief`` where there is one,
writes the run folder. This file needs no TensorFlow: what is wrong in TF_CONFIG is said before it starts.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgecbam.errors import InputError
from edgecbam.recipe import TrainConfig

_EXAMPLE = '{"cluster": {"worker": ["host1:7000", "host2:7000"]}, "task": {"type": "worker", "index": 0}}'
_RETRY_SECONDS = 0.25


@dataclass(frozen=True)
class Cluster:
    """Who trains together.

    Attributes:
        workers: ``host:port`` of each, the chief first.
        index: which of them this process is.
    """

    workers: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        return self.index == 0


def of(config: TrainConfig, environment: Mapping[str, str] | None = None) -> Cluster | None:
    """The cluster that a training runs on, or None where this process trains alone.

    Args:
        config: its ``distribution`` and ``batch_size``.
        environment: None: this process'.

    Raises:
        InputError: TF_CONFIG is missing where the recipe asks for it, or wrong.
    """
    text = (os.environ if environment is None else environment).get("TF_CONFIG", "").strip()
    if config.distribution not in ("auto", "multi_worker"):
        return None
    if not text:
        if config.distribution == "multi_worker":
            raise InputError(f"train.distribution = multi_worker needs the environment variable TF_CONFIG: {_EXAMPLE}")
        return None
    cluster = parse(text)
    if len(cluster.workers) < 2:
        return None
    if config.batch_size < len(cluster.workers):
        raise InputError(
            f"train.batch_size = {config.batch_size} is smaller than the number of workers, {len(cluster.workers)}: "
            "it counts the images of all workers together, so give at least one for each"
        )
    return cluster


def parse(text: str) -> Cluster:
    """Read and check TF_CONFIG; raises InputError that says what is wrong with it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"TF_CONFIG is not JSON ({error}): it must look like {_EXAMPLE}") from None
    cluster = value.get("cluster") if isinstance(value, dict) else None
    if not isinstance(cluster, dict) or not cluster:
        raise InputError(f"TF_CONFIG has no cluster: it must look like {_EXAMPLE}")
    for role in cluster:
        if role not in ("chief", "worker"):
            raise InputError(f"TF_CONFIG names tasks of type {role}: only chief and worker train together here")
    task = value.get("task")
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise InputError(f"TF_CONFIG has no task with type and index, which say who this process is: see {_EXAMPLE}")
    addresses = {role: _addresses(role, cluster.get(role, [])) for role in ("chief", "worker")}
    if len(addresses["chief"]) > 1:
        raise InputError(f"TF_CONFIG names {len(addresses['chief'])} chiefs: there is one at most")
    workers = addresses["chief"] + addresses["worker"]
    if len(set(workers)) < len(workers):
        twice = next(worker for worker in workers if workers.count(worker) > 1)
        raise InputError(f"TF_CONFIG names {twice} twice: every worker needs an address of its own")
    role, index = task["type"], task["index"]
    if role not in addresses:
        raise InputError(f"TF_CONFIG: task.type = {role!r} must be chief or worker")
    known = addresses[role]
    index = int(index) if isinstance(index, str) and index.isdigit() else index
    if type(index) is not int or not 0 <= index < len(known):
        raise InputError(
            f"TF_CONFIG: task.index = {task['index']!r}, but the cluster has {len(known)} of type {role}: "
            + (f"give 0 to {len(known) - 1}" if known else "give a type that it has")
        )
    return Cluster(tuple(workers), index + (len(addresses["chief"]) if role == "worker" else 0))


def _addresses(role: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(address, str) for address in value):
        raise InputError(f"TF_CONFIG: cluster.{role} must be a list of host:port, got {value!r}")
    for address in value:
        host, separator, port = address.rpartition(":")
        if not (separator and host and port.isdigit() and 1 <= int(port) <= 65535):
            raise InputError(f"TF_CONFIG: {address!r} of cluster.{role} is not of the form host:port, as host1:7000")
    return list(value)


def wait_for_peers(
    cluster: Cluster,
    seconds: float,
    tell: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until every other worker has been seen to listen on its port, while listening on our own.

    TensorFlow itself would wait much longer and not say for whom.

    Args:
        cluster: who is to be there.
        seconds: how long to wait.
        tell: told once for whom we wait.
        clock: seconds.

    Raises:
        InputError: our port is taken, or a peer did not answer in time.
    """
    missing = {index: address for index, address in enumerate(cluster.workers) if index != cluster.index}
    end = clock() + seconds
    told = False
    with _listening(cluster.workers[cluster.index]):
        while True:
            problems = {index: _problem(address) for index, address in missing.items()}
            missing = {index: address for index, address in missing.items() if problems[index]}
            if not missing:
                return
            names = ", ".join(f"worker {index} ({address}): {problems[index]}" for index, address in missing.items())
            if clock() >= end:
                raise InputError(
                    f"no answer within {seconds:g} s from {names}; start `edgecbam train` on every machine of "
                    "TF_CONFIG, or raise train.peer_timeout_seconds"
                )
            if not told:
                told = True
                tell(f"waiting for {names}")
            time.sleep(_RETRY_SECONDS)


@contextlib.contextmanager
def _listening(address: str) -> Iterator[None]:
    """Listen on our port; TensorFlow does from then on."""
    port = int(address.rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            listener.listen(64)
        except OSError as error:
            raise InputError(
                f"cannot listen on port {port}, which TF_CONFIG gives this worker ({error.strerror}): "
                "end the program that uses it, or give another port on every machine"
            ) from None
        yield


def _problem(address: str) -> str:
    """Why a worker cannot be reached now; empty where it can."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
            return ""
    except socket.gaierror as error:
        return f"the name {host} is not known ({error.strerror})"
    except OSError as error:
        return (error.strerror or "timed out").lower()
