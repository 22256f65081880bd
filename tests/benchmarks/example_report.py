"""A report as rich as they come, made up: runtimes, devices and threads, failures, profiles, and its samples."""

from typing import Any

import numpy as np

from edgecbam.benchmarks import statistics
from edgecbam.benchmarks.protocol import Protocol

LONG = "a/very/long/path/of_a_model_that_somebody_named_in_full_int8_per_channel_symmetric_v2.tflite"
TIMES_US = {  # by model and runtime
    ("model_fp32.tflite", "litert"): 520.0,
    ("model_fp16.tflite", "litert"): 515.0,
    ("model_int8.tflite", "litert"): 210.0,
    (LONG, "litert"): 690.0,
    ("model_fp32.onnx", "onnxruntime"): 610.0,
    ("model_int8.onnx", "onnxruntime"): 300.0,
    ("model_fp32.onnx", "openvino"): 450.0,
    ("model_int8.onnx", "openvino"): 190.0,
}
ACCURACY = {
    "model_fp32.tflite": 0.8865,
    "model_fp16.tflite": 0.8865,
    "model_int8.tflite": 0.8830,
    LONG: 0.8790,
    "model_fp32.onnx": 0.8865,
    "model_int8.onnx": 0.8835,
}
PROTOCOL = Protocol("quick", 5, 20, 5, 1, 20, "quick protocol: a look, not a publication", warm_up_s=0.1)
NOW = "2026-01-01T00:00:00+00:00"
KEY = ("model", "runtime", "device", "threads")


def environment(cpu: str | None = "Fast CPU", cpus: int = 8) -> dict[str, Any]:
    """A machine."""
    return {
        "board": None,
        "cpu": cpu,
        "machine": "x86_64",
        "cpu_flags": ["avx2", "avx512_vnni"],
        "logical_cpus": cpus,
        "physical_cores": cpus // 2,
        "affinity_cpus": cpus,
        "cgroup_cpus": "unlimited",
        "governor": None,
        "virtualised": True,
        "memory_bytes": 8 << 30,
        "os": "Debian",
        "kernel": "Linux 6",
        "python": "3.11.7",
        "versions": {"numpy": "2.4.6", "litert": "2.3.0", "openvino": None},
    }


def times_ns(us: float, seed: int, shape: tuple[int, int, int] = (5, 20, 5)) -> np.ndarray:
    """[processes, rounds, runs]: processes that differ, some drift, and a tail."""
    random = np.random.default_rng(seed)
    process = random.normal(1, 0.02, (shape[0], 1, 1))
    drift = 1 + 0.03 * np.linspace(0, 1, shape[1])[None, :, None]
    noise = random.lognormal(0, 0.02, shape) + (random.random(shape) < 0.02) * random.exponential(0.8, shape)
    return np.asarray(us * 1000 * process * drift * noise, np.int64)


def row(model: str, runtime: str, device: str = "cpu", threads: int = 1, **more: Any) -> dict[str, Any]:
    """A result without figures, to be filled."""
    return {
        "model": model,
        "runtime": runtime,
        "runtime_version": "2.3.0",
        "device": device,
        "threads": threads,
        "baseline": None,
        "status": "ok",
        "reason": "",
        "parity": None,
        "accuracy": None,
        "agreement": None,
        "rmse": None,
        "bytes": 123456,
        "init_ms": None,
        "first_ms": None,
        "latency_ms": None,
        "memory": None,
        "placement": None,
        "cpus": None,
        "nodes": None,
        "nodes_reason": "",
        "measurement": 0,
        **more,
    }


def checked(model: str) -> dict[str, Any]:
    """What a row of a run folder knows of its outputs."""
    parity = {
        "checked": True,
        "images": 2000,
        "reference": "keras_float",
        "max_relative_error": 1e-3,
        "min_agreement": None,
        "relative_error": 7.3e-7,
    }
    return {"parity": parity, "accuracy": ACCURACY[model], "agreement": 0.9951}


def measured(us: float, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """The figures of a row that was timed, and its samples."""
    samples = times_ns(us, seed)
    figures = {
        "init_ms": 4.5,
        "first_ms": 0.7,
        "latency_ms": statistics.latency(list(samples)),
        "memory": {"imported_bytes": 40 << 20, "peak_bytes": 50 << 20},
        "placement": {"device": "cpu", "threads": 1, "delegate": "xnnpack", "xnnpack_partitions": 1, "ops_outside": []},
    }
    return figures, samples


def comparison(
    baseline: dict[str, Any], candidate: str, ours: np.ndarray, theirs: np.ndarray, kind: str = "candidate"
) -> dict[str, Any]:
    """An entry of ``comparisons`` in the place of the baseline, from the samples of both."""
    ratio = statistics.ratio(list(ours), list(theirs))
    return {
        "kind": kind,
        "baseline": baseline["model"],
        "candidate": candidate,
        **{key: baseline[key] for key in ("runtime", "device", "threads")},
        "processes": 5,
        "process_ratios": statistics.process_ratios(list(ours), list(theirs)),
        "ratio": ratio,
        "verdict": statistics.verdict(ratio["low"], ratio["high"]),
        "measurement": 0,
    }


def ratio_of(report: dict[str, Any], candidate: str, runtime: str, device: str, threads: int) -> dict[str, Any]:
    """The ratio of a comparison of two models in a place."""
    wanted = ("candidate", candidate, runtime, device, threads)
    keys = ("kind", "candidate", *KEY[1:])
    return next(c["ratio"] for c in report["comparisons"] if tuple(c[key] for key in keys) == wanted)


def profile(model: str, runtime: str, device: str = "cpu", threads: int = 1) -> dict[str, Any]:
    """A profile of fourteen ops, two of them attention, one of these not delegated."""
    times = [90.0, 80.0, 70.0, 60.0, 50.0, 30.0, 25.0, 20.0, 15.0, 10.0, 8.0, 6.0, 4.0, 2.0]
    total = sum(times)
    ops = [
        {
            "name": f"model/block{i}/{'cbam/spatial' if i in (2, 5) else 'conv'}/a_rather_long_name_of_an_op/{i}",
            "op": "MEAN" if i == 5 else "CONV_2D",
            "us": us,
            "share": us / total,
            "where": "cpu" if i == 5 else "xnnpack",
            "attention": i in (2, 5),
        }
        for i, us in enumerate(times)
    ]
    convolutions = total - 30.0
    return {
        "model": model,
        "runtime": runtime,
        "device": device,
        "threads": threads,
        "status": "ok",
        "reason": "",
        "runs": 50,
        "total_us": total,
        "delegate": "xnnpack",
        "resolution_us": 1.0,
        "ops": ops,
        "attention": {"us": 100.0, "share": 100.0 / total},
        "attention_reason": None,
        "not_delegated": {"count": 1, "us": 30.0, "share": 30.0 / total, "ops": ["MEAN"]},
        "by_op": [
            {"op": "CONV_2D", "count": 13, "us": convolutions, "share": convolutions / total},
            {"op": "MEAN", "count": 1, "us": 30.0, "share": 30.0 / total},
        ],
    }


def failed_profile(model: str, runtime: str, reason: str) -> dict[str, Any]:
    """A profile that could not be had."""
    empty = {"attention": None, "attention_reason": None, "not_delegated": None, "ops": [], "by_op": []}
    figures = {"runs": None, "total_us": None, "delegate": None, "resolution_us": None}
    return {**profile(model, runtime), **empty, **figures, "status": "unsupported", "reason": reason}


def rich() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The report and its samples by cell key."""
    results, samples, comparisons = [], {}, []
    for number, ((model, runtime), us) in enumerate(TIMES_US.items()):
        for device, threads, factor in (("cpu", 1, 1.0), ("cpu", 2, 0.7), ("ssh:pi", 1, 6.0)):
            if device != "cpu" and runtime != "litert":
                continue
            figures, raw = measured(us * factor, 10 * number + threads)
            results.append(row(model, runtime, device, threads, **figures, **checked(model)))
            samples["|".join(str(results[-1][key]) for key in KEY)] = raw
    for base in [entry for entry in results if "fp32" in entry["model"]]:
        place = [entry for entry in results if all(entry[key] == base[key] for key in KEY[1:])]
        there = samples["|".join(str(base[key]) for key in KEY)]
        for entry in place:
            if entry is not base:
                ours = samples["|".join(str(entry[key]) for key in KEY)]
                comparisons.append(comparison(base, entry["model"], ours, there))
        twin = there * (1 + 0.004 * np.random.default_rng(1).normal(size=there.shape))
        comparisons.append(comparison(base, base["model"], twin, there, "control"))
    gpu = {"device": "gpu", "threads": 1, "adapter": "SwiftShader Device", "software": True, "precision": "f32"}
    emulated = "SwiftShader Device is an emulation on the CPU: its time is no GPU's"
    memory = {"imported_bytes": 40 << 20, "peak_bytes": 90 << 20}
    results += [
        row(
            "model_fp32.tflite",
            "litert_gpu",
            "gpu",
            status="functional_only",
            reason=emulated,
            placement=gpu,
            memory=memory,
            **checked("model_fp32.tflite"),
        ),
        row("model_int8.tflite", "litert_gpu", "gpu", status="crash", reason="died in open (SIGSEGV)"),
        row(
            "model_int8.onnx",
            "openvino",
            "gpu",
            status="unsupported",
            reason="OpenVINO finds no GPU here: it lists CPU alone",
        ),
        row(
            "model_fp16.tflite",
            "litert",
            "adb:0123456789",
            status="skipped",
            reason="adb:0123456789 cannot be reached (device offline): plug it in and run the same command again",
        ),
    ]
    here = environment()
    report = {
        "schema_version": 3,
        "tool": {"name": "edgecbam", "version": "0.1.0"},
        "environment": {**here, "started_utc": NOW, "load_before": 0.1, "load_after": 1.0},
        "devices": {
            "cpu": {
                "environment": here,
                "before": {"load": 0.1, "steal_ticks": 5, "cpu_ticks": 1000, "user_hz": 100},
                "after": {"load": 1.0, "steal_ticks": 25, "cpu_ticks": 2000, "user_hz": 100},
            },
            "gpu": {"environment": here, "before": {"load": 0.1}, "after": {"load": 1.0}},
            "ssh:pi": {"environment": environment("Cortex-A76", 4), "before": {"load": 0.2}, "after": None},
        },
        "protocol": PROTOCOL.describe(),
        "inputs": {"shapes": {}, "file_sha256": None},
        "models": [
            {
                "name": model,
                "format": model.rpartition(".")[2],
                "bytes": 123456,
                "sha256": "0" * 64,
                "precision": None,
                "macs": None,
                "parameters": None,
            }
            for model in ACCURACY
        ],
        "results": results,
        "comparisons": comparisons,
        "profiles": [
            profile("model_fp32.tflite", "litert"),
            profile("model_int8.tflite", "litert"),
            profile(LONG, "litert", "ssh:pi"),
            failed_profile("model_int8.onnx", "openvino", "OpenVINO tells no times of its ops here"),
        ],
        "measurements": [{"started_utc": NOW, "finished_utc": "2026-01-01T00:03:00+00:00", "cells": list(samples)}],
        "gate": {
            "threshold_percent": 5.0,
            "verdict": "failed",
            "reason": f"more than 5 % slower than the baseline: {LONG} on litert",
            "rows": [
                {
                    "candidate": LONG,
                    "baseline": "model_fp32.tflite",
                    "runtime": "litert",
                    "device": "cpu",
                    "threads": 1,
                    "ratio": {"value": 1.33, "low": 1.28, "high": 1.38},
                    "verdict": "slower",
                }
            ],
        },
    }
    return report, samples
