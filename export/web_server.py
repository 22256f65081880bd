"""``edgecbam demo``: serves a run's page on this machine alone.

Every address is known before the first request: a table of what may be asked for, read into memory or found on disk
when the server starts. No part of a request is ever joined to a path. The page's code is that of the installed package;
of the run come its models, its facts and its samples.
"""

import mimetypes
import re
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edgecbam import artifacts
from edgecbam.errors import EnvironmentFailure, InputError

from . import web_modules, web_page

HOST = "127.0.0.1"
TIMEOUT_S = 30
MAX_SAMPLES = 100
_TYPES = {
    ".mjs": "text/javascript",
    ".js": "text/javascript",
    ".wasm": "application/wasm",
    ".tflite": "application/octet-stream",
}
_CODE = re.compile(r"\.(js|mjs|wasm)$")
_SAMPLE = re.compile(r"samples/[0-9]{1,3}\.png")


class Server(ThreadingHTTPServer):
    """Serves a table of files; see ``open_server``."""

    daemon_threads = True

    def __init__(self, port: int, table: Mapping[str, bytes | Path]) -> None:
        self.table = table
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/{web_page.FOLDER}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "edgecbam", ""
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        port = self.server.server_port
        if self.headers.get_all("Host") not in ([f"{HOST}:{port}"], [f"localhost:{port}"]):
            # a name of elsewhere that was made to point here could otherwise read the answers
            return self._answer(
                HTTPStatus.MISDIRECTED_REQUEST, b"this server answers to 127.0.0.1 alone\n", "text/plain"
            )
        path = self.path.partition("?")[0]
        if path == "/":
            return self._answer(HTTPStatus.FOUND, b"", "text/plain", {"Location": f"/{web_page.FOLDER}/"})
        found = self.server.table.get(path)
        if found is None:
            return self._answer(HTTPStatus.NOT_FOUND, b"not found\n", "text/plain")
        kind = _TYPES.get(Path(path).suffix) or mimetypes.guess_type(path)[0] or "text/html"
        content = found if isinstance(found, bytes) else found.read_bytes()
        return self._answer(HTTPStatus.OK, content, kind)

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, content: bytes, kind: str, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": f"{web_page.policy()}; frame-ancestors 'none'",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Embedder-Policy": "require-corp",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-cache",
            **(more or {}),
        }
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed."""


def open_server(run: Path, port: int) -> Server:
    """A server of a run's page that listens already; ``serve_forever`` answers.

    Args:
        run: a run folder whose stage app is whole.
        port: 0 takes any that is free.

    Raises:
        InputError: the run has no app, or one without a page; the port is in use or none.
        EnvironmentFailure: npm is missing or fails, or this port is not allowed.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port} is none: give one from 1024 to 65535, or 0 for any that is free")
    artifacts.check_stage(run, "app")
    table = _table(run / "app") | _modules(web_modules.fetch())
    try:
        return Server(port, table)
    except PermissionError:
        raise EnvironmentFailure(f"port {port} may not be used: give one from 1024 on with --port") from None
    except OSError:
        raise InputError(f"port {port} is in use: give another with --port, or --port 0 for any that is free") from None


def _table(app: Path) -> dict[str, bytes | Path]:
    web = app / web_page.FOLDER
    if web.is_symlink() or not (web / web_page.PAGE_FILE).is_file():
        raise InputError(f"{app} has no page: run `edgecbam export {app.parent}` again")
    told = artifacts.read_json(web / web_page.PAGE_FILE)
    names = samples(web / web_page.PAGE_FILE)
    table: dict[str, bytes | Path] = {
        f"/{web_page.FOLDER}/{name}": content for name, content in web_page.files().items()
    }
    table[f"/{web_page.FOLDER}/"] = table.pop(f"/{web_page.FOLDER}/index.html")
    for name in (web_page.PAGE_FILE, *([web_page.ATTENTION_FILE] if told.get("gates") else []), *names):
        table[f"/{web_page.FOLDER}/{name}"] = _read(web / name)
    for name in (artifacts.MANIFEST_FILE, "model_uint8.tflite", "model_fp16.tflite"):
        table[f"/{name}"] = _read(app / name)
    artifacts.read_json(app / artifacts.MANIFEST_FILE)  # says so where it is none
    return table


def samples(page: Path) -> list[str]:
    """The files that a page.json names; raises InputError where one is none of samples/."""
    told = artifacts.read_json(page)
    try:
        names = [sample["file"] for sample in told["samples"]]
        good = all(isinstance(name, str) and _SAMPLE.fullmatch(name) for name in names) and len(names) <= MAX_SAMPLES
    except (KeyError, TypeError):
        good = False
    if not good:
        raise InputError(f"{page} is not what edgecbam writes: run `edgecbam export {page.parents[2]}` again")
    return names


def _read(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path} is missing: run `edgecbam export` again")
    return path.read_bytes()


def _modules(folder: Path) -> dict[str, bytes | Path]:
    """Code of the packages, by address; files, because they are large and most are never asked for."""
    files = (path for path in folder.rglob("*") if _CODE.search(path.name) and path.is_file() and not path.is_symlink())
    return {f"/{web_page.FOLDER}/node_modules/{path.relative_to(folder).as_posix()}": path for path in files}
