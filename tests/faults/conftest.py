"""One run folder on tiny models, prepared once (vectors and arms) and copied for each fault; a judge that answers alike each time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.judge_server import JudgeServer, ok
from fault_child import CANARY, Child, Plan, start
from pytest_httpserver import HTTPServer
from small_run import small_experiment, small_models
from tiny import tiny_llama

from steer_bench.experiment import run as runs
from steer_bench.experiment.stages import dose, extract, fit
from steer_bench.judge.prompts import PROBE


@pytest.fixture(scope="session")
def judge() -> Iterator[JudgeServer]:
    """Rates by a hash of the question: the same answer whenever it is asked."""

    def rate(request: Any, body: dict[str, Any]) -> Any:
        text = body["messages"][-1]["content"]
        return ok(f"Rating: [[{hashlib.sha256(text.encode()).digest()[0] % 3}]]")(request, body)

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield JudgeServer(server, default=rate)


@pytest.fixture(scope="session")
def prepared(judge: JudgeServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder before `evaluate`: two tiny Llamas, one target, every kind of task."""
    os.environ["STEER_JUDGE_API_KEY"] = CANARY
    os.environ["NO_PROXY"] = "127.0.0.1"
    folder = tmp_path_factory.mktemp("prepared")
    names = small_models(folder, {"source": (tiny_llama, 32, False), "target": (tiny_llama, 48, False)})
    path = small_experiment(
        folder,
        names,
        name="faults",
        pairs=[names],
        concepts={"source": "concepts.jsonl", "limit": 6, "held_out": 4},
        rule_texts=8,
        adapters=["native", "identity", "linear", "random"],
        tasks={
            "concept_likelihood": {"max_texts": 2, "max_neutral": 3, "max_words": 8},
            "steered_perplexity": {"max_neutral": 2, "max_words": 8},
            "concept_steering": {"max_concepts": 1, "max_prompts": 1, "max_new_tokens": 4},
            "rule_following": {"max_prompts": 1, "max_new_tokens": 4},
        },
        judge={"kind": "openai", "base_url": judge.base_url, "model": "fake", "concurrency": 1},
        batch_size=8,
    )
    run = runs.open_run(str(path), folder / "run")
    extract.extract(run)
    fit.fit(run)
    dose.dose(run)
    for file in run.folder.path.glob("records.sqlite*"):  # every trial begins to record
        file.unlink()
    return run.folder.path


class Trial:
    """A copy of the prepared run, and the children that work on it."""

    def __init__(self, prepared: Path, folder: Path, judge: JudgeServer) -> None:
        self.folder, self.judge, self.root = folder / "run", judge, folder
        shutil.copytree(prepared, self.folder)
        self.children = 0

    def start(self, **plan: Any) -> Child:
        self.children += 1
        command = plan.pop("command", ("run", str(self.folder), "--no-figures"))
        return start(Plan(command, str(self.root / "log"), **plan), self.root / f"out{self.children}")

    def run(self, **plan: Any) -> tuple[int, str]:
        """Exit code and output of a whole child."""
        child = self.start(**plan)
        return child.wait(), child.said

    def asked(self) -> int:
        """Questions that came to the judge so far, but for the one before a run that only asks whether it is there."""
        return sum(PROBE.case.reply not in call.prompt for call in self.judge.calls)

    def noted(self, what: str) -> list[str]:
        """Keys computed or rated so far, as often as it happened, by all children."""
        log = self.root / "log"
        lines = log.read_text().splitlines() if log.is_file() else []
        return [line.split()[1] for line in lines if line.startswith(what)]

    def records(self) -> dict[str, str]:
        """Everything in records.sqlite, by key; the key of a rating with `judged ` before it."""
        with sqlite3.connect(self.folder / "records.sqlite") as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            rows = db.execute("SELECT key, value FROM records").fetchall()
        return {f"judged {key}" if value.startswith('{"ratings"') else key: value for key, value in rows}

    def reports(self) -> dict[str, bytes]:
        """The report's files."""
        files = [self.folder / "results.json", *self.folder.glob("leaderboard*")]
        return {file.name: file.read_bytes() for file in files if file.is_file()}

    def rows(self) -> list[dict[str, Any]]:
        """The rows of results.json."""
        columns = json.loads((self.folder / "results.json").read_text())["rows"]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.fixture
def trial(prepared: Path, tmp_path: Path, judge: JudgeServer) -> Trial:
    return Trial(prepared, tmp_path, judge)


@pytest.fixture(scope="session")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory, judge: JudgeServer) -> Trial:
    """The same run without a fault, finished."""
    whole = Trial(prepared, tmp_path_factory.mktemp("undisturbed"), judge)
    before = whole.asked()
    code, said = whole.run()
    assert code == 0, said
    whole.judge_calls = whole.asked() - before  # type: ignore[attr-defined]
    return whole
