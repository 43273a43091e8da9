"""Thousands of inputs that others could have made, from a seed: refused by a ValueError, or read as what they say.

Run: python -m pytest -s -m slow tests/faults/test_fuzz.py   (prints a tally; STEER_BENCH_FUZZ inputs of each kind, by default 1,000)
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fakes.judge_server import JudgeServer, completion
from pytest_httpserver import HTTPServer
from synthetic_rows import make_results
from werkzeug import Request, Response

from steer_bench import shipped
from steer_bench.experiment.reading import load_experiment
from steer_bench.judge.config import OpenAIConfig
from steer_bench.judge.judgement import Case, Question
from steer_bench.judge.openai_judge import OpenAIJudge
from steer_bench.results.file import load_results, save_results
from steer_bench.vectors.convert import FORMATS, read_vectors, write_vectors
from steer_bench.vectors.formats.vector_file import VectorFile

pytestmark = pytest.mark.slow
N = int(os.environ.get("STEER_BENCH_FUZZ", "1000"))
SOON = 10.0
"""Seconds after which an input is said to hang."""
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 1.5, 10**30, 10**400, float("nan"), float("inf"), -0.0, 1e308, "", "1", "true", "native",
    "a/../b", "\x1b[31m", "é" * 300, "[" * 3000, "\ud800", [], [[]], [True], {}, {"a": True}, {"kind": "openai"},
)  # fmt: skip


def bytes_changed(whole: bytes, dice: random.Random) -> bytes:
    """The bytes with one to three stretches replaced, doubled or cut off."""
    for _ in range(dice.randint(1, 3)):
        a = dice.randrange(len(whole) + 1)
        b = min(len(whole), a + dice.choice((0, 1, 1, 2, 9, 200)))
        middle = dice.choice(
            (b"", dice.randbytes(dice.randint(1, 9)), whole[a:b] * 2, b"[" * 5000, b"9" * 5000, b"&a [*a]")
        )
        whole = whole[:a] if dice.random() < 0.1 else whole[:a] + middle + whole[b:]
    return whole


def places(value: object, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested lists and mappings."""
    if at:
        yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


def value_changed(value: Any, dice: random.Random) -> tuple[Any, tuple[Any, ...], object]:
    """A copy with one entry replaced, and which by what; or with a key more or less."""
    value = json.loads(json.dumps(value))
    at = dice.choice(list(places(value)))
    inside, odd = value, dice.choice(ODD)
    for key in at[:-1]:
        inside = inside[key]
    if dice.random() < 0.1 and isinstance(inside, dict):
        del inside[at[-1]]
        return value, (), None
    if dice.random() < 0.1 and isinstance(inside, dict):
        inside[f"{at[-1]}x"] = odd
        return value, (), None
    inside[at[-1]] = odd
    return value, at, odd


class Tally:
    """What became of the inputs of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind, self.count, self.bad = kind, Counter[str](), list[str]()

    def one(self, name: str, read: Callable[[], Any], is_right: Callable[[Any], bool]) -> None:
        """Try one input: a ValueError refuses it, anything else that is raised is a fault."""
        start = time.monotonic()
        try:
            found = read()
            became = "read" if is_right(found) else "wrong"
        except ValueError as error:
            became = "refused" if str(error) else "nothing said"
        except Exception as error:
            became = "traceback"
            name = f"{name}: {error!r}"
        if time.monotonic() - start > SOON:
            became = "hang"
        self.count[became] += 1
        if became not in ("read", "refused"):
            self.bad.append(f"{became}: {name[:300]}")

    def end(self) -> None:
        """Print the tally; fail where anything was not as it should be."""
        print(
            f"\n{self.kind}: {self.count.total():,} inputs, "
            + ", ".join(f"{n:,} {what}" for what, n in self.count.most_common())
        )
        assert self.bad == []
        assert self.count.total() >= N


def same(given: object, made: object) -> bool:
    """Whether a scalar was taken for what it is: true for no number, no number for another."""
    if isinstance(given, bool) or isinstance(made, bool):
        return type(given) is type(made) and given == made
    if isinstance(given, int | float) and isinstance(made, int | float):
        as_number = float(given) if abs(given) < 1e300 else given  # 10**30 is no float to the last digit
        return made in (given, as_number) or (given != given and made != made)
    return True


def test_experiments(tmp_path: Path) -> None:
    dice, tally, file = random.Random(1), Tally("configurations"), tmp_path / "e.yaml"
    text = (shipped("experiments") / "quickstart.yaml").read_bytes()
    whole = yaml.safe_load(text)
    for number in range(N):
        at, odd = (), None
        if number % 2:
            content, at, odd = value_changed(whole, dice)
            file.write_bytes(yaml.safe_dump(content, allow_unicode=False).encode("utf-8", "surrogatepass"))
        else:
            file.write_bytes(bytes_changed(text, dice))

        def is_right(found: Any, at: tuple[Any, ...] = at, odd: object = odd) -> bool:
            made: Any = found.model_dump()
            for key in at:
                try:
                    made = made[key]
                except (KeyError, IndexError, TypeError):
                    return True
            return not at or same(odd, made)

        tally.one(f"input {number} {at} {odd!r}", lambda: load_experiment(file), is_right)
    tally.end()


def test_vector_files(tmp_path: Path) -> None:
    dice, tally = random.Random(2), Tally("vector files")
    vectors = VectorFile(
        "tiny", 1, ("sea",), np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32), {"scale": 4.0}
    )
    for number in range(N):
        format = list(FORMATS)[number % len(FORMATS)]
        folder = tmp_path / str(number)
        folder.mkdir()
        kind = FORMATS[format]
        file = write_vectors(folder / f"v{kind.suffixes[0]}", format, vectors)
        steering = read_vectors(file, format, allow_pickle=True).matrix
        chosen = dice.choice(sorted(folder.iterdir()))
        chosen.write_bytes(bytes_changed(chosen.read_bytes(), dice))
        # a file of others without our checksum says what it says
        sealed = chosen == file and format not in ("lm-eval", "gguf")
        tally.one(
            f"input {number} {format} {chosen.name}",
            lambda file=file, format=format: read_vectors(
                file, dice.choice((format, None)), allow_pickle=True, numbered=True
            ),
            lambda found, sealed=sealed, steering=steering: bool(
                np.isfinite(found.matrix).all() and (not sealed or np.array_equal(found.matrix, steering))
            ),
        )
    tally.end()


def test_results(tmp_path: Path) -> None:
    dice, tally, file = random.Random(3), Tally("results"), tmp_path / "r.json"
    results = make_results()
    results = type(results)(results.run, [row for row in results.rows if row.concept in ("c00", "c01", "")])
    save_results(file, results)
    text, saved = file.read_bytes(), load_results(file)
    whole = json.loads(text)
    for number in range(N):
        if number % 2:
            part = dice.choice(("run", "run", "rows", "schema", "version", "sha256"))
            content = {**whole, part: value_changed({part: whole[part]}, dice)[0].get(part)}
            file.write_bytes(json.dumps(content).encode())
        else:
            file.write_bytes(bytes_changed(text, dice))
        tally.one(
            f"input {number}",
            lambda: load_results(file),
            lambda found: found.rows == saved.rows and found.run == saved.run,
        )
    tally.end()


FORMS: tuple[tuple[str, bool], ...] = (
    ("Rating: [[{}]]", True), ("**Rating:** [[{}]]", True), ("Rating: {}/2", True), ("Rating: {} out of 2.", True), ("[[{}]]", True),
    ('{{"rating": {}}}', True), ('```json\n{{"explanation": "So.", "rating": "{}"}}\n```', True), ("Rating:\n{}\n", True),
    ("Rating: [[{}]]</s>", True), ("Rating: [[{}]]/5", False), ("Rating: **{}** out of 10", False), ("Rating: {} stars", False),
    ("Rating: [[{}]] because of it", False), ("Rating: {}%", False), ('{{"rating": {}, "scale": 10}}', False), ("I say {}", False),
    ("<think>Rating: [[{}]]</think>", False), ("<think>Rating: [[{}]]", False), ("Rating: [[{}]]\nOr not.", False),
    ("Rating: [[{}]]\nRating: [[0.25]]", False), ("Rating: {}e1", False),
)  # fmt: skip
BEFORE = (
    "",
    "It is so.\n",
    "<think>Rating: [[0.5]]? No.</think>\n",
    "Hm.</think>",
    "- one\n- two\n\n",
    "The sea [1] (see below) {x}:\n",
)


def said(dice: random.Random) -> tuple[Any, float | None]:
    """A content that a judge could give, and the rating it holds, if any."""
    value = dice.choice(("0", "1", "2", "0.5", "1.5", "2.0", "3", "-1", "1.3", "10"))
    form, counts = dice.choice(FORMS)
    before = dice.choice(BEFORE)
    text = before + form.format(value)
    rating = float(value) if counts and value not in ("3", "-1", "1.3", "10") else None
    shape = dice.random()
    if shape < 0.1:
        return [{"type": "thinking", "thinking": "Rating: [[2]]"}, {"type": "text", "text": text}], rating
    if shape < 0.15:
        return [{"type": "thinking", "thinking": text}], None
    return text, rating


def test_judge_answers() -> None:
    dice, tally = random.Random(4), Tally("judge answers")
    answers: dict[int, tuple[bytes, int, float | None]] = {}
    for number in range(N):
        content, rating = said(dice)
        body, code, known = completion(content), 200, rating
        if number % 4 == 1:  # anything at all in the place of one of its parts
            body, at, odd = value_changed(body, dice)
            if at[:1] == ("choices",) or not at:
                known = float("nan")  # whatever it is now
                if at == ("choices", 0, "finish_reason") and odd != "length":
                    known = rating
        raw = json.dumps(body).encode()
        if number % 4 == 2:
            raw, known = bytes_changed(raw, dice), float("nan")
        if number % 4 == 3 and dice.random() < 0.3:
            code, known = dice.choice((400, 403, 404, 413, 422)), None
        answers[number] = raw, code, known

    def act(request: Request, body: dict[str, Any]) -> Response:
        found = body["messages"][-1]["content"].rpartition("reply number ")[2].split("\n")[0]
        raw, code, _ = (
            answers[int(found)] if found.isdecimal() else (json.dumps(completion("Rating: [[2]]")).encode(), 200, 2.0)
        )
        return Response(raw, status=code, content_type="application/json")

    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        fake = JudgeServer(server, default=act)
        config = OpenAIConfig(
            model="fake", base_url=fake.base_url, timeout=SOON, max_wait=SOON, max_ignored=1.0, concurrency=8
        )
        judge = OpenAIJudge(config, backoff=0.01, progress=False)
        for first in range(0, N, 50):
            numbers = range(first, min(N, first + 50))
            questions = [
                Question(Case("sea", "the sea", "p", f"reply number {number}"), "fluency") for number in numbers
            ]
            start = time.monotonic()
            found = judge.answer(questions, lambda question, judgement: None)
            late = time.monotonic() - start > SOON + 5
            for number, one in zip(numbers, found, strict=True):
                known, rating = answers[number][2], one.ratings.get("fluency")
                if known is not None and known != known:
                    right = rating is None or rating in (0, 0.5, 1, 1.5, 2)
                else:
                    right = rating == known and bool(one.reason) == (known is None)
                became = "hang" if late else "wrong" if not right else "read" if rating is not None else "refused"
                tally.count[became] += 1
                if became in ("hang", "wrong"):
                    tally.bad.append(f"{became}: {number} {answers[number]} -> {one}")
    tally.end()
