"""The viewer serves a report to this machine, and nothing else to anybody."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from steer_bench.results.pages.viewer import Viewer


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "run"
    (run / "figures").mkdir(parents=True)
    (run / "leaderboard.html").write_text("<p>the page</p>")
    (run / "leaderboard.md").write_text("# <script>")
    (run / "figures" / "frontier.svg").write_text("<svg/>")
    (run / "records.sqlite").write_text("private")
    (run / "experiment.yaml").write_text("private")
    (run / "figures" / "notes.txt").write_text("private")
    (tmp_path / "secret.svg").write_text("private")
    os.symlink(tmp_path / "secret.svg", run / "figures" / "out.svg")
    return run


@pytest.fixture
def viewer(folder):
    with Viewer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(viewer: Viewer, path: str, host: str | None = None, method: str = "GET") -> http.client.HTTPResponse:
    """The path as it stands, unlike clients that tidy it."""
    connection = http.client.HTTPConnection("127.0.0.1", viewer.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host if host is not None else f"127.0.0.1:{viewer.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    answer.body = answer.read()
    connection.close()
    return answer


def test_it_serves_the_pages_and_the_figures(viewer):
    page = ask(viewer, "/")
    assert (page.status, page.body) == (200, b"<p>the page</p>")
    assert page.getheader("Content-Type") == "text/html; charset=utf-8"
    assert ask(viewer, "/leaderboard.html?x#y").body == page.body
    assert ask(viewer, "/leaderboard.md").getheader("Content-Type") == "text/plain; charset=utf-8"
    figure = ask(viewer, "/figures/frontier.svg")
    assert figure.getheader("Content-Type") == "image/svg+xml"
    assert "sandbox" in figure.getheader("Content-Security-Policy")
    assert ask(viewer, "/", method="HEAD").body == b""


@pytest.mark.parametrize(
    "path",
    [
        *("/records.sqlite", "/experiment.yaml", "/figures/", "/figures", "/figures/notes.txt", "/figures/out.svg"),
        *("/../secret.svg", "/figures/../../secret.svg", "/figures/%2e%2e/%2e%2e/secret.svg", "/%2e%2e%2fsecret.svg"),
        *(
            "//etc/passwd",
            "/etc/passwd",
            "/../../etc/passwd",
            "/leaderboard.html/..",
            "/leaderboard.html%00",
            "/nothing",
        ),
    ],
)
def test_nothing_else_of_the_folder_or_outside_it_is_served(viewer, path):
    answer = ask(viewer, path)
    assert answer.status == 404
    assert b"private" not in answer.body
    assert b"root:" not in answer.body


@pytest.mark.parametrize(
    "host", ["example.com", "example.com:{port}", "127.0.0.1", "127.0.0.1:1", "", "127.0.0.1.example.com:{port}"]
)
def test_a_request_in_another_name_is_refused(viewer, host):
    answer = ask(viewer, "/", host.format(port=viewer.server_port))
    assert answer.status == 403
    assert b"the page" not in answer.body


def test_it_takes_no_other_method_and_listens_on_this_machine_only(viewer):
    assert ask(viewer, "/", method="POST").status == 501
    assert viewer.server_address[0] == "127.0.0.1"
    assert ask(viewer, "/", f"localhost:{viewer.server_port}").status == 200


def test_a_folder_without_a_page_or_a_taken_port_is_an_error_that_says_what_to_do(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no leaderboard\.html there; make it with steer-bench report"):
        Viewer(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match=r"can not be had on 127\.0\.0\.1"):
            Viewer(folder, taken.getsockname()[1])


def test_the_command_serves_until_ctrl_c(folder):
    words = [sys.executable, "-m", "steer_bench", "view", str(folder), "--no-browser"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        url = process.stdout.readline().split()[0]
        port = int(url.rstrip("/").rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"<p>the page</p>"
        connection.close()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "stopped\n", "")


def test_the_browser_is_opened_unless_told_not_to(folder, monkeypatch):
    from typer.testing import CliRunner

    from steer_bench.cli import app

    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Viewer, "serve_forever", stop)
    assert CliRunner().invoke(app, ["view", str(folder)]).exit_code == 0
    assert CliRunner().invoke(app, ["view", str(folder), "--no-browser"]).exit_code == 0
    assert len(opened) == 1
    assert opened[0].startswith("http://127.0.0.1:")
