"""The page in a real browser: nothing is wider than a phone, nothing is fetched, charts are drawn, dark is dark."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_report import LONG, rich
from PIL import Image

from edgecbam.benchmarks import report as reports

DARK, LIGHT = 0, 1  # Blink's numbers for preferred colour schemes
HEIGHT = 4000

# Put around the page by the tests alone: a frame as wide as a phone, and what it measures there.
MEASURE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe style="border:0;width:{width}px;height:800px" srcdoc="{page}"></iframe>
<pre id="told"></pre>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const view = frame.contentWindow, page = frame.contentDocument, root = page.documentElement;
  for (const details of page.querySelectorAll("details")) details.open = true;
  const charts = [...page.querySelectorAll("svg.chart")];
  const letters = [...page.querySelectorAll("svg.chart text")];
  const inside = (one, other) => one.left >= other.left - 1 && one.right <= other.right + 1
    && one.top >= other.top - 1 && one.bottom <= other.bottom + 1;
  const boxes = (chart) => [...chart.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
  const meet = (one, other) => one.left < other.right - 1 && other.left < one.right - 1
    && one.top < other.bottom - 4 && other.top < one.bottom - 4;
  const clashes = charts.map((chart) => {{
    const all = boxes(chart);
    return all.flatMap((one, i) => all.slice(i + 1).filter((other) => meet(one, other)).map(() => i)).length;
  }});
  document.querySelector("#told").textContent = JSON.stringify({{
    width: root.scrollWidth,
    window: view.innerWidth,
    charts: charts.map((chart) => chart.getBoundingClientRect().width),
    smallest: Math.min(...letters.map((text) => parseFloat(view.getComputedStyle(text).fontSize)
      * text.ownerSVGElement.getBoundingClientRect().width / text.ownerSVGElement.viewBox.baseVal.width)),
    outside: charts.flatMap((chart) => [...chart.querySelectorAll("text")]
      .filter((text) => !inside(text.getBoundingClientRect(), chart.getBoundingClientRect()))
      .map((text) => text.textContent)),
    clashes,
    fetched: view.performance.getEntriesByType("resource").map((entry) => entry.name),
    background: view.getComputedStyle(page.body).backgroundColor,
    ink: view.getComputedStyle(letters[0]).fill,
  }});
}};
</script>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs headless Chromium on a file with more arguments; returns what it printed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "chromium is missing: run `make test-page`, or install the package chromium"
    profile = tmp_path_factory.mktemp("chromium")

    def run(page: Path, *arguments: str, scheme: int = LIGHT) -> str:
        own = (f"--user-data-dir={profile}", f"--blink-settings=preferredColorScheme={scheme}")
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000")
        command = [str(program), *flags, *own, *arguments, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return run


@pytest.fixture(scope="module")
def page() -> str:
    report, samples = rich()
    return reports.html(report, None, samples=samples)


def measure(browser: Callable[..., str], folder: Path, page: str, width: int, scheme: int = LIGHT) -> dict[str, Any]:
    """What a browser says of the page in a window of this width."""
    path = folder / "measure.html"
    path.write_text(MEASURE.format(width=width, page=html.escape(page)), "utf-8")
    told = re.search(
        r'<pre id="told">(.+?)</pre>', browser(path, "--dump-dom", "--window-size=1600,1200", scheme=scheme)
    )
    assert told, "the page did not load"
    answer: dict[str, Any] = json.loads(html.unescape(told[1]))
    return answer


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_nothing_is_wider_than_the_window_and_every_label_can_be_read(
    browser: Callable[..., str], tmp_path: Path, page: str, width: int
) -> None:
    told = measure(browser, tmp_path, page, width)
    assert told["window"] == width
    assert told["width"] <= width
    assert len(told["charts"]) == 8
    assert all(0.4 * min(width, 1000) <= chart <= 480 for chart in told["charts"]), told["charts"]
    assert told["smallest"] >= 9
    assert told["outside"] == [], "labels that leave their chart are cut or lie upon others"
    assert told["clashes"] == [0] * 8, "labels that lie upon each other cannot be read"
    assert told["fetched"] == []


def test_the_measure_finds_what_is_wrong(browser: Callable[..., str], tmp_path: Path, page: str) -> None:
    wide = page.replace("<h2>", '<div style="width:500px">x</div><h2>', 1)
    assert measure(browser, tmp_path, wide, 390)["width"] > 390
    fetching = page.replace("<h2>", '<img src="https://example.invalid/x.png"><h2>', 1)
    assert measure(browser, tmp_path, fetching, 390)["fetched"] == ["https://example.invalid/x.png"]
    twice = '<text x="9" y="100">twice</text><text x="12" y="101">twice</text><text x="355" y="30">cut</text></svg>'
    told = measure(browser, tmp_path, page.replace("</svg>", twice, 1), 390)
    assert told["clashes"][0] >= 1
    assert told["outside"] == ["cut"]


def test_long_names_do_not_widen_a_phone(browser: Callable[..., str], tmp_path: Path) -> None:
    text = json.dumps(rich()[0]).replace(LONG, "W" * 300).replace("Cortex-A76", "M" * 300)
    told = measure(browser, tmp_path, reports.html(json.loads(text), None), 360)
    assert told["width"] <= 360
    assert told["outside"] == []


def brightness(colour: str) -> float:
    """Of ``rgb(1, 2, 3)``, from 0 to 255."""
    return float(np.mean([float(part) for part in re.findall(r"[\d.]+", colour)[:3]]))


def test_charts_follow_the_colour_scheme(browser: Callable[..., str], tmp_path: Path, page: str) -> None:
    light, dark = (measure(browser, tmp_path, page, 390, scheme) for scheme in (LIGHT, DARK))
    assert brightness(light["background"]) > 200 > 120 > brightness(light["ink"])
    assert brightness(dark["background"]) < 60 < 150 < brightness(dark["ink"])


def test_screenshots_show_charts(browser: Callable[..., str], tmp_path: Path) -> None:
    report, samples = rich()
    report = {**report, "results": report["results"][:6], "gate": None}  # charts come early
    path = tmp_path / "page.html"
    path.write_text(reports.html(report, None, samples=samples), "utf-8")
    for scheme, paper in ((LIGHT, (255, 255, 255)), (DARK, (22, 24, 27))):
        shot = tmp_path / f"{scheme}.png"
        browser(path, f"--screenshot={shot}", f"--window-size=1280,{HEIGHT}", scheme=scheme)
        pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
        assert tuple(pixels[2, 2]) == paper
        blue = (pixels[..., 2] > 200) & (pixels[..., 0] < 130)
        green = (pixels[..., 1] > pixels[..., 0] + 60) & (pixels[..., 1] > pixels[..., 2] + 30)
        assert blue.sum() > 5000, "distributions and time series"
        assert green.sum() > 100, "what is faster"
