"""The log of benchmark_model, in the words of its versions."""

import dataclasses

import pytest

from edgecbam.benchmarks.adb_environment import Core, fastest_cores
from edgecbam.benchmarks.adb_result import Replaced, decode, failure

NEW = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [10]
INFO: Num threads: [4]
INFO: Graph: [/data/local/tmp/edgecbam/0a/model]
INFO: Signature to run: []
INFO: Report the peak memory footprint: [1]
INFO: Loaded model /data/local/tmp/edgecbam/0a/model
INFO: Initialized TensorFlow Lite runtime.
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
VERBOSE: Replacing 62 out of 64 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 2 partitions for \
subgraph 0 (main).
INFO: The input model file size (MB): 16.9013
INFO: Initialized session in 121.534ms.
INFO: Running benchmark for at least 5 iterations and at least 0.1 seconds but terminate if exceeding 150 seconds.
INFO: count=8 first=25640 curr=13001 min=12950 max=25640 avg=14621.4 std=4167 p5=12950 median=13014 p95=25640

INFO: Running benchmark for at least 10 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=10 first=13022 curr=12998 min=12971 max=13160 avg=13031.7 std=51 p5=12971 median=13022 p95=13160

INFO: Inference timings in us: Init: 121534, First inference: 25640, Warmup (avg): 14621.4, Inference (avg): 13031.7
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual \
memory footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=30.2266 overall=33.7109
INFO: Overall peak memory footprint (MB) via periodic monitoring: 41.6172
INFO: Memory status at the end of exeution:
INFO: - VmRSS              : 41 MB
"""
OLD = """STARTING!
Duplicate flags: num_threads
Loaded model /data/local/tmp/net.tflite
Initialized session in 0.855ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=15 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=32891 curr=33978 min=32641 max=34005 avg=33209.4 std=450

Average inference timings in us: Warmup: 34825.1, Init: 855, no stats: 33209.4
"""


def test_what_today_s_program_prints() -> None:
    result = decode(NEW)
    assert (result.init_us, result.first_us) == (121534, 25640)
    assert (result.timed.count, result.timed.mean_us, result.timed.median_us) == (10, 13031.7, 13022)
    assert result.peak_bytes == round(41.6172 * 2**20)
    assert result.replaced == (Replaced("TfLiteXNNPackDelegate", 62, 64, 2),)
    assert not result.gpu
    assert result.unknown_options == ""


def test_what_the_first_ones_printed() -> None:
    result = decode(OLD)
    assert (result.init_us, result.first_us) == (855, 49060)
    assert (result.timed.count, result.timed.mean_us, result.timed.median_us) == (50, 33209.4, None)
    assert result.peak_bytes is None


@pytest.mark.parametrize(
    ("line", "mean", "median"),
    [
        ("count=1 curr=870 p5=870 median=870 p95=870", 870, 870),
        ("count=3 curr=870(all same) p5=870 median=870 p95=870", 870, 870),
        ("count=2 first=2 curr=1500000 min=2 max=1500000 avg=1.2e+06 std=1 p5=2 median=1500000 p95=2", 1.2e6, 1.5e6),
    ],
)
def test_odd_statistics(line: str, mean: float, median: float) -> None:
    lines = NEW.splitlines()
    where = next(i for i, text in enumerate(lines) if text.startswith("INFO: count=10"))
    lines[where] = f"INFO: {line}"
    timed = decode("\n".join(lines)).timed
    assert (timed.mean_us, timed.median_us) == (mean, median)


def test_without_a_warm_up_the_first_inference_is_a_timed_one() -> None:
    lines = ["INFO: count=0 p5=0 median=0 p95=0" if "count=8 " in line else line for line in NEW.splitlines()]
    assert decode("\n".join(lines)).first_us == 13022


def test_gpu_and_unknown_options() -> None:
    part = (
        "Explicitly applied GPU delegate, and the model graph will be partially executed by the delegate w/ 2 delegate"
    )
    none = "Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate."
    assert decode(f"INFO: {part} delegate kernels.\n{NEW}").gpu
    assert not decode(f"INFO: {none}\n{NEW}").gpu
    assert decode(f"WARN: Unconsumed cmdline flags: --a=1 --b=2\n{NEW}").unknown_options == "--a=1 --b=2"


@pytest.mark.parametrize("log", ["", "INFO: STARTING!", NEW.replace("count", "number"), NEW.replace("Init:", "It:")])
def test_what_is_no_log_of_it_is_refused(log: str) -> None:
    with pytest.raises(ValueError, match="statistics"):
        decode(log)


def test_failures_by_whose_fault_they_are() -> None:
    flex = "ERROR: Select TensorFlow op(s), included in the given model, is(are) not supported by this interpreter."
    assert failure(f"{flex}\nERROR: Benchmarking failed.\n", 1)[0] == "unsupported"
    custom = "ERROR: Encountered unresolved custom op: Foo.\nERROR: Node number 3 (Foo) failed to prepare.\n"
    assert failure(custom, 1) == ("unsupported", "Encountered unresolved custom op: Foo.")
    assert failure("sh: benchmark_model: not executable: 64-bit ELF file\n", 126)[0] == "unsupported"
    linker = 'CANNOT LINK EXECUTABLE "x": library "libOpenCL.so" not found\n'
    assert failure(linker, 1)[0] == "unsupported"
    assert failure("Killed\n", 137) == ("crash", "benchmark_model died (SIGKILL): Killed")
    fatal = "FATAL: The size of x is 3 bytes. It should be 4 bytes.\nAborted\n"
    assert failure(fatal, 134) == (
        "crash",
        "benchmark_model died (SIGABRT): The size of x is 3 bytes. It should be 4 bytes.",
    )
    assert failure("", 1) == ("crash", "benchmark_model ended with exit code 1")


CORES = tuple(Core(number, 1_800_000 if number < 4 else 2_400_000, None, True) for number in range(7))


@pytest.mark.parametrize(
    ("cores", "threads", "mask"),
    [
        (CORES, 1, "70"),
        (CORES, 3, "70"),
        (CORES, 4, "7f"),
        (CORES, 16, "7f"),
        ((*CORES, Core(7, 3_000_000, None, True)), 1, "80"),
        ((*CORES, Core(7, 3_000_000, None, True)), 2, "f0"),
        ((*CORES, Core(7, 3_000_000, None, False)), 1, "70"),
        ((*CORES, Core(7, None, None, True)), 1, "70"),
        (tuple(dataclasses.replace(core, max_khz=None) for core in CORES), 1, None),
        ((), 1, None),
    ],
)
def test_the_fastest_clusters_that_hold_the_threads(cores: tuple[Core, ...], threads: int, mask: str | None) -> None:
    assert fastest_cores(cores, threads) == mask
