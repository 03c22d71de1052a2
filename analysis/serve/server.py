"""A small read-only web server for the live report.

To leave little to attack, it answers only GET requests, for addresses that it generated itself below a random token,
and serves only certain text files of the runs shown; no file path is taken from an address. It rejects requests whose
Host header is not its own name, which stops DNS rebinding, and its answers cannot be framed, embedded or read by pages
of other origins. It listens on loopback unless told otherwise, and never writes.
"""

import contextlib
import ipaddress
import os
import platform
import secrets
import socket
import socketserver
import stat
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from algd.errors import UsageError
from algd.storage.run_folder import refuse_links
from analysis.report.page import policy
from analysis.serve.watch import Watch

SHOWN = ("config.yaml", "meta.json", "status.json", "evals.csv", "episodes.csv", "metrics.csv", "log.txt")
REQUESTS = 32  # simultaneous requests; more are refused
PIECE = 65536  # bytes of a file to read at a time
SECONDS = 20  # timeout for a silent client
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SAFE = {
    "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
}
PLAIN = "default-src 'none'; frame-ancestors 'none'; sandbox"
SAID = {400: "not a request", 404: "not found", 405: "only GET", 421: "not this server's name", 500: "it failed"}


class Server(ThreadingHTTPServer):
    """HTTP server of the report that a `Watch` makes.

    Args:
        watch: makes the report.
        host: the address to listen on.
        port: the port; 0: any free one.

    Attributes:
        address: URL of the page, with the token.

    Raises:
        UsageError: the server cannot listen there.
    """

    daemon_threads = True
    request_queue_size = REQUESTS

    def __init__(self, watch: Watch, host: str = "127.0.0.1", port: int = 0):
        self.watch, self.host, self.token = watch, host, secrets.token_urlsafe(24)
        self._free = threading.BoundedSemaphore(REQUESTS)
        try:
            self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(f"--host {host} --port {port}: it is not possible to listen there "
                             f"({getattr(error, 'strerror', None) or error})") from error
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self.server_address[1]}/{self.token}/"

    def run(self) -> None:
        """Print the address and serve until the process is interrupted."""
        print(self.address, flush=True)
        print("Ctrl-C ends it. From elsewhere: ssh -L "
              f"{self.server_port}:127.0.0.1:{self.server_port} {platform.node()}, then the same address.",
              file=sys.stderr)
        if self.host not in LOOPBACK:
            print(f"warning: anyone who can reach {self.host} and has the address can read these runs, and nothing is "
                  "encrypted", file=sys.stderr)
        with self, contextlib.suppress(KeyboardInterrupt):
            self.serve_forever()

    def server_bind(self) -> None:
        """Bind without looking up the host's full name, which is slow if no name server answers."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, int(self.server_address[1])

    def is_mine(self, host: str) -> bool:
        """Return whether a Host header names this server.

        A foreign page can make its own host name resolve to this machine (DNS rebinding), but not an IP address. So a
        server on all interfaces accepts IP addresses and this machine's name, and one on loopback only loopback names.
        """
        name = host.strip().lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name in (*LOOPBACK, self.host.lower()):
            return True
        if self.host not in ("0.0.0.0", "::"):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == platform.node().lower()
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a new thread, or close the connection if `REQUESTS` are being answered."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer as the base class does, then free the slot that `process_request` took."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error, unless the client closed the connection."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers one GET request."""

    server: Server
    timeout = SECONDS

    def do_GET(self) -> None:
        """Answer with the page, its data, the list of a run's files, or one of these files."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not self.server.is_mine(hosts[0]):
            return self.send_error(421)
        place = self.path.split("/")
        if len(place) < 3 or place[0] or not secrets.compare_digest(place[1].encode(), self.server.token.encode()):
            return self.send_error(404)
        match place[2:]:
            case [""]:
                self._answer(self.server.watch.page(), "text/html; charset=utf-8",
                             policy(live=True) + "; frame-ancestors 'none'")
            case ["data"]:
                content, tag = self.server.watch.data()
                if self.headers.get("If-None-Match") == tag:
                    self._answer(b"", "application/json", PLAIN, 304, {"ETag": tag})
                else:
                    self._answer(content, "application/json", PLAIN, more={"ETag": tag})
            case ["runs", identifier, name] if (folder := self.server.watch.folder(identifier)) is not None:
                self._list(folder) if name == "" else self._show(folder, name)
            case _:
                self.send_error(404)

    def _list(self, folder: Path) -> None:
        """Answer with a page of links to a run's files."""
        names = [name for name in SHOWN if (folder / name).is_file()]
        links = "".join(f'<li><a href="{name}">{name}</a></li>' for name in names)
        page = f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>files</title><ul>{links}</ul>'
        self._answer(page.encode(), "text/html; charset=utf-8", PLAIN)

    def _show(self, folder: Path, name: str) -> None:
        """Answer with a run's file as plain text, up to its size when opened."""
        if name not in SHOWN:
            return self.send_error(404)
        try:
            refuse_links(folder)
            # Refuse symbolic links, and do not block on a FIFO that has replaced the file.
            file = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (OSError, UsageError):
            return self.send_error(404)
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            os.close(file)
            return self.send_error(404)
        with open(file, "rb") as content:
            self._head(200, about.st_size, "text/plain; charset=utf-8", PLAIN)
            remaining = about.st_size
            while remaining and (piece := content.read(min(remaining, PIECE))):
                self.wfile.write(piece)
                remaining -= len(piece)

    def _answer(self, content: bytes, kind: str, content_policy: str, code: int = 200,
                more: dict[str, str] | None = None) -> None:
        self._head(code, len(content), kind, content_policy, more)
        self.wfile.write(content)

    def _head(self, code: int, length: int, kind: str, content_policy: str,
              more: dict[str, str] | None = None) -> None:
        self.send_response_only(code)
        headers = SAFE | {"Content-Type": kind, "Content-Length": str(length),
                          "Content-Security-Policy": content_policy, "Connection": "close"} | (more or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with a short text that contains nothing of the request."""
        code = 405 if code == 501 else code  # the base class's code for an unknown method
        self.close_connection = True
        self._answer(f"{SAID.get(code, 'refused')}\n".encode(), "text/plain; charset=utf-8", PLAIN, code,
                     {"Allow": "GET"} if code == 405 else None)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing, since the request line contains the token."""
