"""Training on several devices or machines with ``tf.distribute``; nothing of it is home-made.

Every device computes its part of each batch. Gradients, the sums of the loss and BatchNorm's statistics are summed over
all of them, so that a step is the one that a single device would make of the whole batch, up to rounding. Only where
the last batch of an epoch has fewer images than there are devices, BatchNorm counts one image more for each idle one.
"""

import contextlib
import queue
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.recipe import TrainConfig

from . import cluster as clusters
from .average import batchnorms

_PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnknownError,
)


def strategy(config: TrainConfig, tell: Callable[[str], None]) -> Any:
    """What to train on: the strategy that ``train.distribution`` names.

    Several workers must call this before anything else that makes TensorFlow compute.

    Args:
        config: distribution, batch_size, peer_timeout_seconds.
        tell: told what is waited for and what was chosen, where there is a choice.

    Returns:
        A tf.distribute.Strategy; TensorFlow's default one for a single device.

    Raises:
        InputError: TF_CONFIG is wrong, a peer does not answer, or the batch has too few images for the devices.
    """
    cluster = clusters.of(config)
    if cluster is not None:
        chosen = _multi_worker(cluster, config.peer_timeout_seconds, tell)
        tell(f"worker {cluster.index} of {len(cluster.workers)}, {chosen.num_replicas_in_sync} devices in all")
    elif config.distribution == "none":
        return tf.distribute.get_strategy()
    else:
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) < 2 or (config.distribution == "auto" and devices[0].device_type != "GPU"):
            return tf.distribute.get_strategy()
        chosen = _mirrored(tuple(device.name for device in devices))
        tell(f"mirrored over {len(devices)} devices")
    if config.batch_size < chosen.num_replicas_in_sync:
        raise InputError(
            f"train.batch_size = {config.batch_size} is smaller than the number of devices, "
            f"{chosen.num_replicas_in_sync}: it counts the images of all of them together"
        )
    return chosen


# One of a kind in a process: TensorFlow numbers the sums over devices within a strategy, and those of two would mix.
_strategies: dict[Any, Any] = {}


def _mirrored(devices: tuple[str, ...]) -> Any:
    if devices not in _strategies:
        _strategies[devices] = tf.distribute.MirroredStrategy(devices)
    return _strategies[devices]


def _multi_worker(cluster: clusters.Cluster, seconds: float, tell: Callable[[str], None]) -> Any:
    if cluster not in _strategies:
        tf.config.experimental.enable_op_determinism()
        clusters.wait_for_peers(cluster, seconds, tell)
        with explained(cluster):
            _strategies[cluster] = _created_in_time(cluster, seconds)
    return _strategies[cluster]


def _created_in_time(cluster: clusters.Cluster, seconds: float) -> Any:
    """The strategy of several workers, unless one that was seen to listen falls silent: TensorFlow waits for an hour.

    TensorFlow also takes SIGTERM for itself, to save a checkpoint that nobody asked for; it is given back.
    """
    made: queue.Queue[Any] = queue.Queue()

    def make() -> None:
        try:
            made.put(tf.distribute.MultiWorkerMirroredStrategy())
        except BaseException as error:
            made.put(error)

    on_sigterm = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=make, daemon=True).start()
    try:
        result = made.get(timeout=seconds)
    except queue.Empty:
        others = (name for index, name in enumerate(cluster.workers) if index != cluster.index)
        raise InputError(
            f"the workers did not begin together within {seconds:g} s: see what {', '.join(others)} say, whether "
            "all of them run `edgecbam train` with the same TF_CONFIG, and raise train.peer_timeout_seconds if need be"
        ) from None
    if isinstance(result, BaseException):
        raise result
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    return result


def synchronise(model: Any) -> None:
    """Let BatchNorm take its statistics over the batches of all devices; call before the first step."""
    if model.distribute_strategy.num_replicas_in_sync > 1:
        for norm in batchnorms(model):
            norm.synchronized = True
            norm.fused = False  # Keras' fused kernel knows its own device alone


def cluster_of(strategy: Any) -> clusters.Cluster:
    """Who trains together under a strategy; a process alone is a cluster of one without a known address."""
    resolver = getattr(strategy, "cluster_resolver", None)
    jobs = resolver.cluster_spec().as_dict() if resolver is not None else {}
    chiefs, workers = jobs.get("chief", []), jobs.get("worker", [])
    if not (chiefs or workers):
        return clusters.Cluster(("",), 0)
    assert resolver is not None
    index = resolver.task_id + len(chiefs) * (resolver.task_type == "worker")
    return clusters.Cluster((*chiefs, *workers), index)


def is_chief(strategy: Any) -> bool:
    """Whether this process writes the run folder."""
    return cluster_of(strategy).is_chief


def local_devices(strategy: Any) -> int:
    """How many devices of this process train."""
    return int(strategy.num_replicas_in_sync) // len(cluster_of(strategy).workers)


def shards(strategy: Any) -> list[tuple[int, int]]:
    """(index, count) of the part of each batch that each device of this process takes."""
    local, count = local_devices(strategy), strategy.num_replicas_in_sync
    first = cluster_of(strategy).index * local
    return [(first + device, count) for device in range(local)]


def share(strategy: Any, variables: list[Any]) -> None:
    """Give all workers the chief's values of the variables; every worker must call this at the same time."""
    if len(cluster_of(strategy).workers) < 2:
        return

    def chiefs() -> list[Any]:
        replica = tf.distribute.get_replica_context()
        mine = tf.equal(replica.replica_id_in_sync_group, 0)
        values = [tf.where(mine, variable, tf.zeros_like(variable)) for variable in variables]
        return [replica.all_reduce(tf.distribute.ReduceOp.SUM, value) for value in values]

    @tf.function  # type: ignore[untyped-decorator]
    def everywhere() -> Any:
        return strategy.run(chiefs)

    values = everywhere()
    for variable, value in zip(variables, values, strict=True):
        variable.assign(strategy.experimental_local_results(value)[0])


def meet(strategy: Any) -> None:
    """Wait until every worker has come here; by then the chief has written everything, so that nothing can be lost."""
    if len(cluster_of(strategy).workers) < 2:
        return
    with contextlib.suppress(*_PEER_ERRORS):
        everybody = strategy.run(tf.function(_one))
        float(strategy.reduce(tf.distribute.ReduceOp.SUM, everybody, axis=None))


def _one() -> Any:
    return tf.ones([])


@contextlib.contextmanager
def explained(cluster: clusters.Cluster) -> Iterator[None]:
    """Say in one line that a worker was lost, where TensorFlow says it in many."""
    try:
        yield
    except _PEER_ERRORS as error:
        if len(cluster.workers) < 2:
            raise
        found = {int(task) for task in re.findall(r"/task:(\d+)", str(error))} - {cluster.index}
        lost = [f"worker {index} ({cluster.workers[index]})" for index in sorted(found) if index < len(cluster.workers)]
        raise EnvironmentFailure(
            f"lost touch with {', '.join(lost) or 'another worker'} in mid-training: see what ended it there, then "
            "start `edgecbam train` with --resume on every machine; it goes on from the last checkpoint"
        ) from error
