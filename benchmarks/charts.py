"""The charts of a report: speed-ups, accuracy or RMSE against latency, distributions, time series, and profiles.

Only rows whose time is a speed appear in them: no ``functional_only`` row, and none that failed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import chart_profile, chart_samples, chart_speed
from .chart_parts import Chart


def of_latency(report: Mapping[str, Any], samples: Mapping[str, np.ndarray] | None) -> list[Chart]:
    """Everything about latency that there is something to draw of; needs matplotlib.

    Args:
        report: the value of report.json.
        samples: the arrays of samples.npz; None where they are not at hand.
    """
    rows = chart_samples.sampled(report, samples or {})
    drawn = [
        chart_speed.speed_up(report),
        *chart_speed.quality(report),
        chart_samples.distribution(rows),
        chart_samples.time_series(rows),
    ]
    return [chart for chart in drawn if chart is not None]


def of_profiles(report: Mapping[str, Any]) -> list[Chart]:
    """The dearest ops of every profile; needs matplotlib."""
    return chart_profile.profiles(report)
