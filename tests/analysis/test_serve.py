"""The live report: it follows running runs, writes nothing, and resists attacks."""

import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.by import By

from analysis.__main__ import main
from analysis.report.content import Options
from analysis.report.page import policy
from analysis.serve.server import Server
from analysis.serve.watch import Watch
from tests.support.browser import chromium, complaints, until
from tests.support.command import ROOT

FIXTURE = Path(__file__).parents[1] / "fixtures" / "runs"
TRAINING = Path("car_button1") / "vesde-augmented" / "seed=0-dddd0000"


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a watch read again at once, however long the last reading took."""
    monkeypatch.setattr("analysis.serve.watch.SHARE_OF_TIME", 1.0)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Copy the runs of one task, three of which are in training."""
    shutil.copytree(FIXTURE / "car_button1", tmp_path / "runs" / "car_button1")
    shutil.copytree(FIXTURE / "sweeps", tmp_path / "runs" / "sweeps")
    return tmp_path / "runs"


@pytest.fixture
def server(runs: Path) -> Iterator[Server]:
    """Serve the runs, with the folders read at every request."""
    with Server(Watch([str(runs)], runs, [], False, Options(), "runs", seconds=0.0)) as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.05,))
        thread.start()
        yield one
        one.shutdown()
        thread.join()


class Answer:
    """The response to a request."""

    def __init__(self, server: Server, path: str, method: str = "GET", **headers: str):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=120)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        self.code, self.headers, self.content = answer.status, answer.headers, answer.read()
        connection.close()


def root(server: Server) -> str:
    return urlsplit(server.address).path


def data(server: Server) -> dict:
    return json.loads(Answer(server, root(server) + "data").content)


def state_of(server: Server, run: Path) -> str:
    """Return a run's state in the table of runs."""
    table = data(server)["parts"]["runs"]
    (state,) = re.findall(rf">{re.escape(str(run))}</a></td><td class=\"state \w+\"[^>]*>(\w+)<", table)
    return state


def tree(top: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Return times and contents of everything below a folder."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.read_bytes() if path.is_file() else None)
            for path in [top, *top.rglob("*")]}


def evaluate(folder: Path, step: int, value: float) -> None:
    """Append a complete evaluation to a run's table, in place of an incomplete last row."""
    file = folder / "evals.csv"
    header, *rows = file.read_text().rpartition("\n")[0].splitlines()
    last = [row.split(",") for row in rows if row.startswith("200,deterministic,train,")]
    for row in last:
        row[0], row[header.split(",").index("return")] = str(step), str(value)
    file.write_text("\n".join([header, *rows, *map(",".join, last), ""]))
    status = folder / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"step": step}))


# --- content -------------------------------------------------------------------------------------------------------


def test_it_follows_the_runs_and_never_writes(server: Server, runs: Path) -> None:
    before = tree(runs)
    page, first = Answer(server, root(server)), Answer(server, root(server) + "data")
    assert page.code == first.code == 200 and b"plotly.js" in page.content
    assert tree(runs) == before
    shown = json.loads(first.content)
    for count, state in ((3, "running"), (20, "waiting"), (2, "finished")):
        assert f'{count} <span class="state {state}">' in shown["parts"]["overview"]
    drawn = {figure["key"].removeprefix("paper/car_button1/") for figure in shown["figures"]}
    assert drawn == {"return", "cost", "training_cost", "trade-off"}
    assert "Not compared, since it has no result: agent=" in shown["parts"]["comparisons"]
    # Without changes nothing is sent again.
    tag = first.headers["ETag"]
    assert (again := Answer(server, root(server) + "data", If_None_Match=tag)).code == 304 and again.content == b""
    evaluate(runs / TRAINING, 250, 77.0)
    after = Answer(server, root(server) + "data", If_None_Match=tag)
    assert after.code == 200 and "77.00" in json.loads(after.content)["parts"]["runs"]
    assert "250 of 300" in json.loads(after.content)["parts"]["runs"]


def test_a_run_that_cannot_be_read_is_named_and_the_others_go_on(server: Server, runs: Path) -> None:
    (runs / TRAINING / "config.yaml").write_text("env: {")
    shown = data(server)["parts"]
    assert state_of(server, TRAINING) == "unreadable" and "cannot be read as a run" in shown["trouble"]
    assert "2 <span class=\"state running\">" in shown["overview"] and "vesde, plain" in shown["tables"]


def test_a_killed_run_is_lost_and_a_started_one_runs(server: Server, runs: Path) -> None:
    with (runs / TRAINING / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert state_of(server, TRAINING) == "running"
    assert state_of(server, TRAINING) == "lost"
    assert "it was killed" in data(server)["parts"]["trouble"]


def test_runs_that_fit_no_table_leave_a_sentence(server: Server, runs: Path) -> None:
    shutil.copytree(runs / TRAINING, runs / "car_button1" / "again" / "seed=0-dddd0000")
    shown = data(server)["parts"]
    assert "are the same run" in shown["tables"] and "seed=0-dddd0000" in shown["runs"]


def test_an_empty_folder_is_waited_in(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    watch = Watch([str(runs)], runs, [], False, Options(), "runs", seconds=0.0)
    assert "0 runs" in json.loads(watch.data()[0])["parts"]["overview"]
    shutil.copytree(FIXTURE / TRAINING, runs / TRAINING)
    assert "1 runs: 1 <span" in json.loads(watch.data()[0])["parts"]["overview"]


@pytest.mark.needs("browser")
def test_the_page_refreshes_itself_and_keeps_what_was_set(runs: Path, tmp_path: Path) -> None:
    """In a browser new rows appear by themselves, and filter, zoom and hidden cells are kept."""
    with Server(Watch([str(runs)], runs, [], False, Options(), "runs", seconds=0.2)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with chromium(tmp_path / "profile") as driver:
                driver.get(server.address)
                figure = "document.querySelector('[data-figure=\"paper/car_button1/return\"]')"
                driver.execute_script(f"{figure}.scrollIntoView({{block: 'center'}})")
                until(driver, f"{figure}._fullLayout !== undefined")
                driver.execute_script(f"Plotly.relayout({figure}, {{'xaxis.range': [50, 150]}});"
                                      "document.querySelector('.family form input[name=column][value=\"1\"]').click()")
                words = driver.find_element(By.CSS_SELECTOR, "#runs input[type=search]")
                words.send_keys("car_button1/vesde-augmented")
                shutil.copytree(runs / TRAINING, runs / TRAINING.parent / "seed=7-dddd0007")
                evaluate(runs / TRAINING, 250, 77.0)
                config = runs / TRAINING.parent / "seed=7-dddd0007" / "config.yaml"
                config.write_text(config.read_text().replace("seed: 0", "seed: 7"))
                (config.parent / "meta.json").unlink()
                until(driver, "document.querySelector('#runs').textContent.includes('77.00')")
                assert words.get_attribute("value") == "car_button1/vesde-augmented"
                assert driver.find_element(By.CSS_SELECTOR, "#runs output").text == "4 of 26"
                # The figures are new, since there is one more seed to switch; they are drawn when scrolled into view.
                until(driver, f"({figure}.scrollIntoView({{block: 'center'}}),"
                              f" ({figure}.data ?? []).some((one) => one.meta.seed === 7))")
                assert driver.execute_script(f"return {figure}._fullLayout.xaxis.range") == [50, 150]
                assert driver.execute_script(
                    f"return {figure}._fullData.some((one) => one.visible === true && one.meta.column === 1)") is False
                assert complaints(driver) == []
                server.shutdown()
                server.server_close()
                until(driver, "document.querySelector('#live').textContent.includes('what is shown is old')")
        finally:
            server.shutdown()
            thread.join()


# --- attacks -------------------------------------------------------------------------------------------------------


def test_without_the_token_there_is_nothing(server: Server) -> None:
    wrong = "/" + "x" * len(server.token) + "/"
    for path in ("/", "/data", wrong, wrong + "data", root(server)[:-2] + "/", root(server)[:-1], "*", "/%C3%A9/",
                 server.address):
        assert Answer(server, path).code == 404, path
    assert len(server.token) >= 32
    assert Answer(server, root(server)).code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "X"])
def test_only_get(server: Server, method: str) -> None:
    answer = Answer(server, root(server), method)
    assert answer.code == 405 and answer.headers["Allow"] == "GET"
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_foreign_names_are_refused(server: Server) -> None:
    """Requests with another host name, as after DNS rebinding, are refused even with the secret address."""
    for host in ("attacker.example", f"attacker.example:{server.server_port}", "127.0.0.1.attacker.example", "",
                 "[::2]", "localhost.attacker.example", "10.0.0.1", "127.0.0.1@attacker.example"):
        assert Answer(server, root(server), Host=host).code == 421, host
    # A tunnel uses another port, but a loopback name.
    for host in ("127.0.0.1:9000", "localhost:9000", "LOCALHOST", "[::1]:9000"):
        assert Answer(server, root(server) + "data", Host=host).code == 200, host
    with socket.create_connection(("127.0.0.1", server.server_port)) as client:
        client.sendall(f"GET {root(server)} HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.0 421 ")


def test_no_other_page_may_frame_or_read_it(server: Server) -> None:
    for path in ("", "data", "nothing"):
        headers = Answer(server, root(server) + path).headers
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"] and "Server" not in headers
    assert policy(live=True) in Answer(server, root(server)).headers["Content-Security-Policy"]


def test_the_files_of_runs_and_nothing_else(server: Server, runs: Path, tmp_path: Path) -> None:
    links = set(re.findall(r'href="(runs/[0-9a-f]+/)"', data(server)["parts"]["runs"]))
    assert len(links) == 5
    config = (runs / TRAINING / "config.yaml").read_bytes()
    mine = next(place for place in (root(server) + link for link in links)
                if Answer(server, place + "config.yaml").content == config)
    listed = Answer(server, mine)
    assert set(re.findall(r'href="(.*?)"', listed.content.decode())) == {
        "config.yaml", "meta.json", "status.json", "evals.csv", "episodes.csv"}
    answer = Answer(server, mine + "config.yaml")
    assert answer.content == config
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "sandbox" in answer.headers["Content-Security-Policy"]

    secret = tmp_path / "secret"
    secret.write_text("secret")
    (runs / TRAINING / "other.txt").write_text("secret")
    for name in ("../../../../secret", "..%2f..%2fsecret", "%2e%2e/secret", "/etc/passwd", "other.txt", ".", "..",
                 "config.yaml/", "config.yaml%00", "config.yaml?x=1", "./config.yaml", "log.txt", "checkpoints",
                 "..\\secret", str(secret)):
        found = Answer(server, mine + name)
        assert found.code == 404 and b"secret" not in found.content, name
    # Replacements of a file after it was listed: a link out of the folder, a pipe, a folder.
    for place in (lambda file: file.symlink_to(secret), os.mkfifo, Path.mkdir):
        (runs / TRAINING / "log.txt").unlink(missing_ok=True)
        place(runs / TRAINING / "log.txt")
        found = Answer(server, mine + "log.txt")
        assert found.code == 404 and b"secret" not in found.content


def test_nonsense_does_not_stop_it(server: Server) -> None:
    nonsense = [b"", b"\r\n", b"\0" * 100, b"G" * 10, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost\r\n\r\n",
                b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", os.urandom(500) + b"\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"]
    for request in nonsense:
        with socket.create_connection(("127.0.0.1", server.server_port)) as client:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(1000)
            assert b"200" not in answer[:20] and b"<" not in answer
    # Idle connections block only a limited number of places, and only for a while.
    silent = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(20)]
    assert Answer(server, root(server)).code == 200
    for client in silent:
        client.close()


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command(runs: Path) -> None:
    """Standard output is the address alone, and SIGINT ends the command without a traceback."""
    process = subprocess.Popen([sys.executable, "-m", "analysis", "serve", str(runs)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
    connection.request("GET", urlsplit(address).path)
    assert connection.getresponse().status == 200
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and output == "" and "Ctrl-C ends it" in errors and "Traceback" not in errors
    assert urlsplit(address).path.strip("/") not in errors


def test_wrong_arguments_are_one_sentence(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, said in (([], "name runs"), (["nowhere"], "nowhere: there is no run"),
                                ([str(runs), "--port", port], f"--port {port}"),
                                ([str(runs), "--port", "70000"], "70000"),
                                ([str(runs), "--host", "no.such.name.invalid"], "--host no.such.name.invalid"),
                                ([str(runs), "--every", "0"], "--every")):
            assert main(["serve", *arguments]) == 2
            errors = capsys.readouterr().err
            assert said in errors and errors.startswith("error: ") and errors.count("\n") == 1
