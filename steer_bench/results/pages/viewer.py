"""Viewer: a run's pages served to this machine, and to nobody else.

    report folder -> [server on 127.0.0.1] -> browser

Serves the files a report consists of, and nothing that lies beside them (records, vectors, configuration).
"""

import mimetypes
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

PAGE = "leaderboard.html"
SERVED = re.compile(r"leaderboard\.(html|md|csv|tex)|figures/[A-Za-z0-9][A-Za-z0-9._-]*\.(svg|png)")
"""Paths in a report folder that belong to the report."""


class Viewer(ThreadingHTTPServer):
    """The server of one report folder; `with Viewer(folder) as viewer: viewer.serve_forever()`."""

    daemon_threads = True

    def __init__(self, folder: str | Path, port: int = 0) -> None:
        """Open the port. Raises ValueError where there is no page, or where the port is taken."""
        self.folder = Path(folder).resolve()
        if self.file_of(PAGE) is None:
            raise ValueError(f"{folder}: no {PAGE} there; make it with steer-bench report or steer-bench leaderboard")
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"port {port} can not be had on 127.0.0.1 ({error}); give another, or none for a free one"
            ) from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/"

    def file_of(self, path: str) -> Path | None:
        """Return the file that a request's path names; None for anything that does not belong to the report."""
        try:
            name = unquote(urlsplit(path).path).removeprefix("/") or PAGE
        except ValueError:  # an address that cannot be
            return None
        file = self.folder / name
        own = SERVED.fullmatch(name) and file.resolve() == file  # a link leads to what is no part of the report
        return file if own and file.is_file() else None

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a browser that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: Viewer
    server_version, sys_version = "steer-bench", ""
    path = ""
    """That of a request which cannot be read, and is answered all the same."""
    timeout = 30.0
    """Seconds that a request may take to come."""

    def do_GET(self) -> None:
        """Answer with a file of the report."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Answer with its headers."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        # A page of another site can point its own name at 127.0.0.1; its requests carry that name.
        port = self.server.server_port
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            self.send_error(HTTPStatus.FORBIDDEN, "Host is not this machine")
            return
        file = self.server.file_of(self.path)
        if file is None:
            self.send_error(HTTPStatus.NOT_FOUND, "Not a file of the report")
            return
        content = file.read_bytes()
        kind = mimetypes.guess_type(file.name)[0] or "text/plain"
        kind = "text/plain" if file.suffix in (".md", ".tex", ".csv") else kind
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind + ("; charset=utf-8" if kind.startswith("text/") else ""))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def end_headers(self) -> None:
        """Keep every answer, errors included, on this machine and of the type it says it is."""
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cache-Control", "no-cache")
        if self.path.endswith(".svg"):
            self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing: requests are the user's own."""
