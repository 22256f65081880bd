"""RUN/app/web in headless Chromium: the classes are Python's, nothing comes from elsewhere, everybody can use it."""

import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright

from edgecbam import artifacts, preprocessing, runtimes
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.export import web_modules, web_page, web_server

ROOT = Path(__file__).parents[2]
# SwiftShader, a GPU emulated on the CPU, which Chromium brings.
EMULATED_GPU = (
    *("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"),
    *("--use-vulkan=swiftshader", "--ignore-gpu-blocklist"),
)
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module", autouse=True)
def cache() -> Iterator[None]:
    """The packages of the page are kept among what the Makefile builds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGECBAM_CACHE", str(ROOT / "build" / "cache"))
        assert shutil.which("npm"), "npm is missing: run `make test-web`, or install the package npm"
        yield


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


def launch(playwright: Playwright, *flags: str) -> Browser:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "chromium is missing: run `make test-page`, or install the package chromium"
    return playwright.chromium.launch(executable_path=program, args=["--no-sandbox", *flags])


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    started = launch(playwright)
    yield started
    started.close()


@pytest.fixture(scope="module")
def server(trained_run: Path) -> Iterator[web_server.Server]:
    with web_server.open_server(trained_run, 0) as opened:
        thread = threading.Thread(target=opened.serve_forever, daemon=True)
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


class Visit:
    """A page that was opened, and what the browser complained about."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.addresses: list[str] = []
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", lambda request: self.errors.append(f"failed: {request.url}"))
        self.context.on("request", lambda request: self.addresses.append(request.url))
        self.page.goto(url)
        self.page.locator("body[data-ready]").wait_for(timeout=60_000)

    def _note(self, kind: str, text: str) -> None:
        if kind == "error":
            self.errors.append(text)

    def give(self, name: str, content: bytes) -> None:
        """Choose a file and wait for the end of what follows."""
        self.page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_timeout(20)
        self.page.locator('body[aria-busy="false"]').wait_for(timeout=60_000)

    @property
    def status(self) -> str:
        return self.page.inner_text("#status")

    def top(self) -> list[tuple[str, str]]:
        entries = self.page.locator("#classes li").all()
        return [(one.locator(".label").inner_text(), one.locator(".value").inner_text()) for one in entries]


@pytest.fixture
def visit(browser: Browser, server: web_server.Server) -> Iterator[Visit]:
    opened = Visit(browser, server.url, viewport=DESKTOP)
    yield opened
    opened.context.close()


def answers(run: Path, pixels: np.ndarray, name: str = "model_uint8.tflite") -> np.ndarray:
    """Probabilities [n, classes] of RGB pixels [n, h, w, 3], in Python."""
    told = json.loads((run / "app" / "manifest.json").read_text())["files"][name]
    session = runtimes.find("litert").open(run / "app" / name, threads=1)
    given = pixels if told["input"]["dtype"] == "uint8" else (pixels.astype(np.float32) - told["mean"]) / told["std"]
    raw = np.concatenate([session.run([one[None].astype(told["input"]["dtype"])])[0] for one in given])
    real = np.asarray(runtimes.to_real(raw, session.outputs[0]))
    session.close()
    return real


def rgb(run: Path) -> dict[str, Any]:
    """The preprocessing of the app's models: the network's, with RGB."""
    told = artifacts.load_manifest(run / "export").preprocessing
    return {**told, "channels": 3, "mean": [128.0], "std": [128.0]}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


# Its answers


def test_samples_get_the_classes_and_probabilities_of_python(visit: Visit, trained_run: Path) -> None:
    told = json.loads((trained_run / "app/web/page.json").read_text())
    classes = artifacts.load_manifest(trained_run / "export").classes
    assert len(told["samples"]) == web_page.SAMPLES
    pictures = [np.asarray(Image.open(trained_run / "app/web" / one["file"]).convert("RGB")) for one in told["samples"]]
    expected = answers(trained_run, np.stack(pictures))
    for number, (sample, wanted) in enumerate(zip(told["samples"], expected, strict=True)):
        button = visit.page.get_by_role("button", name=f"Sample {number + 1}: {sample['label']}")
        button.click()
        visit.settle()
        order = np.lexsort((np.arange(len(wanted)), -wanted))[:5]
        assert visit.top() == [(classes[index], percent(wanted[index])) for index in order]
        assert visit.status == f"{classes[order[0]]}, {percent(wanted[order[0]])}"
        assert "ms a run: median of" in visit.page.inner_text("#latency")
    assert len(np.unique(expected.argmax(axis=1))) >= 4, "or a constant answer would do"
    assert visit.errors == []


def test_the_runtimes_agree(playwright: Playwright, server: web_server.Server, trained_run: Path) -> None:
    """LiteRT.js on the CPU and on an emulated GPU, and MediaPipe, each against its file in Python."""
    browser = launch(playwright, *EMULATED_GPU)
    picture = np.asarray(Image.open(trained_run / "app/web/samples/2.png").convert("RGB"))[None]
    classes = artifacts.load_manifest(trained_run / "export").classes
    for kind, name in (("webgpu", "model_fp16.tflite"), ("mediapipe", "model_uint8.tflite")):
        opened = Visit(browser, f"{server.url}?runtime={kind}")
        assert opened.page.input_value("#runtime") == kind
        assert "emulated in software" in opened.page.inner_text("#runtime-note")
        opened.page.locator("#samples button").nth(1).click()
        opened.settle()
        wanted = answers(trained_run, picture, name)[0]
        shown = {label: float(value.removesuffix(" %")) / 100 for label, value in opened.top()}
        assert next(iter(shown)) == classes[int(wanted.argmax())]
        for label, value in shown.items():
            assert value == pytest.approx(wanted[classes.index(label)], abs=2e-3), kind
        assert opened.errors == []
        opened.page.select_option("#runtime", "litert")  # another runtime answers for the same image
        opened.settle()
        own = answers(trained_run, picture)[0]
        assert opened.top()[0] == (classes[int(own.argmax())], percent(own.max()))
        opened.context.close()
    browser.close()


SIZES = [(28, 28), (29, 28), (27, 31), (1, 1), (3, 700), (640, 480), (56, 56), (100, 20), (13, 200), (1000, 999)]


@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_pixels_are_fitted_as_in_training_bit_for_bit(visit: Visit, resize: str) -> None:
    random = np.random.default_rng(0)
    for width, height in SIZES:
        for target in ({"height": 28, "width": 28}, {"height": 20, "width": 33}):
            pixels = random.integers(0, 256, (height, width, 3), np.uint8)
            wanted = preprocessing.fit(
                Image.fromarray(pixels), {**target, "channels": 3, "resize": resize, "mean": [0.0], "std": [1.0]}
            )
            rgba = np.concatenate([pixels, np.full((height, width, 1), 255, np.uint8)], axis=-1)
            found = visit.page.evaluate(
                """async ([text, width, height, target]) => {
                  const { fit } = await import("./image.mjs");
                  const bytes = Uint8ClampedArray.from(atob(text), (c) => c.charCodeAt(0));
                  return [...fit(new ImageData(bytes, width, height), target)];
                }""",
                [base64_of(rgba), width, height, {**target, "resize": resize}],
            )
            np.testing.assert_array_equal(np.reshape(found, wanted.shape), wanted, f"{width} x {height} -> {target}")


def base64_of(array: np.ndarray) -> str:
    import base64

    return base64.b64encode(array.tobytes()).decode()


def photo(width: int, height: int) -> Image.Image:
    """A smooth picture of many colours."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 120 * np.sin(x / a + y / b) for a, b in ((31, 57), (23, -41), (67, 19))]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


def kinds_of_files() -> dict[str, bytes]:
    picture = photo(300, 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = picture.copy()
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    deep = Image.fromarray(np.asarray(picture)[..., 0].astype(np.uint16) * 257)
    frames = [photo(60, 40), Image.new("RGB", (60, 40), "red")]
    return {
        "photo.jpg": encoded(picture, "JPEG", quality=92),
        "photo.png": encoded(picture, "PNG"),
        "grey.png": encoded(picture.convert("L"), "PNG"),
        "turned.jpg": encoded(picture, "JPEG", exif=exif, quality=92),
        "clear.png": encoded(clear, "PNG"),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG", quality=92),
        "deep.png": encoded(deep, "PNG"),
        "palette.png": encoded(picture.convert("P"), "PNG"),
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "photo.webp": encoded(picture, "WEBP", lossless=True),
    }


def test_files_of_all_kinds_are_read_as_python_reads_them(visit: Visit, trained_run: Path, tmp_path: Path) -> None:
    """Pixels: decoders may round by a level. Answers: those of the pixels, which differ in steps at most."""
    classes = artifacts.load_manifest(trained_run / "export").classes
    for name, content in kinds_of_files().items():
        (tmp_path / name).write_bytes(content)
        wanted = preprocessing.load_image(tmp_path / name, rgb(trained_run))
        found = visit.page.evaluate(
            """async (text) => {
              const { decode, fit } = await import("./image.mjs");
              const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
              const target = (await (await fetch("../manifest.json")).json()).image;
              return [...fit(await decode(new Blob([bytes])), target)];
            }""",
            base64_of(np.frombuffer(content, np.uint8)),
        )
        pixels = np.reshape(found, wanted.shape).astype(np.uint8)
        # Chromium turns CMYK into RGB its own way
        allowed = 2 if name != "cmyk.jpg" else 60
        assert np.abs(pixels.astype(int) - wanted).max() <= allowed, name
        visit.give(name, content)
        own = answers(trained_run, pixels[None])[0]
        assert visit.status == f"{classes[int(own.argmax())]}, {percent(own.max())}", name
        if name != "cmyk.jpg":
            assert np.abs(own - answers(trained_run, wanted[None])[0]).max() <= 4 / 256, name
    assert visit.errors == []


def test_attention_is_that_of_python_and_drawn_over_the_image(visit: Visit, trained_run: Path) -> None:
    visit.page.locator("#samples button").nth(2).click()
    visit.settle()
    told = json.loads((trained_run / "app/web/page.json").read_text())
    assert [gate["kind"] for gate in told["gates"]] == ["channel", "spatial"] * 2
    session = runtimes.find("litert").open(trained_run / "app/web/attention_uint8.tflite", threads=1)
    picture = np.asarray(Image.open(trained_run / "app/web/samples/3.png").convert("RGB"))[None]
    outputs = session.run([picture])
    session.close()
    np.testing.assert_array_equal(outputs[0] / 256, answers(trained_run, picture))
    figures = visit.page.locator("#attention figure")
    assert figures.count() == 2
    for number in range(2):
        channel, spatial = (outputs[1 + 2 * number + k] / 256 for k in range(2))
        caption = figures.nth(number).locator("figcaption").inner_text()
        height, width = spatial.shape[1:3]
        assert f"spatial, {height} x {width}: {spatial.min():.2f} to {spatial.max():.2f}" in caption
        assert f"{channel.shape[3]} channels: {channel.min():.2f} to {channel.max():.2f}" in caption
        row, column = np.unravel_index(int(spatial.argmax()), (height, width))
        label = figures.nth(number).locator("canvas").get_attribute("aria-label")
        assert label is not None
        assert label.endswith(f"strongest in row {row + 1} of {height}, column {column + 1} of {width}")
        shot = np.asarray(Image.open(io.BytesIO(figures.nth(number).locator("canvas").screenshot())).convert("RGB"))
        drawn = np.asarray(Image.fromarray(shot).resize((width, height), Image.Resampling.BOX)).astype(float)
        yellow = drawn[..., 0] + drawn[..., 1] - drawn[..., 2]  # viridis: from purple to yellow
        values = spatial[0, ..., 0]
        assert (
            yellow[values >= np.quantile(values, 0.9)].mean() > yellow[values <= np.quantile(values, 0.1)].mean() + 50
        )


# For everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_fits_the_screen_and_axe_finds_no_barrier(
    browser: Browser, server: web_server.Server, viewport: Any, scheme: Any
) -> None:
    opened = Visit(browser, server.url, viewport=viewport, color_scheme=scheme)
    found = [Axe().run(opened.page)]
    opened.page.locator("#samples button").first.click()
    opened.settle()
    found.append(Axe().run(opened.page))
    assert [result.generate_report() for result in found if result.violations_count] == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 24, 27)")
    if viewport is PHONE:
        box = opened.page.locator("#status").bounding_box()
        assert box is not None
        assert box["y"] < viewport["height"], "the answer is seen without scrolling"
    assert opened.errors == []
    opened.context.close()


def test_axe_would_find_a_barrier(visit: Visit) -> None:
    visit.page.evaluate("document.querySelector('#samples img').removeAttribute('alt')")
    assert Axe().run(visit.page).violations_count > 0


def test_a_keyboard_is_enough(visit: Visit) -> None:
    focus = "document.activeElement.id || document.activeElement.parentElement.parentElement.id"
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate(focus) == "file"
    outline = "getComputedStyle(document.querySelector('#file + label')).outlineStyle"
    assert visit.page.evaluate(outline) == "solid", "where the focus is can be seen"
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate(focus) == "samples"
    visit.page.keyboard.press("Enter")
    visit.settle()
    assert len(visit.top()) == 5
    for _ in range(web_page.SAMPLES):
        visit.page.keyboard.press("Tab")
    assert visit.page.evaluate(focus) == "runtime"
    visit.page.keyboard.press("m")  # of MediaPipe
    visit.settle()
    assert "MediaPipe" in visit.page.inner_text("#latency")
    expect(visit.page.get_by_role("status")).to_contain_text("%")
    assert visit.errors == []


def test_dropped_and_pasted_images_are_taken(visit: Visit) -> None:
    give = """([kind, text]) => {
      const data = new DataTransfer();
      if (text) data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], "it.png"));
      const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
      document.querySelector("#drop").dispatchEvent(event);
    }"""
    image = base64_of(np.frombuffer(encoded(photo(50, 50), "PNG"), np.uint8))
    for kind in ("drop", "paste"):
        visit.page.evaluate(give, [kind, image])
        visit.settle()
        assert visit.status.endswith("%")
        visit.page.reload()
        visit.page.locator("body[data-ready]").wait_for()
    visit.page.evaluate(give, ["drop", ""])
    assert visit.status == "What was dropped is no file: save the image first, then drop it."


# Alone


def test_nothing_comes_from_elsewhere_and_it_goes_on_offline(visit: Visit, server: web_server.Server) -> None:
    visit.page.select_option("#runtime", "mediapipe")
    visit.settle()
    visit.page.select_option("#runtime", "litert")  # MediaPipe reports its use when it is closed
    visit.settle()
    visit.context.set_offline(True)
    visit.give("photo.png", encoded(photo(80, 60), "PNG"))
    assert visit.status.endswith("%")
    assert visit.page.locator("#attention figure").count() == 2
    origin = server.url.removesuffix("web/")
    assert len(visit.addresses) > 10
    assert [address for address in visit.addresses if not address.startswith((origin, "blob:"))] == []
    assert visit.errors == []


def test_the_policy_forbids_other_origins_and_scripts(visit: Visit) -> None:
    assert (
        visit.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'reached', (error) => error.name)") == "TypeError"
    )
    visit.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    visit.page.wait_for_timeout(100)
    assert visit.page.evaluate("window.ran") is None
    assert len([text for text in visit.errors if "Content Security Policy" in text]) >= 2


def test_without_webgpu_it_falls_back_to_wasm_and_says_so(browser: Browser, server: web_server.Server) -> None:
    opened = Visit(browser, f"{server.url}?runtime=webgpu")
    assert opened.page.input_value("#runtime") == "litert"
    assert opened.page.inner_text("#runtime-note") == "This browser has no WebGPU: models run in WASM, on the CPU."
    assert opened.page.locator("#runtime option[value=webgpu]").is_disabled()
    opened.page.locator("#samples button").first.click()
    opened.settle()
    assert "LiteRT.js in WASM" in opened.page.inner_text("#latency")
    assert opened.errors == []
    opened.context.close()


def test_where_webgpu_fails_it_falls_back_to_wasm_and_says_so(
    playwright: Playwright, server: web_server.Server
) -> None:
    browser = launch(playwright, *EMULATED_GPU)
    context = browser.new_context()
    page = context.new_page()
    page.route("**/model_fp16.tflite", lambda route: route.fulfill(body=b"no model"))
    page.goto(f"{server.url}?runtime=webgpu")
    page.locator("body[data-ready]").wait_for()
    assert page.input_value("#runtime") == "litert"
    assert page.inner_text("#runtime-note").startswith("WebGPU failed (")
    assert page.inner_text("#status") == "Ready: choose an image."
    browser.close()


BAD = {
    "nothing.png": (b"", "“nothing.png” is empty (0 bytes): choose an intact image, such as JPEG or PNG."),
    "text.png": (b"no image", "“text.png” is no image that this browser can read"),
    "cut.png": (encoded(photo(90, 90), "PNG")[:300], "“cut.png” is no image that this browser can read"),
    "<b>.png": (b"\x89PNG", "“<b>.png” is no image that this browser can read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_get_one_line_and_the_page_goes_on(visit: Visit, name: str) -> None:
    content, message = BAD[name]
    visit.give(name, content)
    assert visit.status.startswith(message)
    visit.give("good.png", encoded(photo(40, 40), "PNG"))
    assert visit.status.endswith("%")
    assert visit.errors == []


def test_names_of_a_model_are_text_and_nothing_else(browser: Browser, server: web_server.Server) -> None:
    context = browser.new_context()
    page = context.new_page()
    hostile = "<img src=x onerror=alert(1)>"

    def altered(route: Any) -> None:
        told = json.loads(server.table["/manifest.json"])  # type: ignore[arg-type]
        route.fulfill(json={**told, "name": hostile, "classes": [f"{hostile}{n}" for n in range(len(told["classes"]))]})

    page.route("**/manifest.json", altered)
    page.on("dialog", lambda dialog: pytest.fail("a label was run"))
    page.goto(server.url)
    page.locator("body[data-ready]").wait_for()
    page.locator("#samples button").first.click()
    page.locator("#latency:not(:empty)").wait_for()
    assert page.inner_text("#name") == hostile
    assert page.inner_text("#status").startswith(hostile)
    assert page.locator("#classes img").count() == 0
    context.close()


# The server


def ask(server: web_server.Server, target: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest("GET", target, skip_host="Host" in headers)
    for key, value in headers.items():
        connection.putheader(key, value)
    connection.endheaders()
    return connection.getresponse()


def test_the_server_gives_its_table_and_nothing_else(server: web_server.Server, trained_run: Path) -> None:
    assert ask(server, "/").getheader("Location") == "/web/"
    for target in (
        *("/web/../../recipe.toml", "/web/%2e%2e/%2e%2e/recipe.toml", "/../recipe.toml", "//etc/passwd", "/etc/passwd"),
        *("/stage.json", "/proof/check.c", "/web", "/web/samples/", "/web/node_modules/", "/web/\\..\\..\\recipe.toml"),
        *("/web/node_modules/../page.json", "/model_fp32.tflite", "/web/page.json/", "/web/page.json%00", "/%"),
    ):
        assert ask(server, target).status == 404, target
    for target in ("/web/", "/web/page.mjs", "/web/page.json", "/manifest.json", "/model_uint8.tflite"):
        answer = ask(server, target)
        assert answer.status == 200, target
        assert len(answer.read()) == int(answer.getheader("Content-Length") or -1)
        policy = answer.getheader("Content-Security-Policy") or ""
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert "'unsafe-eval'" not in policy
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert ask(server, "/web/page.mjs").getheader("Content-Type") == "text/javascript; charset=utf-8"
    assert ask(server, "/model_uint8.tflite").read() == (trained_run / "app/model_uint8.tflite").read_bytes()


def test_the_server_answers_to_this_machine_alone(server: web_server.Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    for host in ("evil.example", "evil.example:80", f"evil.example:{server.server_port}", ""):
        assert ask(server, "/manifest.json", Host=host).status == 421, host
    assert ask(server, "/manifest.json", Host=f"localhost:{server.server_port}").status == 200


def test_two_names_in_one_request_are_refused(server: web_server.Server) -> None:
    """Whichever of them a proxy had believed."""
    hosts = f"Host: 127.0.0.1:{server.server_port}\r\nHost: evil.example\r\n"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(f"GET /manifest.json HTTP/1.1\r\n{hosts}\r\n".encode())
        assert b" 421 " in connection.recv(100)


def test_other_methods_and_half_requests_do_no_harm(server: web_server.Server) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        connection.request(method, "/web/", body=b"x" * 1000 if method in ("POST", "PUT") else None)
        assert connection.getresponse().status == 501
    for sent in (b"GET /\r\n", b"\x00\xff\r\n\r\n", b"GET " + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as raw:
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            raw.recv(100)
    assert ask(server, "/web/").status == 200


def test_a_port_in_use_is_named(server: web_server.Server, trained_run: Path) -> None:
    with pytest.raises(InputError, match=rf"port {server.server_port} is in use: give another with --port"):
        web_server.open_server(trained_run, server.server_port)
    with pytest.raises(InputError, match="--port 70000 is none: give one from 1024 to 65535"):
        web_server.open_server(trained_run, 70000)


def test_a_run_without_app_or_with_an_older_one_is_named(small_run: Path) -> None:
    shutil.move(small_run / "app", small_run / "gone")
    with pytest.raises(InputError, match=rf"has no finished stage app: run `edgecbam export {small_run}` first"):
        web_server.open_server(small_run, 0)
    shutil.move(small_run / "gone", small_run / "app")
    record = json.loads((small_run / "app/stage.json").read_text())
    record["files"] = {name: digest for name, digest in record["files"].items() if not name.startswith("web/")}
    (small_run / "app/stage.json").write_text(json.dumps(record))
    shutil.rmtree(small_run / "app/web")
    with pytest.raises(InputError, match=rf"has no page: run `edgecbam export {small_run}` again"):
        web_server.open_server(small_run, 0)


@pytest.mark.parametrize(
    "samples", [[{"file": "../../recipe.toml"}], [{"file": "/etc/passwd"}], [{}], "text", [{"file": 3}], None]
)
def test_a_page_file_that_names_other_files_is_refused(small_run: Path, samples: Any) -> None:
    path = small_run / "app/web/page.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"samples": samples}))
    record = json.loads((small_run / "app/stage.json").read_text())
    record["files"]["web/page.json"] = artifacts.sha256_file(path)
    (small_run / "app/stage.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="is not what edgecbam writes"):
        web_server.open_server(small_run, 0)


def test_npm_that_is_missing_or_fails_is_named(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECBAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFailure, match=r"npm is missing.*: install the packages nodejs and npm"):
        web_modules.fetch()
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error network is down' >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(EnvironmentFailure, match=r"could not fetch.*\(npm error network is down\)"):
        web_modules.fetch()
    assert list((tmp_path / "cache").iterdir()) == [], "nothing half-fetched"


def test_the_command_serves_until_it_is_interrupted(trained_run: Path) -> None:
    command = [sys.executable, "-m", "edgecbam", "demo", str(trained_run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url, told = line.split("  ")
        assert told == "(Ctrl-C ends it)\n"
        port = int(url.split(":")[2].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/web/")
        assert connection.getresponse().status == 200
        process.send_signal(2)
        assert process.wait(timeout=20) == 0


def test_the_page_in_the_bundle_is_the_one_that_is_served(server: web_server.Server, trained_run: Path) -> None:
    """Another server needs no more than the folder and npm ci: the policy is in the page itself."""
    folder = trained_run / "app" / "web"
    for name, content in web_page.files().items():
        assert (folder / name).read_bytes() == content
    assert f'content="{web_page.policy()}"' in (folder / "index.html").read_text()
    lock = json.loads((folder / "package-lock.json").read_text())["packages"]
    packages = [name for name in lock if name]
    assert sorted(name.removeprefix("node_modules/") for name in packages) == sorted(web_page.MODULES)
    assert all(lock[name]["integrity"].startswith("sha512-") for name in packages)
