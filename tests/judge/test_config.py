"""Configurations of judges. Run: python -m pytest tests/judge/test_config.py"""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from steer_bench.experiment.reading import load_experiment
from steer_bench.judge.config import OpenAIConfig, judge_config, judge_id, read_judge
from steer_bench.judge.load import load_judge


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"kind": "embeding"}, r"judge\.kind: 'embeding' is no judge; did you mean .embedding"),
        ({}, "choose one of"),
        (3, "judge: 3 is not a mapping"),
        ({"kind": "openai", "modle": "m"}, r"judge\.modle.*did you mean .model"),
        ({"kind": "openai", "model": "m", "api_key": "sk-x"}, "STEER_JUDGE_API_KEY"),
        ({"kind": "openai", "model": "m", "token": "sk-x"}, "STEER_JUDGE_API_KEY"),
        ({"kind": "openai", "model": "m", "options": {"extra_headers": {"a": "sk-x"}}}, "STEER_JUDGE_API_KEY"),
        (
            {"kind": "openai", "model": "m", "options": {"since": date(2026, 1, 1)}},
            r"judge\.options: a server takes plain JSON",
        ),
        (
            {"kind": "openai", "model": "m", "options": {"top_p": float("nan")}},
            r"judge\.options: a server takes plain JSON",
        ),
        ({"kind": "openai", "model": "m", "base_url": "http://[::1"}, r"judge\.base_url"),
        ({"kind": "openai"}, r"judge\.model: missing"),
        ({"kind": "openai", "model": ""}, r"judge\.model: missing"),
        ({"kind": "openai", "model": "m", "concurrency": 0}, r"judge\.concurrency: .*\(found 0\)"),
        ({"kind": "openai", "model": "m", "price": 3}, r"judge\.price: 3; give dollars per million tokens"),
        ({"kind": "openai", "model": "m", "price": {"input": 1}}, r"judge\.price: .*give dollars"),
        ({"kind": "openai", "model": "m", "max_ignored": 7}, r"judge\.max_ignored"),
        ({"kind": "local"}, r"judge\.model: missing"),
        ({"kind": "local", "model": "m", "batch_size": 0}, r"judge\.batch_size"),
        ({"kind": "embedding", "dtype": "float32"}, r"judge\.dtype: unknown for kind embedding"),
    ],
)
def test_a_wrong_configuration_is_refused_with_a_way_on(content: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        judge_config(content)
    assert "sk-x" not in str(caught.value)


def test_every_fault_of_a_configuration_is_said_on_a_line() -> None:
    with pytest.raises(ValueError, match=r"judge\.model") as caught:
        judge_config({"kind": "openai", "max_wait": -1, "price": "free"})
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "judge.model", "judge.max_wait", "judge.price",
    ]  # fmt: skip


def test_the_embedding_judge_needs_reference_texts() -> None:
    with pytest.raises(ValueError, match="needs reference texts"):
        load_judge(judge_config({"kind": "embedding"}))


def test_each_kind_loads_by_its_name(tmp_path: Path) -> None:
    paid = {"kind": "openai", "model": "m", "price": {"input": 1, "output": 2}}
    assert load_judge(judge_config(paid)).name == "m at api.openai.com"
    assert load_judge(judge_config({"kind": "local", "model": "some/model"})).name == "local some/model"
    embedding = load_judge(judge_config({"kind": "embedding", "model": str(tmp_path)}), references={})
    assert embedding.name.startswith("embedding (")
    assert embedding.name.endswith("a proxy")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"kind": "embedding"}, "embedding-7609dc47"),
        ({"kind": "embedding", "model": "minilm-l6-v2", "batch_size": 8}, "embedding-minilm-l6-v2-9f574ebf"),
        (
            {"kind": "openai", "model": "gpt-4o-mini", "price": {"input": 0.15, "output": 0.6}},
            "openai-gpt-4o-mini-1a6c6db4",
        ),
        (
            {
                "kind": "openai", "model": "a/b", "base_url": "http://localhost:8000/v1", "seed": 3, "max_tokens": 200,
                "options": {"seed": None, "guided": ["0", "1"]}, "concurrency": 2, "timeout": 5, "max_wait": 9, "max_ignored": 1,
            },
            "openai-a-b-db9b3b18",
        ),
        (
            {"kind": "local", "model": "smollm2-135m-instruct", "dtype": "bfloat16", "device": "cpu"},
            "local-smollm2-135m-instruct-66a42c70",
        ),
    ],
)  # fmt: skip
def test_the_files_of_a_judge_are_named_as_by_the_first_version(content: dict[str, Any], name: str) -> None:
    """The names that version 0.1 gave: a run begun then finds its ratings."""
    assert judge_id(judge_config(content)) == name


def test_a_configuration_dumps_to_what_was_given() -> None:
    given = {"kind": "openai", "model": "m", "options": {"seed": None}, "concurrency": 3}
    assert judge_config(given).model_dump() == given
    assert judge_config(judge_config(given).model_dump(mode="json")) == judge_config(given)
    assert OpenAIConfig(model="m").model_dump() == {"kind": "openai", "model": "m"}


def test_a_judge_file_with_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text("judge:\n  kind: openai\n  model: a\n  model: b\n")
    with pytest.raises(
        ValueError, match=r"--judge .*judge\.yaml.*line 4: key 'model' is given twice \(first in line 3\)"
    ):
        read_judge(str(file))
    file.write_text("judge:\n  kind: openai\n  model: b\n")
    assert read_judge(str(file)) == OpenAIConfig(model="b")


def test_a_judge_file_of_nested_aliases_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    file = tmp_path / "judge.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"--judge .*more than 100000 entries"):
        read_judge(str(file))


def test_faults_of_an_experiments_judge_come_with_their_line_and_without_secrets(tmp_path: Path) -> None:
    quickstart = Path(__file__).parents[2] / "steer_bench" / "experiments" / "quickstart.yaml"
    text = "\n".join(line for line in quickstart.read_text().splitlines() if not line.startswith("judge:"))
    file = tmp_path / "e.yaml"
    for judge, words in [
        ("{kind: openai, model: m, api_key: sk-secret-123}", r"judge\.api_key: keys are never read"),
        (
            "{kind: openai, model: m, base_url: 'http://u:sk-secret-123@h/v1'}",
            r"judge\.base_url: holds a user or password",
        ),
        ("{kind: openai, modle: m}", r"judge\.modle: unknown for kind openai; did you mean 'model'"),
    ]:
        file.write_text(f"judge: {judge}\n{text}\n")
        with pytest.raises(ValueError, match=rf"e\.yaml:1: {words}") as caught:
            load_experiment(file)
        assert "sk-secret" not in str(caught.value)
