"""Real files through real workers: rows are true, wrong files are refused, and TensorFlow is never loaded."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam import artifacts
from edgecbam.artifacts import Samples
from edgecbam.benchmarks import cells, measure, protocol
from edgecbam.benchmarks.child import Child, ChildFailed
from edgecbam.benchmarks.devices import LocalDevice
from edgecbam.benchmarks.protocol import Protocol
from edgecbam.errors import InputError
from edgecbam.events import Event
from edgecbam.runtimes import RUNTIMES, Runtime

LeftBehind = Callable[[], list[int]]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tiny_protocol: Protocol) -> None:
    monkeypatch.setitem(protocol.PROTOCOLS, "quick", dataclasses.replace(tiny_protocol, processes=1))


def quick(runtimes: tuple[str, ...] | None, **options: Any) -> measure.Request:
    return measure.Request(runtimes, protocol="quick", **options)


def here(*names: str) -> list[cells.Spot]:
    return cells.spots(names, [LocalDevice("cpu")], (1,))


def by_key(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["model"], row["runtime"]): row for row in report["results"]}


def test_a_run_gets_parity_accuracy_and_latency_in_every_row(run_folder: Path) -> None:
    names = ("litert", "onnxruntime", "openvino")
    report = measure.benchmark_run(run_folder, quick(names))
    rows = by_key(report)
    assert len(rows) == 5 + 2 + 2
    assert rows.pop(("model_dynamic.tflite", "litert"))["status"] == "skipped"
    for key, row in rows.items():
        assert (row["status"], row["reason"]) == ("ok", ""), key
        assert row["parity"]["images"] == 120
        assert row["agreement"] >= 0.95
        assert 0.7 <= row["accuracy"] <= 0.8, "a quarter of the labels is wrong"
        assert row["latency_ms"]["n"] == 2 * 3
        assert row["memory"]["peak_bytes"] > row["memory"]["imported_bytes"] > 2**20
        assert row["bytes"] == (run_folder / "export" / key[0]).stat().st_size
    assert rows["model_fp32.onnx", "openvino"]["placement"]["inference_precision_hint"] == "f32"
    assert rows["model_int8.tflite", "litert"]["placement"]["xnnpack_partitions"] == 1
    assert rows["model_int8.tflite", "litert"]["parity"]["reference"] == "keras_qat"
    told = {key: row["nodes"] for key, row in rows.items() if row["nodes"] is not None}
    assert set(told) == {("model_fp32.onnx", "onnxruntime"), ("model_int8.onnx", "onnxruntime")}
    assert told["model_fp32.onnx", "onnxruntime"]["integer"] == 0
    assert told["model_int8.onnx", "onnxruntime"]["integer"] > 0
    assert all(n["integer"] + n["float"] + n["other"] == n["total"] for n in told.values())
    assert all(sum(entry["count"] for entry in n["in_float"]) == n["float"] for n in told.values())
    assert {row["nodes_reason"] for row in rows.values()} == {""}
    kinds = [(c["kind"], c["runtime"], c["baseline"], c["candidate"]) for c in report["comparisons"]]
    assert kinds == [
        ("candidate", "litert", "model_fp32.tflite", "model_fp16.tflite"),
        ("candidate", "litert", "model_fp32.tflite", "model_ptq_int8.tflite"),
        ("candidate", "litert", "model_fp32.tflite", "model_int8.tflite"),
        ("candidate", "onnxruntime", "model_fp32.onnx", "model_int8.onnx"),
        ("candidate", "openvino", "model_fp32.onnx", "model_int8.onnx"),
        ("control", "litert", "model_fp32.tflite", "model_fp32.tflite"),
        ("control", "onnxruntime", "model_fp32.onnx", "model_fp32.onnx"),
        ("control", "openvino", "model_fp32.onnx", "model_fp32.onnx"),
    ]
    json.dumps(report, allow_nan=False)
    assert str(run_folder) not in json.dumps(report), "a report names no folder of this machine"


def test_a_useless_reference_and_a_wrong_output_are_no_rows_with_times(run_folder: Path, samples: Samples) -> None:
    constant = np.tile(samples.keras_qat[:1], (len(samples.labels), 1))
    artifacts.write_samples(
        run_folder / "export", dataclasses.replace(samples, keras_float=-samples.keras_float, keras_qat=constant)
    )
    report = measure.benchmark_run(run_folder, quick(("litert",)))
    rows = by_key(report)
    assert {row["status"] for row in rows.values()} == {"wrong_output", "skipped"}
    assert "constant" in rows["model_int8.tflite", "litert"]["reason"]
    assert "differ from keras_float" in rows["model_fp32.tflite", "litert"]["reason"]
    assert "same class" in rows["model_ptq_int8.tflite", "litert"]["reason"]
    assert all(row["latency_ms"] is None for row in rows.values())
    assert report["comparisons"] == []
    assert report["raw_ns"] == {}, "what is wrong is not timed"


def test_a_file_that_is_not_the_exported_one_is_refused(run_folder: Path) -> None:
    path = run_folder / "export" / "model_fp32.onnx"
    path.write_bytes(path.read_bytes().replace(b"Relu", b"Rely"))
    with pytest.raises(InputError, match=r"model_fp32\.onnx is not the file"):
        measure.benchmark_run(run_folder, quick(("onnxruntime",)))
    path.unlink()
    with pytest.raises(InputError, match=r"model_fp32\.onnx"):
        measure.benchmark_run(run_folder, quick(("onnxruntime",)))


def test_bare_files_are_compared_with_the_baseline_on_each_runtime(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch, tiny_protocol: Protocol
) -> None:
    monkeypatch.setitem(protocol.PROTOCOLS, "quick", tiny_protocol)  # two processes: an interval
    files = [fixtures / name for name in ("tiny_int8.tflite", "tiny_split.tflite", "tiny_fp32.onnx")]
    report = measure.benchmark_models(files, quick(("litert", "onnxruntime")), baseline=fixtures / "tiny_fp32.tflite")
    assert [row["model"] for row in report["results"]] == [
        "tiny_fp32.tflite",
        "tiny_int8.tflite",
        "tiny_split.tflite",
        "tiny_fp32.onnx",
    ]
    assert {row["status"] for row in report["results"]} == {"ok"}
    assert all(row["parity"]["checked"] for row in report["results"])
    assert [row["parity"]["tolerance"] for row in report["results"]] == [1e-3, 1e-1, 1e-3, 1e-3]
    assert all(row["accuracy"] is None for row in report["results"])
    assert all(c["ratio"]["low"] <= c["ratio"]["value"] <= c["ratio"]["high"] for c in report["comparisons"])
    assert [(c["kind"], c["runtime"], c["candidate"]) for c in report["comparisons"]] == [
        ("candidate", "litert", "tiny_int8.tflite"),
        ("candidate", "litert", "tiny_split.tflite"),
        ("control", "litert", "tiny_fp32.tflite"),
        ("control", "onnxruntime", "tiny_fp32.onnx"),
    ]


@pytest.mark.parametrize("file", ["tiny_fp32.tflite", "tiny_fp32.onnx"])
def test_damaged_and_missing_files_stop_before_any_measuring(
    file: str, fixtures: Path, tmp_path: Path, left_behind: LeftBehind
) -> None:
    bad = tmp_path / f"bad{Path(file).suffix}"
    content = (fixtures / file).read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    events: list[Event] = []
    for models, match in (
        ([fixtures / file, bad], r"bad\."),
        ([fixtures / file, tmp_path / f"absent{bad.suffix}"], "absent"),
    ):
        with pytest.raises(InputError, match=match):
            measure.benchmark_models(models, quick(("litert", "onnxruntime")), on_event=events.append)
    assert events == []
    assert left_behind() == []


def test_a_file_that_the_runtime_cannot_run_is_an_unsupported_row(fixtures: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange.onnx"
    strange.write_bytes((fixtures / "tiny_fp32.onnx").read_bytes().replace(b"Relu", b"Rely"))
    report = measure.benchmark_models([fixtures / "tiny_fp32.onnx", strange], quick(("onnxruntime",)))
    assert [row["status"] for row in report["results"]] == ["ok", "unsupported"]
    assert "Rely" in report["results"][1]["reason"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"runtimes": ("lite-rt",)}, "did you mean litert"),
        ({"runtimes": ()}, "no runtime"),
        ({"runtimes": ("litert", "litert")}, "twice"),
        ({"threads": (0,)}, "threads"),
        ({"threads": (1, 1)}, "twice"),
        ({"devices": ()}, "no device"),
        ({"devices": ("cpu", "cpu")}, "twice"),
        ({"devices": ("tpu",)}, "no device 'tpu'"),
        ({"devices": ("ssh:",)}, "no device 'ssh:'"),
        ({"protocol": "quik"}, "did you mean quick"),
    ],
)
def test_bad_options_are_refused(arguments: dict[str, Any], match: str, fixtures: Path) -> None:
    with pytest.raises(InputError, match=match):
        measure.benchmark_models([fixtures / "tiny_fp32.tflite"], dataclasses.replace(quick(("litert",)), **arguments))


def test_no_models_folders_and_strange_endings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pb").write_bytes(b"x")
    for models in ([], [tmp_path], [tmp_path / "model.pb"]):
        with pytest.raises(InputError, match=r"\.tflite"):
            measure.benchmark_models(models, quick(("litert",)))


def test_a_runtime_that_is_not_installed_is_a_row_with_the_command(
    fixtures: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Runtime("openvino", "openvino", "no_such_module", "openvino", (".onnx",), RUNTIMES["openvino"].open)
    monkeypatch.setitem(RUNTIMES, "openvino", absent)
    made, _ = cells.bare_cells([fixtures / "tiny_fp32.onnx"], here("onnxruntime", "openvino"), None)
    assert [(c.runtime, c.status, c.control) for c in made] == [
        ("onnxruntime", "", False),
        ("openvino", "unsupported", False),
        ("onnxruntime", "", True),
    ]
    assert "pip install 'edgecbam[openvino]'" in made[1].reason
    report = measure.benchmark_run(run_folder, quick(("openvino",)))
    assert {row["status"] for row in report["results"]} == {"unsupported"}


def test_a_file_that_no_asked_runtime_reads_says_which_would(fixtures: Path) -> None:
    made, _ = cells.bare_cells([fixtures / "tiny_fp32.onnx"], here("litert"), None)
    assert [(c.status, c.control) for c in made] == [("unsupported", False)]
    assert "onnxruntime, openvino, openvino_bf16 can" in made[0].reason


def test_files_of_the_same_name_stay_apart(fixtures: Path, tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        shutil.copy(fixtures / "tiny_fp32.tflite", tmp_path / folder / "m.tflite")
    made, models = cells.bare_cells(
        [tmp_path / "new/m.tflite", tmp_path / "old/m.tflite"], here("litert"), tmp_path / "old/m.tflite"
    )
    assert [model["name"] for model in models] == ["old/m.tflite", "new/m.tflite"]
    assert {c.baseline for c in made} == {"old/m.tflite"}


def test_noise_on_standard_output_does_no_harm(fixtures: Path, tmp_path: Path) -> None:
    """The real worker with a runtime that shouts on file descriptor 1 while it is imported."""
    script = tmp_path / "noisy.py"
    script.write_text(
        "import importlib, os\n"
        "from edgecbam.benchmarks import worker\n"
        "load = importlib.import_module\n"
        "def noisy(name):\n"
        '    os.write(1, b\'{"failed": "crash"} INFO: hello\\n\')\n'
        "    print('hello again', flush=True)\n"
        "    return load(name)\n"
        "importlib.import_module = noisy\n"
        "worker.main()\n"
    )
    task = {"model": str(fixtures / "tiny_fp32.tflite"), "runtime": "litert", "threads": 1, "seed": 1, "export": None}
    with Child(task, (sys.executable, str(script))) as child:
        assert child.hear(60) == {"imported": True}
        assert child.ask({"command": "open"}, 60)["placement"]["xnnpack_partitions"] == 1
        assert child.ask({"command": "check", "images": 1}, 60)["passed"]
        assert child.ask({"command": "warm", "runs": 1}, 60) == {"warm": True, "runs": 1, "cpus": None}
        assert len(child.ask({"command": "block", "lead_in": 1, "runs": 4}, 60)["ns"]) == 4
        with pytest.raises(ChildFailed, match="no command dance"):
            child.ask({"command": "dance"}, 60)


def test_peak_memory_is_the_workers_own(fixtures: Path) -> None:
    ballast = np.ones(200 << 20, np.uint8)  # a parent that has been training
    task = {"model": str(fixtures / "tiny_fp32.tflite"), "runtime": "litert", "threads": 1, "seed": 1, "export": None}
    with Child(task) as child:
        child.hear(60)
        memory = child.ask({"command": "open"}, 60)["memory"]
    assert 10 << 20 < memory["imported_bytes"] <= memory["peak_bytes"] < 150 << 20 < ballast.nbytes


def test_neither_parent_nor_worker_loads_tensorflow(run_folder: Path) -> None:
    script = (
        "import sys\n"
        "from edgecbam.benchmarks import cells, measure, report, worker\n"
        "from edgecbam.runtimes import find\n"
        "from edgecbam.benchmarks.parity import check_run_file\n"
        "from pathlib import Path\n"
        "folder = Path(sys.argv[1]) / 'export'\n"
        "session = find('litert').open(folder / 'model_int8.tflite')\n"
        "assert check_run_file(folder, 'model_int8.tflite', session, 50).passed\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'tensorflow', 'tf_keras', 'keras', 'onnx'}))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(run_folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.stdout.strip() == "[]", ran.stderr
