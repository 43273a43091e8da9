"""Concepts: what is read, what is refused (naming file and line), and how texts are split."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steer_bench.concepts.concept import Concept, Prompt
from steer_bench.concepts.load import load_concepts, load_prompts, load_texts
from steer_bench.concepts.splits import Splits, check_splits, halves, held_out, near_duplicates, split_concepts
from steer_bench.files import safe_name

AXBENCH = Path(__file__).parents[3] / "shared" / "axbench" / "concept10"
SEA = {
    "id": "sea",
    "description": "the sea",
    "genre": "text",
    "positives": ["Waves.", "Salt."],
    "negatives": ["Bread."],
}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def concept(name: str, description: str | None = None, genre: str = "text", **changes: tuple[str, ...]) -> Concept:
    sides = {"positives": (f"{name} one", f"{name} two"), "negatives": ("plain one", "plain two")} | changes
    return Concept(name, description or f"unlike{name}", genre, **sides)


# ------------------------------------------------------------------------------------------------ JSON Lines


def test_a_line_is_a_concept_and_texts_are_kept_as_written(tmp_path):
    path = write(tmp_path / "c.jsonl", SEA | {"positives": ["  Waves.\u2028 Ünïcode ", "Salt."]})
    assert load_concepts(path) == [
        Concept("sea", "the sea", "text", ("  Waves.\u2028 Ünïcode ", "Salt."), ("Bread.",), "topic", "")
    ]


def test_negatives_left_out_are_the_shared_ones_of_the_genre_wherever_they_stand(tmp_path):
    bare = {key: SEA[key] for key in SEA if key != "negatives"}
    code = bare | {"id": "loops", "genre": "code", "positives": ["for x in y"]}
    path = write(
        tmp_path / "c.jsonl",
        bare,
        {"genre": "text", "negatives": ["Shared."]},
        code,
        {"genre": "code", "negatives": ["x = 1"]},
    )
    assert [(c.id, c.negatives) for c in load_concepts(path)] == [("sea", ("Shared.",)), ("loops", ("x = 1",))]


def test_a_rule_concept_names_its_rule(tmp_path):
    path = write(tmp_path / "c.jsonl", SEA | {"kind": "rule", "rule": "upper_case"})
    assert (load_concepts(path)[0].kind, load_concepts(path)[0].rule) == ("rule", "upper_case")


def test_blank_lines_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(SEA).encode() + b"\r\n\r\n")
    assert [c.id for c in load_concepts(path)] == ["sea"]


def test_limit_keeps_the_first_and_still_checks_the_rest(tmp_path):
    second = SEA | {"id": "salt", "positives": ["More."]}
    assert [c.id for c in load_concepts(write(tmp_path / "c.jsonl", SEA, second), limit=1)] == ["sea"]
    with pytest.raises(ValueError, match="line 2"):
        load_concepts(write(tmp_path / "d.jsonl", SEA, SEA), limit=1)
    with pytest.raises(ValueError, match="limit is 0"):
        load_concepts(tmp_path / "c.jsonl", limit=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "sea"}, r"line 2: id 'sea' is already used in .*c\.jsonl, line 1"),
        ({"id": "SEA"}, r"line 2: id 'SEA' is nearly the same as 'sea' in .*c\.jsonl, line 1"),
        ({"id": "../x"}, r"line 2: id '\.\./x' cannot be a file name"),
        ({"id": ""}, "line 2: id '' cannot be a file name"),
        ({"id": "x" * 101}, "line 2: id .* cannot be a file name"),
        ({"id": "x\n"}, "line 2: id .* cannot be a file name"),
        ({"id": 7}, "line 2: id is a number; it has to be a string"),
        ({"description": None}, "line 2: description is a null; it has to be a string"),
        ({"description": " "}, "line 2: description is an empty text"),
        ({"positives": []}, "line 2: positives is empty"),
        ({"negatives": []}, "line 2: negatives is empty"),
        ({"positives": ["Waves.", " \t"]}, r"line 2: positives\[1\] is an empty text"),
        ({"positives": ["Waves.", "Bread. "]}, r"line 2: negatives\[0\] is the same text as positives\[1\]"),
        ({"positives": ["Waves.", "Salt.", "Waves."]}, r"line 2: positives\[2\] is the same text as positives\[0\]"),
        ({"positives": "Waves."}, "line 2: positives is a string; it has to be a list of strings"),
        ({"positives": ["Waves.", 3]}, r"line 2: positives\[1\] is a number; it has to be a string"),
        ({"positives": ["\ud800"]}, r"line 2: positives\[0\] holds half a surrogate pair"),
        ({"positivs": ["Waves."]}, "line 2: unknown key 'positivs'; did you mean 'positives'?"),
        ({"zzz": 1}, "line 2: unknown key 'zzz'; there are: 'id', 'description'"),
        ({"kind": "theme"}, "line 2: kind is 'theme'; it can be 'topic', 'rule' or 'suppress'"),
        ({"kind": "rule"}, "line 2: rule is an empty text"),
        ({"rule": "upper_case"}, 'line 2: rule is .* needs "kind": "rule"'),
    ],
)
def test_a_faulty_line_is_refused_naming_file_and_line(tmp_path, change, message):
    path = write(tmp_path / "c.jsonl", SEA, SEA | {"id": "other"} | change)
    with pytest.raises(ValueError, match=message) as error:
        load_concepts(path)
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2: not JSON"),
        (b"[1]", "line 2: a list instead of an object"),
        (b'{"id": "a", "id": "b"}', "line 2: not JSON .key 'id' stands 2 times"),
        (b'{"id": NaN}', "line 2: not JSON .NaN is not JSON"),
        (b"9" * 5000, "line 2: "),
        (b"[" * 100_000, "line 2: not JSON .nested too deeply"),
        (b"{}", "line 2: the key 'id' is missing"),
        (b'{"id": "a", "positives": ["b"]}', "line 2: the key 'description' is missing"),
        (b'{"id": "a", "description": "b", "positives": ["c"]}', 'line 2: no negatives; give "negatives", or a line'),
        (b'{"genre": "text", "negatives": []}', "line 2: negatives is empty"),
        (b'"caf\xe9"', "line 2: not UTF-8 .byte 0xe9"),
    ],
)
def test_a_line_that_is_no_concept_is_refused_naming_file_and_line(tmp_path, line, message):
    path = tmp_path / "c.jsonl"
    path.write_bytes(json.dumps(SEA).encode() + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match=message) as error:
        load_concepts(path)
    assert str(error.value).startswith(f"{path}, line 2: ")


def test_shared_negatives_given_twice_are_refused_naming_both_lines(tmp_path):
    shared = {"genre": "text", "negatives": ["Shared."]}
    with pytest.raises(ValueError, match=r"line 3: the shared negatives of genre 'text' is already used in .*, line 1"):
        load_concepts(write(tmp_path / "c.jsonl", shared, SEA, shared))


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"genre": "text", "negatives": ["a"]}'])
def test_a_file_without_a_concept_is_refused(tmp_path, content):
    path = tmp_path / "c.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no concept in it"):
        load_concepts(path)


@pytest.mark.parametrize("name", ["absent.jsonl", "absent.parquet", "absent"])
def test_an_absent_file_is_a_value_error_naming_it(tmp_path, name):
    with pytest.raises(ValueError, match=name):
        load_concepts(tmp_path / name)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
likely = st.dictionaries(
    st.sampled_from(["id", "description", "genre", "positives", "negatives", "kind", "rule", "x"]),
    values | st.sampled_from(["a", "rule", "topic", "text"]) | st.lists(st.text(max_size=3), max_size=3),
)
lines = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    values.map(lambda value: json.dumps(value).encode()),
    likely.map(lambda value: json.dumps(SEA | value).encode()),
    likely.map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(lines, max_size=4).map(b"\n".join), name=st.sampled_from(["c.jsonl", "c.parquet"]))
def test_any_bytes_give_concepts_or_a_value_error_with_the_path_in_it(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    for load in (load_concepts, load_texts, load_prompts):
        message, loaded = outcome(load, path)
        assert message or loaded
        assert not message or (str(path) in message and "\n" not in message)
        ids = [c.id.lower() for c in loaded if isinstance(c, Concept)]
        assert len(set(ids)) == len(ids)


def outcome(load, path: Path) -> tuple[str, list]:
    try:
        return "", load(path)
    except ValueError as error:
        return str(error), []


# ------------------------------------------------------------------------------------------------ AxBench, parquet, hub


def axbench_rows() -> list[dict[str, object]]:
    def row(number: int, output: str, concept: str, genre: str) -> dict[str, object]:
        return {
            "input": "Write something.",
            "output": output,
            "output_concept": concept,
            "concept_genre": genre,
            "category": "negative" if number == -1 else "positive",
            "dataset_category": "instruction",
            "concept_id": number,
        }

    return [
        row(0, "On May 3.", "dates", "text"),
        row(0, "In June.", "dates", "text"),
        row(0, "In June.", "dates", "text"),
        row(1, "for x in y:", "loops", "code"),
        row(-1, "A stone.", "EEEEE", "text"),
        row(-1, "", "EEEEE", "text"),
        row(-1, "x = 1", "EEEEE", "code"),
    ]


def axbench_folder(folder: Path, rows: list[dict[str, object]] | None = None, name: str = "train_data.parquet") -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(axbench_rows() if rows is None else rows), folder / name)
    write(
        folder / "metadata.jsonl",
        {"concept_id": 0, "concept": "dates", "ref": "", "concept_genres_map": {"dates": ["text"]}},
        {"concept_id": 1, "concept": "loops", "ref": "", "concept_genres_map": {"loops": ["code"]}},
    )
    return folder


EXPECTED = [
    ("dates", "text", ("On May 3.", "In June."), ("A stone.",)),
    ("loops", "code", ("for x in y:",), ("x = 1",)),
]


def fields(concepts: list[Concept]) -> list[tuple[object, ...]]:
    return [(c.description, c.genre, c.positives, c.negatives) for c in concepts]


def test_an_axbench_folder_pairs_outputs_with_the_shared_negatives_of_the_genre(tmp_path, caplog):
    concepts = load_concepts(axbench_folder(tmp_path / "prod 2b!"))
    assert [c.id for c in concepts] == ["prod-2b-0", "prod-2b-1"]
    assert fields(concepts) == EXPECTED
    assert "left out 1 repeated or empty of 3 texts" in caplog.text  # "In June." stands twice


def test_sets_in_folders_of_one_name_have_ids_of_their_own(tmp_path):
    sets = [
        load_concepts(axbench_folder(tmp_path / name / "generate")) for name in ("prod_2b_l10_v1", "prod_2b_l20_v1")
    ]
    assert [c.id for concepts in sets for c in concepts] == [
        "prod_2b_l10_v1-0", "prod_2b_l10_v1-1", "prod_2b_l20_v1-0", "prod_2b_l20_v1-1",
    ]  # fmt: skip


def test_a_parquet_file_of_axbench_rows_needs_no_metadata(tmp_path):
    concepts = load_concepts(axbench_folder(tmp_path, name="mine.parquet") / "mine.parquet")
    assert [c.id for c in concepts] == ["mine-0", "mine-1"]
    assert fields(concepts) == EXPECTED


def test_a_parquet_file_of_our_own_shape_is_read_and_checked_like_lines(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    shared = {"id": None, "description": None, "genre": "text", "positives": None, "negatives": ["Shared."]}
    pq.write_table(pa.Table.from_pylist([SEA, SEA | {"id": "b", "negatives": None}, shared]), tmp_path / "c.parquet")
    assert [(c.id, c.negatives) for c in load_concepts(tmp_path / "c.parquet")] == [
        ("sea", ("Bread.",)),
        ("b", ("Shared.",)),
    ]
    pq.write_table(pa.Table.from_pylist([SEA, SEA]), tmp_path / "d.parquet")
    with pytest.raises(ValueError, match=r"d\.parquet, row 1: id 'sea' is already used in .*, row 0"):
        load_concepts(tmp_path / "d.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[0].pop("output") and [row.pop("output", 0) for row in rows],
            "the column 'output' is missing",
        ),
        (lambda rows: rows[0].update(output=None), "row 0: output is a null"),
        (lambda rows: rows[1].update(output_concept="years"), "row 1: concept_id 0 is 'years' here and 'dates' above"),
        (lambda rows: rows[1].update(concept_id=-4), "row 1: concept_id is '-4'"),
        (lambda rows: rows[3].update(concept_id=2), "concept_id 1 is in metadata.jsonl but not in the table"),
        (lambda rows: rows.pop(), "concept_id 1: no negatives .* of its genre 'code'"),
        (
            lambda rows: rows[3].update(output_concept="lists"),
            r"rows say 'lists' \(code\), metadata.jsonl says 'loops'",
        ),
        (lambda rows: rows[3].update(output_concept="Loops"), "do not belong together"),
        (
            lambda rows: rows[3].update(concept_genre="math"),
            r"rows say 'loops' \(math\), metadata.jsonl says .* \(code\)",
        ),
    ],
)
def test_faulty_axbench_rows_are_refused_naming_file_and_row(tmp_path, change, message):
    rows = axbench_rows()
    change(rows)
    folder = axbench_folder(tmp_path, rows)
    with pytest.raises(ValueError, match=message) as error:
        load_concepts(folder)
    assert str(folder / "train_data.parquet") in str(error.value)


def test_a_folder_that_is_no_axbench_folder_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"an AxBench folder needs train_data\.parquet"):
        load_concepts(tmp_path)


def test_metadata_with_a_concept_id_twice_names_both_lines(tmp_path):
    folder = axbench_folder(tmp_path)
    meta = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(meta + meta.splitlines()[0])
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 3: concept_id '0' is already used in .*, line 1"):
        load_concepts(folder)


@pytest.mark.skipif(not AXBENCH.is_dir(), reason="AxBench's data does not stand beside the checkout")
@pytest.mark.parametrize("name", ["prod_2b_l10_v1", "prod_2b_l20_v1"])
def test_axbench_concept10_has_ten_concepts_of_72_against_72_texts(name):
    concepts = load_concepts(AXBENCH / name)
    assert [c.id for c in concepts] == [f"{name}-{i}" for i in range(10)]
    assert {len(c.negatives) for c in concepts} == {72}
    assert sum(len(c.positives) for c in concepts) == (719 if "l10" in name else 720)  # l10 repeats one text
    assert set(Counter(c.genre for c in concepts)) == {"text", "code", "math"}
    if "l10" in name:
        assert concepts[0].description == "references to specific dates and publication information"
        shared = {c.genre: c.negatives for c in concepts}
        assert all(c.negatives == shared[c.genre] for c in concepts)


def test_a_hub_name_goes_through_datasets_with_config_or_subfolder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = axbench_folder(tmp_path / "axbench-mini" / "2b" / "l20" / "train", name="data.parquet")
    (folder / "metadata.jsonl").unlink()
    concepts = load_concepts(f"hf:{tmp_path / 'axbench-mini'}:2b/l20")
    assert [c.id for c in concepts] == ["axbench-mini-2b-l20-0", "axbench-mini-2b-l20-1"]
    assert fields(concepts) == EXPECTED
    (tmp_path / "lines").mkdir()
    write(tmp_path / "lines" / "train.jsonl", SEA)
    assert [c.id for c in load_concepts(f"hf:{tmp_path / 'lines'}")] == ["sea"]


def test_a_hub_name_offline_is_one_line_naming_it_and_the_switch(tmp_path):
    code = "from steer_bench.concepts.load import load_concepts; load_concepts('hf:pyvene/axbench-concept500:2b/l20')"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: hf:pyvene/axbench-concept500:2b/l20: cannot load the data set")
    assert "HF_HUB_OFFLINE" in last


# ------------------------------------------------------------------------------------------------ texts, prompts, names


def test_texts_and_prompts_are_read_in_order(tmp_path):
    texts = write(tmp_path / "t.jsonl", {"id": "a", "text": "One."}, {"id": "b", "text": "Two."})
    assert load_texts(texts) == ["One.", "Two."]
    prompts = write(tmp_path / "p.jsonl", {"id": "p1", "instruction": "Tell."})
    assert load_prompts(prompts) == [Prompt("p1", "Tell.")]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"id": "a", "text": "Two."}, "line 2: id 'a' is already used in .*, line 1"),
        ({"id": "b", "text": "One."}, "line 2: text 'One.' is already used in .*, line 1"),
        ({"id": "b", "text": ""}, "line 2: text is an empty text"),
        ({"id": "b"}, "line 2: the key 'text' is missing"),
        ({"id": "b", "txt": "Two."}, "line 2: unknown key 'txt'; did you mean 'text'?"),
    ],
)
def test_faulty_texts_are_refused_naming_file_and_line(tmp_path, second, message):
    with pytest.raises(ValueError, match=message):
        load_texts(write(tmp_path / "t.jsonl", {"id": "a", "text": "One."}, second))


def test_a_prompt_has_no_role_for_each_concept_draws_its_own(tmp_path):
    path = write(tmp_path / "p.jsonl", {"id": "p", "instruction": "Tell.", "role": "train"})
    with pytest.raises(ValueError, match="line 1: unknown key 'role'"):
        load_prompts(path)


@pytest.mark.parametrize(
    "bad", ["", "..", "../x", "/etc", ".hidden", "a b", "a\\b", "a\0", "a\n", "ü", "x" * 101, "-rf"]
)
def test_safe_name_refuses_what_could_leave_the_folder(bad):
    with pytest.raises(ValueError, match="cannot be a file name"):
        safe_name(bad)


@given(st.text(max_size=120))
def test_safe_name_gives_a_plain_file_name_or_a_value_error(text):
    try:
        name = safe_name(text)
    except ValueError:
        return
    assert Path(name).name == name
    assert name.isascii()
    assert not name.startswith((".", "-"))


def test_importing_concepts_loads_no_heavy_package():
    code = (
        "import sys, steer_bench.concepts.load, steer_bench.concepts.splits; "
        "print([m for m in ('torch', 'pandas', 'pyarrow', 'datasets', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------ splits


def twenty() -> list[Concept]:
    return [concept(f"c{i:02}", genre="code" if i % 2 else "text") for i in range(20)]


def test_splits_have_the_asked_sizes_and_every_genre_its_share():
    splits = split_concepts(twenty(), fit=10, select=4, test=6, seed=1)
    genres = {c.id: c.genre for c in twenty()}
    for ids, size in ((splits.fit, 10), (splits.select, 4), (splits.test, 6)):
        assert len(ids) == size
        assert Counter(genres[i] for i in ids) == {"text": size // 2, "code": size // 2}


def test_shares_use_all_concepts_and_what_is_not_asked_for_stays_unused():
    splits = split_concepts(twenty()[:7], fit=0.5, select=0.2, test=0.3, seed=1)  # 3.5, 1.4, 2.1 -> 4, 1, 2
    assert (len(splits.fit), len(splits.select), len(splits.test)) == (4, 1, 2)
    splits = split_concepts(twenty(), fit=2, select=0, test=0.25, seed=1)
    assert (len(splits.fit), len(splits.select), len(splits.test)) == (2, 0, 5)


def test_the_same_seed_gives_the_same_splits_in_any_order_and_another_seed_others():
    first = split_concepts(twenty(), fit=10, select=4, test=6, seed=1)
    assert split_concepts(twenty()[::-1], fit=10, select=4, test=6, seed=1) == first
    other = split_concepts(twenty(), fit=10, select=4, test=6, seed=2)
    assert other != first
    assert other.hash != first.hash


def test_the_hash_is_of_the_sets_and_stays_the_same_over_versions():
    assert Splits(("a", "b"), (), ("c",)).hash == Splits(("b", "a"), (), ("c",)).hash
    # printf '[["a", "b"], [], ["c"]]' | sha256sum | cut -c1-16
    assert Splits(("a", "b"), (), ("c",)).hash == "9f6895da539c0bb0"


def test_near_duplicates_by_description_or_shared_text_stand_in_one_group():
    concepts = [
        concept("a", "references to rental services and equipment"),
        concept("b", "rental services, and related equipment"),  # {rental, services, equipment}: Jaccard 1
        concept("c", "rental cars"),  # 1 of 4 words: 0.25
        concept("d", positives=("x", "shared  text")),
        concept("e", positives=("y", "shared text")),
        concept("f", "one two three four five"),
        concept("g", "one two three six"),  # 3 of 6 words: 0.5
        concept("h", "one two three four"),  # 4 of 5 with f: 0.8; 3 of 5 with g: 0.6
    ]
    assert near_duplicates(concepts) == [["a", "b"], ["c"], ["d", "e"], ["f", "g", "h"]]
    assert near_duplicates(concepts, [("c", "d")]) == [["a", "b"], ["c", "d", "e"], ["f", "g", "h"]]
    splits = split_concepts(concepts, fit=3, test=3, kin=[("c", "d")])
    assert {len({"c", "d", "e"} & set(split)) for split in (splits.fit, splits.test)} == {0, 3}


@settings(deadline=None, max_examples=examples(60))
@given(st.lists(st.frozensets(st.sampled_from("abcdefg"), min_size=1), min_size=1, max_size=12), st.integers(0, 3))
def test_near_duplicates_are_all_pairs_of_jaccard_06_and_never_split(word_sets, seed):
    concepts = [concept(f"n{i}", " ".join(f"w{w}" for w in words)) for i, words in enumerate(word_sets)]
    group = {name: i for i, ids in enumerate(near_duplicates(concepts)) for name in ids}
    splits = split_concepts(concepts, fit=0.5, select=0.2, test=0.3, seed=seed)
    home = {name: split for split in ("fit", "select", "test") for name in getattr(splits, split)}
    for i, a in enumerate(word_sets):
        for j, b in enumerate(word_sets):
            if len(a & b) / len(a | b) >= 0.6:
                assert group[f"n{i}"] == group[f"n{j}"]
                assert home.get(f"n{i}") == home.get(f"n{j}")


def test_pinned_concepts_stay_where_they_are_pinned_and_draw_their_kin():
    concepts = [*twenty(), concept("kin", "unlikec03")]
    splits = split_concepts(concepts, fit=5, select=5, test=5, seed=0, pinned={"test": ["c03", "c04"], "fit": ["c05"]})
    assert {"c03", "c04", "kin"} <= set(splits.test)
    assert "c05" in splits.fit
    assert [len(splits.fit), len(splits.select), len(splits.test)] == [5, 5, 5]


def test_pinned_lists_alone_are_the_splits():
    pinned = {"fit": ["c00"], "select": ["c01"], "test": ["c02", "c03"]}
    assert split_concepts(twenty(), pinned=pinned) == Splits(("c00",), ("c01",), ("c02", "c03"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pinned": {"fit": ["c01"], "test": ["c01"]}}, "concept 'c01' is in split 'test' and in split 'fit'"),
        ({"pinned": {"fit": ["c01", "c01"]}}, "concept 'c01' is twice in split 'fit'"),
        ({"pinned": {"fit": ["c1"]}}, "split 'fit' names the concept 'c1', which is not there; did you mean"),
        ({"pinned": {"train": ["c01"]}}, "pinned split 'train' is unknown"),
        ({"fit": 18, "test": 3}, "fit 18 .* is more than the 20 concepts"),
        ({"fit": 0.8, "test": 0.4}, "is more than the 20 concepts"),
        ({"fit": 1.5}, "split 'fit' is 1.5"),
        ({"fit": -1}, "split 'fit' is -1"),
        ({"fit": True}, "split 'fit' is True"),
        ({"fit": float("nan")}, "split 'fit' is nan"),
        ({"fit": 1, "pinned": {"fit": ["c01", "c02"]}}, "split 'fit' is to have 1 concepts but holds 2"),
    ],
)
def test_impossible_splits_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        split_concepts(twenty(), **options)


def test_a_group_too_large_for_every_split_is_refused_naming_it():
    same = [concept(f"s{i}", "one and the same") for i in range(6)]
    with pytest.raises(ValueError, match=r"near-duplicate concepts s0, s1, s2, s3 \(6 of them\) fit into no split"):
        split_concepts(same, fit=2, select=2, test=2)
    assert len(split_concepts(same, fit=0.4, select=0.3, test=0.3).fit) == 6


def test_a_text_in_two_splits_is_refused_naming_both_places_and_shared_negatives_are_not():
    a, b = concept("a", positives=("x", "shared")), concept("b", positives=("shared", "y"))
    check_splits(Splits(("a", "b"), (), ()), [a, b])
    both = r"'shared' is positives\[1\] of 'a' .split 'fit'. and positives\[0\] of 'b' .split 'test'"
    with pytest.raises(ValueError, match=both):
        check_splits(Splits(("a",), (), ("b",)), [a, b])
    check_splits(Splits(("c00",), (), ("c01",)), twenty())  # all have the same negatives


def test_one_id_for_two_concepts_is_refused():
    with pytest.raises(ValueError, match="'c00' stands for two concepts"):
        split_concepts([*twenty(), concept("c00")], fit=2)


# ------------------------------------------------------------------------------------------------ texts of a concept


def many() -> Concept:
    return concept("m", positives=tuple(f"p{i}" for i in range(11)), negatives=tuple(f"n{i}" for i in range(9)))


def test_held_out_texts_and_vector_texts_are_disjoint_and_complete():
    kept, held = held_out(many(), 3, seed=5)
    assert (len(held.positives), len(held.negatives), len(kept.positives), len(kept.negatives)) == (3, 3, 8, 6)
    assert sorted(kept.positives + held.positives) == sorted(many().positives)
    assert sorted(kept.negatives + held.negatives) == sorted(many().negatives)
    assert held_out(many(), 3, seed=5) == (kept, held)
    assert held_out(many(), 3, seed=6) != (kept, held)
    assert list(kept.positives) == [text for text in many().positives if text in kept.positives]


def test_shared_negatives_are_held_out_alike_in_every_concept():
    other = replace(many(), id="other", positives=("q0", "q1", "q2", "q3"))
    assert held_out(many(), 3, seed=5)[1].negatives == held_out(other, 3, seed=5)[1].negatives


@pytest.mark.parametrize("n", [0, -1, 9, 50])
def test_held_out_leaves_a_text_on_each_side(n):
    with pytest.raises(ValueError, match=r"hold out fewer|ask for at least 1"):
        held_out(many(), n, seed=0)


def test_halves_are_disjoint_and_as_even_as_can_be():
    first, second = halves(many())
    assert (len(first.positives), len(second.positives)) == (6, 5)
    assert (len(first.negatives), len(second.negatives)) == (5, 4)
    assert sorted(first.positives + second.positives) == sorted(many().positives)
    assert not set(first.negatives) & set(second.negatives)
    with pytest.raises(ValueError, match="has one text in positives"):
        halves(concept("x", positives=("only",)))
