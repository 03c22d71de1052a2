"""A W&B server on the loopback interface, with what the `wandb` client needs to log, resume and sync runs.

It answers the client's GraphQL operations and file streams, and stores history lines at their offsets as a real server
does: lines uploaded twice are stored once, lines appended twice are stored twice.
"""

import contextlib
import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StoredRun:
    """A run as stored by the server.

    Attributes:
        attributes: last non-null variables of the client's upserts: project, displayName, groupName, tags, config.
        history: decoded history lines, by offset.
        summary: last summary.
        files: sizes of uploaded files in bytes, by name.
        exit_code: exit code that the end of the last stream reported.
    """

    attributes: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    exit_code: int | None = None

    def rows(self, name: str) -> list[tuple[int, Any]]:
        """Return (env_step, value) of each history line that has the named value, in order."""
        return [(line["env_step"], line[name]) for _, line in sorted(self.history.items()) if name in line]

    def config(self) -> dict[str, Any]:
        """The run's configuration, as plain values."""
        wrapped = json.loads(self.attributes["config"])
        return {key: entry["value"] for key, entry in wrapped.items() if key != "_wandb"}


class WandbServer:
    """A context manager that runs the server at `url` and stores `runs` by id."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.lock = threading.RLock()
        self._http: ThreadingHTTPServer | None = None

    def __enter__(self) -> "WandbServer":
        handler = type("Handler", (Exchange,), {"server_state": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    @property
    def url(self) -> str:
        """Address for WANDB_BASE_URL."""
        assert self._http is not None
        return f"http://127.0.0.1:{self._http.server_port}"

    def die(self) -> None:
        """Refuse new connections and stop answering on open ones."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http.RequestHandlerClass.dead = True

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the data for a GraphQL operation; empty for operations that are not needed."""
        name = str(given.get("name") or given.get("run") or "")
        project = {"id": "p", "name": given.get("project") or "uncategorized", "entity": {"id": "e", "name": "tester"}}
        if operation == "Viewer":
            return {"viewer": {"id": "v", "entity": "tester", "username": "tester", "flags": "{}",
                               "teams": {"edges": []}}}
        if operation == "UpsertBucket":
            run = self.runs.setdefault(name, StoredRun())
            inserted = not run.attributes
            run.attributes |= {key: value for key, value in given.items() if value is not None}
            bucket = {"id": f"bucket-{name}", "name": name, "displayName": run.attributes.get("displayName"),
                      "description": None, "config": run.attributes.get("config"), "sweepName": None,
                      "historyLineCount": len(run.history), "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        if operation == "RunResumeStatus":
            found = self.runs.get(name)
            if found is None or not found.attributes:
                return {"model": None}
            newest = found.history.get(len(found.history) - 1)
            bucket = {"id": f"bucket-{name}", "name": name, "displayName": found.attributes.get("displayName"),
                      "summaryMetrics": json.dumps(found.summary), "config": found.attributes.get("config") or "{}",
                      "historyLineCount": len(found.history), "eventsLineCount": 0, "logLineCount": 0,
                      "historyTail": json.dumps([json.dumps(newest)] if newest else []), "eventsTail": "[]",
                      "tags": found.attributes.get("tags") or [], "wandbConfig": '{"t": {}}'}
            return {"model": project | {"bucket": bucket}}
        if operation == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/upload/{name}/{file}"} for file in given["files"]]
            return {"createRunFiles": {"runID": f"bucket-{name}", "uploadHeaders": [], "files": files}}
        return {}

    def stream(self, name: str, payload: dict[str, Any]) -> None:
        """Store the content of a file stream's request."""
        run = self.runs.setdefault(name, StoredRun())
        for file, chunk in (payload.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                run.history |= {chunk["offset"] + place: json.loads(line)
                                for place, line in enumerate(chunk["content"])}
            elif file == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
        if payload.get("complete"):
            run.exit_code = payload.get("exitcode")


class Exchange(BaseHTTPRequestHandler):
    """A connection of the client."""

    protocol_version = "HTTP/1.1"
    server_state: WandbServer
    dead = False

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # tests kill clients
            super().handle()

    def log_message(self, format: str, *values: Any) -> None:
        """Do not log requests."""

    def do_POST(self) -> None:
        body, state = self._body(), self.server_state
        streamed = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        with state.lock:
            if streamed:
                state.stream(streamed[1], json.loads(body))
                answer: dict[str, Any] = {"exitcode": None, "limits": {}}
            elif self.path == "/graphql":
                asked = json.loads(body)
                named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                operation = asked.get("operationName") or (named[1] if named else "")
                answer = {"data": state.answer(operation, asked.get("variables") or {})}
            else:
                answer = {}
        self._reply(answer)

    def do_PUT(self) -> None:
        body = self._body()
        _, _, name, file = self.path.split("/", 3)
        with self.server_state.lock:
            self.server_state.runs.setdefault(name, StoredRun()).files[file] = len(body)
        self._reply({})

    def do_GET(self) -> None:
        self._reply({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, answer: dict[str, Any]) -> None:
        if self.dead:
            self.close_connection = True
            return
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
