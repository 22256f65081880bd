"""The place on a phone where cells are measured: benchmark_model, the models, inputs and cores to run on."""

import contextlib
import secrets
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import adb_environment
from .adb import CALL_S, ROOT, Answer, Phone
from .adb_environment import PhoneFacts
from .devices import Unreachable

RUNTIME = "benchmark_model"


@dataclass(frozen=True)
class Options:
    """Options of one invocation of benchmark_model.

    ``memory`` lets it watch its own memory, which disturbs the times. ``inputs`` are the shapes of the inputs in files
    named ``FOLDER/SET-INPUT``; none: it makes up random inputs. In ``output``, as in those names, ``$1`` is the set.
    """

    model: str
    threads: int
    gpu: bool
    warm_up_runs: int
    warm_up_s: float
    runs: int
    memory: bool = False
    inputs: tuple[tuple[int, ...], ...] = ()
    folder: str = ""
    output: str = ""

    def words(self) -> list[str]:
        """The options as the program takes them."""
        names = [f"input_{k}" for k in range(len(self.inputs))]  # its names need not be the model's, the order is
        shapes = [",".join(map(str, shape)) for shape in self.inputs]
        files = [f"{name}:{self.folder}/$1-{k}" for k, name in enumerate(names)]
        return [
            f"--graph={self.model}",
            f"--num_threads={self.threads}",
            f"--warmup_runs={self.warm_up_runs}",
            f"--warmup_min_secs={self.warm_up_s:g}",
            f"--num_runs={self.runs}",
            "--min_secs=0",  # it would go on for a second by itself
            # XNNPACK is left to the program's default, as apps have it: asked for by name, it comes without the
            # kernels for 8-bit integers.
            *(["--use_gpu=true"] if self.gpu else []),
            *(["--report_peak_memory_footprint=true"] if self.memory else []),
            *([f"--input_layer={','.join(names)}", f"--input_layer_shape={':'.join(shapes)}"] if names else []),
            *([f"--input_layer_value_files={','.join(files)}"] if names else []),
            *([f"--output_filepath={self.output}"] if self.output else []),
        ]


class Bench:
    """benchmark_model on a phone, and a folder of its own there that is removed in the end.

    Args:
        phone: where.
        binary: benchmark_model for that phone.
        digest: its sha256.
        cores: mask of the cores to run on; None: the fastest clusters.
    """

    def __init__(self, phone: Phone, binary: Path, digest: str, cores: str | None) -> None:
        self.phone, self.binary, self.digest = phone, binary, digest
        self.work = f"{ROOT}/work-{secrets.token_hex(6)}"
        self._cores = cores
        self._program = ""
        self._facts: PhoneFacts | None = None
        self._inputs: dict[str, str] = {}

    def prepare(self) -> None:
        """Reach the phone and bring it benchmark_model; raises Unreachable."""
        self.phone.reach()
        self.phone.checked(f"mkdir -p {self.work}")
        self._program = self.phone.keep(self.binary, RUNTIME)
        self.phone.checked(f"chmod 755 {self._program}")

    def close(self) -> None:
        """Remove the folder; models and benchmark_model stay for the next time."""
        if self._program:
            with contextlib.suppress(Unreachable):
                self.phone.shell(f"rm -rf {self.work}")

    def model(self, path: Path) -> str:
        """Where a model lies on the phone; brought there if it is not. Raises Unreachable."""
        return self.phone.keep(path, "model")

    def inputs(self, key: str, sets: Sequence[Sequence[np.ndarray]]) -> str:
        """The remote folder of these inputs, one file ``SET-INPUT`` each, brought there once for each key."""
        if key not in self._inputs:
            name = f"inputs-{len(self._inputs)}"
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / name
                folder.mkdir()
                for i, arrays in enumerate(sets):
                    for k, array in enumerate(arrays):
                        (folder / f"{i}-{k}").write_bytes(np.ascontiguousarray(array).tobytes())
                self.phone.push(folder, self.work)
            self._inputs[key] = f"{self.work}/{name}"
        return self._inputs[key]

    def facts(self) -> PhoneFacts:
        """What does not change, read once; raises Unreachable."""
        if self._facts is None:
            self._facts = adb_environment.read_facts(self.phone.checked(adb_environment.DESCRIBE))
        return self._facts

    def cores(self, threads: int) -> str | None:
        """Mask of the cores to run on; None where the phone keeps their speeds to itself and none was asked for."""
        return self._cores or adb_environment.fastest_cores(self.facts().cores, threads)

    def allowed_cores(self, mask: str) -> Answer:
        """What the phone's kernel makes of a mask: it may allow less. The answer's text is a mask as well."""
        answer = self.phone.shell(f"taskset {mask} grep Cpus_allowed: /proc/self/status")
        words = answer.text.split()
        if answer.code == 0 and len(words) == 2:
            return Answer(0, words[1].replace(",", "").lstrip("0"))
        return Answer(answer.code or 1, answer.text)

    def invocation(self, options: Options, mask: str | None, label: str, each: str = "0") -> str:
        """Shell command for one invocation that leaves its process id in the folder of ``label``.

        Args:
            options: of the program.
            mask: of the cores to run on.
            label: names the worker.
            each: shell word for the set that ``$1`` stands for in the options.
        """
        pin = f"taskset {mask} " if mask else ""
        command = f"echo $$ > {self.work}/{label}.pid; exec {pin}{self._program} {' '.join(options.words())}"
        return f"sh -c {shlex.quote(command)} sh {each}"

    def end(self, label: str) -> None:
        """End the invocation that ``label`` still has running, if it is one of benchmark_model; never fails."""
        script = f"p=$(cat {self.work}/{label}.pid) && grep -q {self.digest} /proc/$p/cmdline && kill -9 $p"
        with contextlib.suppress(Unreachable):
            self.phone.shell(script, CALL_S / 3)
