"""Anything in the place of a file: a clear ValueError or a correct result, never another exception, never a file half written."""

import json
import string

import pytest
import yaml
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from steered import make_arms

from steer_bench import shipped
from steer_bench.concepts.load import load_concepts, load_prompts, load_texts
from steer_bench.experiment.reading import load_experiment
from steer_bench.experiment.run import open_run
from steer_bench.harness.protocol import Protocol
from steer_bench.judge.config import EmbeddingConfig
from steer_bench.results.file import Results, load_results, save_results
from steer_bench.results.lmeval_samples import load_rows
from steer_bench.results.provenance import Provenance
from steer_bench.results.rows import Row
from steer_bench.transfer.adapters import load_adapter
from steer_bench.vectors.arms import Arms
from steer_bench.vectors.store import VectorStore
from steer_bench.vectors.tensor_file import load_card

EACH = examples(160)
TRIED = {"inputs": 0, "read": 0}
quiet = settings(
    max_examples=EACH, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip

words = st.text(string.printable, max_size=12)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    words,
    st.sampled_from(["", "a/../b", "\x1b[31m", "sea"]),
)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)


def changed(whole: bytes) -> st.SearchStrategy[bytes]:
    """`whole` with a stretch replaced, cut off or doubled; or nothing of it."""
    cut = st.integers(0, len(whole))

    def splice(a: int, b: int, middle: bytes) -> bytes:
        return whole[: min(a, b)] + middle + whole[max(a, b) :]

    near = st.builds(
        lambda a, n, middle: splice(a, min(len(whole), a + n), middle), cut, st.integers(0, 9), st.binary(max_size=9)
    )
    return st.one_of(st.binary(max_size=300), st.builds(splice, cut, cut, st.binary(max_size=20)), near)


def tried(load, path, content: bytes):
    """The result, or None for a ValueError that names the file in one line after the other."""
    path.write_bytes(content)
    TRIED["inputs"] += 1
    try:
        result = load(path)
    except ValueError as error:
        assert path.name in str(error)  # noqa: PT017
        return None
    finally:
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        assert path.read_bytes() == content
    TRIED["read"] += 1
    return result


QUICKSTART = (shipped("experiments") / "quickstart.yaml").read_bytes()
CONCEPTS = (shipped("tasks") / "data" / "concepts.jsonl").read_bytes()[:3000]
CONCEPT = {
    "id": "tea",
    "description": "tea",
    "genre": "text",
    "positives": ["tea one", "tea two"],
    "negatives": ["a", "b"],
}
ADAPTER = (shipped("adapters") / "linear.yaml").read_bytes()


@quiet
@given(content=changed(QUICKSTART))
def test_experiments_of_any_bytes(content, tmp_path):
    tried(load_experiment, tmp_path / "e.yaml", content)


@quiet
@given(key=st.sampled_from(sorted(yaml.safe_load(QUICKSTART))), inner=st.none() | words, value=anything)
def test_experiments_with_any_value_at_a_key_through_all_checks_of_a_run(key, inner, value, tmp_path):
    content = yaml.safe_load(QUICKSTART)
    content["neutral"]["map_limit"] = 10
    if inner is not None and isinstance(content[key], dict):
        content[key] = {**content[key], inner: value}
    else:
        content[key] = value
    (tmp_path / "in").mkdir(exist_ok=True)
    tried(
        lambda path: open_run(str(path), tmp_path / "out"), tmp_path / "in" / "e.yaml", yaml.safe_dump(content).encode()
    )
    assert not (tmp_path / "out").exists()


@quiet
@given(content=changed(ADAPTER) | st.builds(lambda value: yaml.safe_dump(value).encode(), anything))
def test_adapters(content, tmp_path):
    tried(lambda path: load_adapter(str(path)), tmp_path / "a.yaml", content)


@quiet
@given(content=changed(CONCEPTS))
def test_concept_files_of_any_bytes(content, tmp_path):
    tried(load_concepts, tmp_path / "c.jsonl", content)


@quiet
@given(key=st.sampled_from(sorted(CONCEPT)) | words, value=anything)
def test_concept_files_with_any_value_at_a_key(key, value, tmp_path):
    concepts = tried(load_concepts, tmp_path / "c.jsonl", json.dumps({**CONCEPT, key: value}).encode())
    for concept in concepts or ():
        assert all(text.strip() for text in (*concept.positives, *concept.negatives))


@quiet
@given(
    content=changed(
        b'{"id": "p1", "instruction": "Write.", "role": "select"}\n{"id": "p2", "instruction": "Tell.", "role": "score"}\n'
    )
)
def test_prompt_and_text_files(content, tmp_path):
    tried(load_prompts, tmp_path / "p.jsonl", content)
    tried(load_texts, tmp_path / "p.jsonl", content.replace(b"instruction", b"text"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Bytes of a good file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    arms = make_arms(8)
    arms.save(folder / "arms.safetensors")
    VectorStore("m", 1, {concept: vector for (_, concept), vector in arms.vectors.items()}, 2.0).save(
        folder / "vectors.safetensors"
    )
    row = Row("rule_following", "t", "", "native", "sea", 0.2, "p1", "score", 0.5, 3, ratings={"fluency": 1.0})
    save_results(folder / "results.json", Results(Provenance(name="n", complete=True), (row,)))
    Protocol({}, {"n": "text"}, (), {"concept_likelihood": (1.3,)}, {}, EmbeddingConfig()).save(
        folder / "protocol.json"
    )
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(("name", "load"), [("arms.safetensors", Arms.load), ("vectors.safetensors", VectorStore.load)])
def test_vector_files_are_refused_or_the_same_to_the_bit(name, load, whole, tmp_path):
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / name).write_bytes(whole[name])
    expected = load(tmp_path / "before" / name)

    @quiet
    @given(content=changed(whole[name]))
    def each(content):
        (tmp_path / "in").mkdir(exist_ok=True)
        found = tried(load, tmp_path / "in" / name, content)
        if found is not None:
            assert found.scale == expected.scale
            assert all((vector == expected.vectors[key]).all() for key, vector in found.vectors.items())
        tried(load_card, tmp_path / "in" / name, content)

    each()


@pytest.mark.parametrize(("name", "load"), [("results.json", load_results), ("protocol.json", Protocol.load)])
def test_result_and_protocol_files(name, load, whole, tmp_path):
    known = json.loads(whole[name])

    @quiet
    @given(content=changed(whole[name]))
    def each(content):
        tried(load, tmp_path / name, content)

    @quiet
    @given(
        key=st.sampled_from(sorted(known)),
        inner=words | st.sampled_from(["task", "value", "factor", "p1"]),
        value=anything,
    )
    def each_value(key, inner, value):
        content = {**known, key: value}
        tried(load, tmp_path / name, json.dumps(content).encode())
        if isinstance(known[key], dict):
            tried(load, tmp_path / name, json.dumps({**known, key: {**known[key], inner: value}}).encode())

    each()
    each_value()


@quiet
@given(value=anything, content=st.binary(max_size=80))
def test_sample_files_of_lm_eval(value, content, tmp_path):
    for line in (content, json.dumps({"metrics": ["native"], "native": value}).encode()):
        tried(lambda path: load_rows(path.parent), tmp_path / "samples_rule_following_2026.jsonl", line + b"\n")


def test_the_number_of_inputs_that_were_tried():
    if TRIED["inputs"] < 100:
        pytest.skip("only with the whole file")
    print(
        f"random input: {TRIED['inputs']} files tried, {TRIED['read']} read, the others refused by name, 0 other exceptions"
    )
    assert TRIED["inputs"] >= 12 * EACH
    assert TRIED["read"] > EACH // 3
