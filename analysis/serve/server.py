"""A small web server that shows a page about runs, and does nothing else.

What it grants is little, so that there is little to attack: GET alone; addresses that it made itself, below a random
token; certain text files of the runs that it shows, and no path out of an address; requests whose Host is this
server's own, so that no foreign page reaches it by a name that resolves to it; answers that no page of another origin
may frame, embed or read. It listens on loopback unless told otherwise, and never writes.
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
REQUESTS = 32  # at a time; more are turned away
PIECE = 65536  # bytes of a file that are in memory at a time
SECONDS = 20  # that a client may keep silent
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SAFE = {
    "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
}
PLAIN = "default-src 'none'; frame-ancestors 'none'; sandbox"
SAID = {400: "not a request", 404: "not found", 405: "only GET", 421: "not this server's name", 500: "it failed"}


class Server(ThreadingHTTPServer):
    """Shows what a watch sees.

    Args:
        watch: over the runs.
        host: to listen on.
        port: 0: any that is free.

    Attributes:
        address: of the page, with the token.

    Raises:
        UsageError: it is not possible to listen there.
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
        """Print the address and answer until the process is interrupted."""
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
        """Bind without asking for the host's full name, which takes long where no name server answers."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, int(self.server_address[1])

    def is_mine(self, host: str) -> bool:
        """Whether a Host header names this server.

        A foreign page can make a name of its own resolve to this machine; it cannot do that with a number. So a server
        that listens everywhere accepts numbers and this machine's name, and one on loopback only loopback's.
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
        """Answer in a thread of its own, unless too many are being answered."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As the base class, and free the place that `process_request` took."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless it is a client that went away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    timeout = SECONDS

    def do_GET(self) -> None:
        """Answer with the page, its data, the list of a run's files, or one of them."""
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
        """The names of a run's files that are shown, as a page of links."""
        names = [name for name in SHOWN if (folder / name).is_file()]
        links = "".join(f'<li><a href="{name}">{name}</a></li>' for name in names)
        page = f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>files</title><ul>{links}</ul>'
        self._answer(page.encode(), "text/html; charset=utf-8", PLAIN)

    def _show(self, folder: Path, name: str) -> None:
        """A file of a run as plain text, as long as it is when it is opened."""
        if name not in SHOWN:
            return self.send_error(404)
        try:
            refuse_links(folder)
            # Not a link, and nothing that would block, whatever has been put there since.
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
        """A few words that repeat nothing of the request."""
        code = 405 if code == 501 else code  # the base class's word for a method that it has no function for
        self.close_connection = True
        self._answer(f"{SAID.get(code, 'refused')}\n".encode(), "text/plain; charset=utf-8", PLAIN, code,
                     {"Allow": "GET"} if code == 405 else None)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a request's line holds the token."""
