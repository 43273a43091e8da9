"""What others wrote: YAML, JSON, names, paths, requests. Refused on one line with exit code 2, or read as it is; never a traceback."""

import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from synthetic_rows import make_results

from steer_bench import cli
from steer_bench.experiment.config import SplitConfig, TaskConfig
from steer_bench.files import parse_json, read_json
from steer_bench.judge.config import judge_config, read_judge
from steer_bench.judge.ratings import load_ratings
from steer_bench.results.board.board import build_board
from steer_bench.results.file import load_results, save_results
from steer_bench.results.pages import html
from steer_bench.results.pages.viewer import Viewer
from steer_bench.results.samples import Sample, Samples, load_document
from steer_bench.vectors.arms import Dose, GeometryLine
from steer_bench.vectors.tensor_file import load_card

LONG = "n" * 300


def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str]:
    """Exit code and error output of a command."""
    monkeypatch.setattr(sys, "argv", ["steer-bench", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr().err


# --- paths, names and numbers on the command line ---


@pytest.mark.parametrize(
    "words",
    [
        ("leaderboard", LONG), ("compare", LONG, LONG), ("view", LONG), ("run", LONG), ("plan", LONG), ("judge", LONG), ("inspect", LONG),
        ("run", "quickstart", "--out", LONG), ("run", "quickstart", "--out", "FILE"), ("run", "quickstart", "--out", "FILE/x"),
        ("judge", "quickstart", "--judge", f"{LONG}.yaml"), ("leaderboard", "RESULTS", "--out", "FILE"), ("leaderboard", "."),
        ("leaderboard", "RESULTS", "--out", LONG), ("leaderboard", "DEEP"), ("compare", "DEEP", "DEEP"), ("view", "FILE"),
        ("judge", "quickstart", "--max-unscored", "nan"), ("judge", "quickstart", "--max-unscored", "-1"),
        ("judge", "quickstart", "--max-unscored", "1e9"), ("run", "quickstart", "--max-unscored", "inf"),
        ("generate", "neutral", "--out", "x", "--temperature", "nan"),
    ],
)  # fmt: skip
def test_what_is_given_wrongly_ends_with_2_on_one_line(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    (tmp_path / "DEEP").write_text("[" * 100_000)
    save_results("RESULTS", make_results())
    code, said = ended(monkeypatch, capsys, *words)
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "WORLD_SIZE"])
@pytest.mark.parametrize("value", ["abc", "-1", "1.5", "²"])
def test_a_rank_that_is_no_number_ends_with_2(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    assert ended(monkeypatch, capsys, "models")[0] == 2


# --- true is no number ---


@pytest.mark.parametrize(
    ("make", "content"),
    [
        (judge_config, {"kind": "openai", "model": "m", "concurrency": True}),
        (judge_config, {"kind": "openai", "model": "m", "timeout": True}),
        (judge_config, {"kind": "openai", "model": "m", "price": {"input": True, "output": 1}}),
        (judge_config, {"kind": "local", "model": "m", "batch_size": True}),
        (SplitConfig.model_validate, {"fit": True, "test": 1}),
        (SplitConfig.model_validate, {"fit": 1, "test": 1, "seed": False}),
        (TaskConfig.model_validate, {"max_prompts": True}),
        (Dose.model_validate, {"arm": "a", "concept": "c", "level": True}),
        (GeometryLine.model_validate, dict.fromkeys(GeometryLine.model_fields, True)),
    ],
)
def test_true_is_no_number(make: Any, content: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"true and false are not numbers|valid (integer|number)"):
        make(content)


def test_what_may_be_true_stays_true() -> None:
    assert judge_config({"kind": "openai", "model": "m", "options": {"logprobs": True}}).options == {"logprobs": True}


# --- judges ---


def bomb(depth: int, width: int) -> str:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth))]
    return "\n".join(lines)


JUDGES = {
    "list": "kind: [openai]\nmodel: m",
    "number": "kind: openai\nmodel: 5",
    "key": "1: 2\nkind: openai\nmodel: m",
    "keys of options": "kind: openai\nmodel: m\noptions: {1: 2}",
    "options": "kind: openai\nmodel: m\noptions: [1]",
    "price": "kind: openai\nmodel: m\nprice: [1]",
    "negative price": "kind: openai\nmodel: m\nprice: {input: -1, output: .nan}",
    "endless": "kind: openai\nmodel: m\nmax_wait: .inf",
    "not a number": "kind: openai\nmodel: m\ntimeout: .nan",
    "port": "kind: openai\nmodel: m\nbase_url: http://h:99999/v1",
    "no port": "kind: openai\nmodel: m\nbase_url: http://h:x/v1",
    "host": f"kind: openai\nmodel: m\nbase_url: http://{LONG}/v1",
    "date": "kind: openai\nmodel: 2001-99-99",
    "tag": "kind: !!python/object/apply:os.system [ls]",
    "itself": "a: &a [*a]",
    "bomb": bomb(40, 2),
    "wide bomb": bomb(9, 10),
    "bomb in a judge": "kind: openai\nmodel: m\noptions:\n  " + bomb(12, 3).replace("\n", "\n  "),
    "merges": "m0: &m0 {a: 1}\n" + "\n".join(f"m{i}: &m{i}\n  <<: [*m{i - 1}, *m{i - 1}]" for i in range(1, 26)),
    "deep": "[" * 5000,
    "list in lists": "- " * 3000 + "x",
    "empty": "",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_file_that_cannot_be_is_refused_soon(name: str, tmp_path: Path) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text(JUDGES[name])
    with pytest.raises(ValueError, match="judge"):
        read_judge(str(file))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "spec",
    [
        "openai:m,options=&a [*a]", "openai:m,timeout=1,timeout=2", "openai:m,kind=local", "openai:m,options=[", f"{LONG}.yaml",
        "openai:m,options=" + "[" * 5000, "openai:m,seed=2001-99-99", "", " ", "\0.yaml", "openai", "openai:m,seed={a: 1, a: 2}",
    ],
)  # fmt: skip
def test_a_judge_on_the_command_line_that_cannot_be_is_refused_soon(spec: str) -> None:
    with pytest.raises(ValueError, match="judge"):
        read_judge(spec)


# --- JSON ---

FOREIGN = {
    "deep": "[" * 100_000,
    "deep and closed": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "digits": '{"schema": ' + "9" * 10_000 + "}",
    "NaN": '{"schema": NaN}',
    "twice": '{"schema": 1, "schema": 2}',
    "binary": "\x00\x01\x02",
    "half": '{"schema": "steer-bench-resu',
    "empty": "",
    "list": "[1, 2]",
    "null": "null",
    "text": '"steer-bench-results"',
}


@pytest.mark.parametrize("read", [load_results, load_document, load_ratings, load_card])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_other_json_is_refused_by_its_name(name: str, read: Any, tmp_path: Path) -> None:
    file = tmp_path / "foreign.json"
    content = FOREIGN[name].encode()
    if read is load_card:
        header = json.dumps({"__metadata__": {"steer_bench": FOREIGN[name]}}).encode()
        content = len(header).to_bytes(8, "little") + header
    file.write_bytes(content + b"\n")
    with pytest.raises(ValueError, match=r"foreign\.json"):
        read(file)


def test_a_json_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    with file.open("wb") as stream:
        stream.truncate(5 << 30)  # of holes
    with pytest.raises(ValueError, match=r"large\.json .*more than"):
        read_json(file)


def test_a_number_of_hundreds_of_digits_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    save_results(file, make_results())
    document = parse_json(file.read_text())
    document["rows"]["value"][0] = 10**400
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"r\.json"):
        load_results(file)


@pytest.mark.parametrize("change", ["value", "concept", "seed", "digest", "no digest"])
def test_results_that_were_changed_by_hand_are_refused(change: str, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    results = make_results()
    save_results(file, results)
    assert load_results(file).rows == load_results(file).rows
    document = parse_json(file.read_text())
    if change == "value":
        place = next(i for i, value in enumerate(document["rows"]["value"]) if value)
        document["rows"]["value"][place] *= 0.999
    elif change == "concept":
        document["rows"]["item"][0] += "x"
    elif change == "seed":
        document["run"]["seeds"]["bootstrap"] += 1
    elif change == "digest":
        document["sha256"] = "0" * 64
    else:
        del document["sha256"]
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"r\.json: .*SHA-256 differs.*report the run again"):
        load_results(file)


# --- pages ---


def test_no_control_character_of_a_reply_or_name_is_in_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    signs = "\x1b]0;title\x07\x1b[31m\x9b31m\x7f\x00\x08\x0c"
    keys = dict.fromkeys(("source", "arm", "concept", "item", "role"), f"a{signs}")
    sample = Sample(
        "concept_steering", signs, factor=0.1, prompt=signs, reply=signs, value=None, words={signs: signs}, **keys
    )
    board = build_board([make_results()])
    monkeypatch.setattr(html, "TITLE", f"t{signs}")
    page = html.to_html(board, {f"caption{signs}": b"<svg/>"}, [Samples(signs, signs, (sample,), {}, 1)])
    assert not {sign for sign in page if ord(sign) < 32 or 127 <= ord(sign) < 160} - {"\n", "\t"}
    data = page[page.index('{"entries"') :]
    assert json.loads(data[: data.index("</script>")])["runs"][0]["reply"] == [signs]


@pytest.fixture
def viewer(tmp_path: Path) -> Any:
    (tmp_path / "leaderboard.html").write_text("the page")
    (tmp_path / "records.sqlite").write_text("secret")
    (tmp_path / "figures").mkdir()
    with Viewer(tmp_path) as viewer:
        thread = threading.Thread(target=viewer.serve_forever, daemon=True)
        thread.start()
        yield viewer
        viewer.shutdown()


def asked(viewer: Viewer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", viewer.server_port), timeout=5) as connection:
        connection.sendall(request.replace(b"HOST", f"\r\nHost: 127.0.0.1:{viewer.server_port}\r\n\r\n".encode()))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1HOST", b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03\r\n\r\n", bytes(range(256)) * 20 + b"\r\n\r\n",
        b"GET //[ HTTP/1.1HOST", b"GET http://[::1 HTTP/1.1HOST", b"GET / HTTP/9.9HOST", b"GET /%00 HTTP/1.1HOST",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n", b"GET / HTTP/1.1\r\nHost: " + b"x" * 70_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1HOST", b"GET", b"\r\n\r\n", b"GET /\xff\xfe HTTP/1.1HOST", b"GET /\r\n\r\n",
    ],
)  # fmt: skip
def test_the_viewer_answers_any_request_without_a_traceback(
    viewer: Viewer, request_bytes: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert b"the page" not in asked(viewer, request_bytes)
    assert b"the page" in asked(viewer, b"GET / HTTP/1.1HOST")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("leaderboard.md", "records.sqlite"), ("figures/a.svg", "../records.sqlite"), ("figures/b.png", "/etc/hostname"),
        ("leaderboard.csv", "leaderboard.html"), ("figures/c.svg", "figures"),
    ],
)  # fmt: skip
def test_the_viewer_follows_no_link(viewer: Viewer, name: str, target: str) -> None:
    (viewer.folder / name).symlink_to(target)
    assert asked(viewer, f"GET /{name} HTTP/1.1HOST".encode()).startswith(b"HTTP/1.0 404")


def test_a_page_that_is_a_link_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "leaderboard.html").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match=r"no leaderboard\.html"):
        Viewer(tmp_path)
