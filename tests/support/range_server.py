"""An HTTP server with byte ranges that fails, stalls, truncates and corrupts as a test tells it."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Fault = str | None
"""What happens to a request: None, "500", "404", "drop", "stall", "truncate" or "corrupt"."""


class Server:
    """Serves a folder with byte ranges; `fault(path, number)` decides about the number-th request of a path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fault: Callable[[str, int], Fault] = lambda path, number: None
        self.ranges = True
        self.requests: list[tuple[str, int, int]] = []  # path, start, stop
        self._lock = threading.Lock()
        self._ended = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = _HTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()

    def count(self, text: str) -> int:
        """Requests whose path contains `text`."""
        return sum(text in path for path, _, _ in self.requests)

    def decide(self, path: str, start: int, stop: int) -> Fault:
        with self._lock:
            number = sum(earlier == path for earlier, _, _ in self.requests)
            self.requests.append((path, start, stop))
        return self.fault(path, number)


class _HTTPServer(ThreadingHTTPServer):
    request_queue_size = 64  # with the default of 5, connections of several ranks at once wait a second and more
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # a client that has closed the connection of a stalled answer


class _Handler(BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        path = self.owner.folder / self.path.lstrip("/")
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(path.stat().st_size if path.is_file() else 0))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        path = self.owner.folder / self.path.lstrip("/")
        if path.is_dir():
            links = "".join(f'<a href="{item.name}">{item.name}</a>' for item in sorted(path.iterdir()))
            return self._answer(200, links.encode(), {"Content-Type": "text/html"})
        content = path.read_bytes() if path.is_file() else b""
        start, stop, status = 0, len(content), 200
        if self.owner.ranges and (header := self.headers.get("Range")):
            first, last = header.removeprefix("bytes=").split("-")
            start, status = int(first), 206
            stop = min(len(content), int(last) + 1) if last else len(content)
        fault = self.owner.decide(self.path, start, stop)
        if fault == "500":
            return self._answer(500, b"", {})
        if fault == "404" or not path.is_file():
            return self._answer(404, b"", {})
        if start >= len(content):
            return self._answer(416, b"", {})
        body = bytearray(content[start:stop])
        if fault == "stall":
            self.owner._ended.wait(30)
        if fault == "drop":
            self.close_connection = True
            return None
        if fault == "corrupt":
            body[::97] = bytes(byte ^ 0xFF for byte in body[::97])
        if fault == "truncate":  # less than was announced, as when a connection breaks
            self._answer(status, bytes(body), {}, cut=True)
            self.close_connection = True
            return None
        return self._answer(status, bytes(body), {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
