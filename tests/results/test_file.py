"""Results files: what goes in comes out, whole, in the same bytes, and what is wrong is named."""

import json
import os

import pytest
from synthetic_rows import make_results, make_run

from steer_bench.files import write_whole
from steer_bench.results.file import Results, load_results, save_results
from steer_bench.results.provenance import ModelInfo, Provenance
from steer_bench.results.rows import COLUMNS, Row, Rows


def row(**changes) -> Row:
    keys = {"task": "concept_steering", "target": "b", "source": "a", "arm": "linear", "concept": "c", "factor": 0.4}
    return Row(**{**keys, "item": "i", "role": "score", "value": 1.25, **changes})


def test_rows_survive_saving_and_loading(tmp_path):
    rows = (row(value=None, reason="parse"), row(item="j", tokens=7, ratings={"fluency": 2.0, "perplexity": 12.5}))
    save_results(tmp_path / "r.json", Results(make_run(), rows))
    loaded = load_results(tmp_path / "r.json")
    assert loaded.rows == rows
    assert loaded.run == make_run()


def test_bytes_do_not_depend_on_the_order_of_rows_or_of_provenance(tmp_path):
    results = make_results(n_concepts=2)
    run = {name: dict(reversed(found.items())) if isinstance(found, dict) else found for name, found in results.run}
    shuffled = Results(Provenance.model_validate(run), tuple(reversed(results.rows)))
    save_results(tmp_path / "a.json", results)
    save_results(tmp_path / "b.json", shuffled)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_saving_what_was_loaded_changes_no_byte(tmp_path):
    save_results(tmp_path / "a.json", make_results(n_concepts=2))
    save_results(tmp_path / "b.json", load_results(tmp_path / "a.json"))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_floats_have_six_significant_digits(tmp_path):
    save_results(tmp_path / "r.json", Results(Provenance(), (row(value=1.123456789, factor=0.1 + 0.2),)))
    loaded = load_results(tmp_path / "r.json").rows[0]
    assert (loaded.value, loaded.factor) == (1.12346, 0.3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused_naming_the_row(value):
    with pytest.raises(ValueError, match=r"value (nan|inf) in task='concept_steering'.*item='i'"):
        row(value=value)
    with pytest.raises(ValueError, match="a factor or rating that is not finite"):
        row(ratings={"perplexity": value})


@pytest.mark.parametrize(("column", "wrong"), [("value", "NaN"), ("factor", "Infinity"), ("ratings.fluency", "NaN")])
def test_a_number_that_is_not_finite_is_refused_in_a_file_too(tmp_path, column, wrong):
    path = tmp_path / "r.json"
    rows = (row(value=None, reason="parse"), row(item="j", ratings={"fluency": 2.0}))
    save_results(path, Results(Provenance(), rows))
    content = json.loads(path.read_text())
    content["rows"][column][1] = float(wrong.replace("Infinity", "inf"))
    path.write_text(json.dumps(content))
    assert wrong in path.read_text()
    with pytest.raises(ValueError, match="item='j'") as caught:
        load_results(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": 90.0}, r"value 90 in task='concept_steering'.*item='i'.*; it lies between 0 and 2"),
        ({"value": -0.5}, "value -0.5 in task='concept_steering'"),
        ({"task": "rule_following", "value": 7.0}, "value 7 in task='rule_following'.*; it lies between 0 and 1"),
        ({"ratings": {"fluency": 90.0}}, "ratings.fluency 90 in .*item='i'.*; it lies between 0 and 2"),
    ],
)
def test_a_value_that_its_measure_cannot_have_is_refused_naming_the_row_and_the_range(tmp_path, changes, message):
    save_results(tmp_path / "r.json", Results(Provenance(), (row(**changes), row(item="j"))))
    with pytest.raises(ValueError, match=message) as caught:
        load_results(tmp_path / "r.json")
    assert str(tmp_path / "r.json") in str(caught.value)


def test_values_at_the_ends_of_the_range_and_of_a_measure_without_one_are_read(tmp_path):
    rows = (
        row(value=2.0, ratings={"fluency": 2.0, "perplexity": 90.0}),
        row(task="rule_following", value=0.0),
        row(task="concept_likelihood", value=-12.0),
        row(task="somebodys_task", value=90.0),
        row(item="j", value=None, reason="parse"),
    )
    save_results(tmp_path / "r.json", Results(Provenance(), rows))
    assert len(load_results(tmp_path / "r.json").rows) == 5


class TestRows:
    rows = Rows.of(
        [
            row(item="i", value=1.0, ratings={"fluency": 2.0}),
            row(item="j", value=None, reason="parse"),
            row(item="k", value=4.0, concept="d", tokens=3),
        ]
    )

    def test_they_are_a_sequence_of_row(self):
        assert len(self.rows) == 3
        assert self.rows[1] == self.rows[-2] == row(item="j", value=None, reason="parse")
        assert list(self.rows[::2]) == [self.rows[0], self.rows[2]]
        assert self.rows[2].tokens == 3
        assert type(self.rows[2].tokens) is int
        assert self.rows[0].ratings == {"fluency": 2.0}
        assert self.rows[2].ratings == {}
        with pytest.raises(IndexError):
            self.rows[3]
        with pytest.raises(IndexError):
            self.rows[-4]
        assert self.rows == tuple(self.rows)
        assert self.rows != tuple(self.rows)[:2]

    def test_a_selection_has_the_rows_that_are_as_asked(self):
        assert [one.item for one in self.rows.where(concept="c")] == ["i", "j"]
        assert [one.item for one in self.rows.where(concept="c", item="j")] == ["j"]
        assert len(self.rows.where(concept="nowhere")) == 0
        assert self.rows.where(concept="d").texts["concept"].present() == ["d"]

    def test_means_are_of_what_is_known_by_equal_keys(self):
        means = self.rows.means(self.rows.numbers["value"], ("arm", "concept"))
        assert list(means) == [("linear", "c", 1.0), ("linear", "d", 4.0)]
        assert list(self.rows.means(self.rows.numbers["value"], ("arm",))) == [("linear", 2.5)]
        assert list(self.rows[1:2].means(self.rows[1:2].numbers["value"], ("arm",))) == []

    def test_without_rows_there_is_nothing(self):
        none = Rows.of([])
        assert len(none) == 0
        assert list(none) == []
        assert none.repeated() is None
        assert none.texts["task"].present() == []


def test_a_measurement_twice_is_refused():
    with pytest.raises(ValueError, match=r"two rows for task='concept_steering'.*item='i'"):
        Results(Provenance(), (row(), row(value=0.5)))


def test_provenance_that_json_can_not_hold_is_refused():
    with pytest.raises(ValueError, match="finite number"):
        ModelInfo(scale=float("nan"))


def test_a_file_of_version_1_is_refused_by_name(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document(version=1, run={"adapters": {"linear": {"kind": "transfer"}}})))
    with pytest.raises(ValueError, match=r"old.json has version 1, this steer-bench reads 3; report the run again"):
        load_results(path)


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    write_whole(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["r.json"]


def document(**changes) -> dict:
    rows = {name: [] for name in COLUMNS}
    return {"schema": "steer-bench-results", "version": 3, "run": {}, "rows": rows, **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is not JSON"),
        ("[1, 2]", "has schema None"),
        (json.dumps(document(schema="other")), "has schema 'other', not 'steer-bench-results'"),
        (json.dumps(document(version=4)), "has version 4, this steer-bench reads 3"),
        (json.dumps(document(run=None)), "lacks 'run' or 'rows'"),
        (
            json.dumps(document(run={"adapters": {}})),
            "run.adapters: Extra inputs are not permitted; report the run again",
        ),
        (json.dumps(document(run={"headline": "1.3"})), "run.headline: Input should be a valid number"),
        (
            json.dumps(document(run={"arms": [{"arm": "x", "adapter": "x", "method": "m"}]})),
            "run.arms.0.kind: Field required",
        ),
        (json.dumps(document(rows={"task": []})), "lacks the column 'target'"),
        (json.dumps(document(rows={**document()["rows"], "extra": []})), "unknown column 'extra'"),
        (json.dumps(document(rows={**document()["rows"], "value": [1.0]})), "column 'value' is not a list as long as"),
        (json.dumps(document(rows={name: ["x"] for name in COLUMNS})), "column 'factor' holds 'x'"),
        (json.dumps(document(rows={**document()["rows"], "ratings.fluency": "x"})), "'ratings.fluency' is not a list"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_results(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    save_results(tmp_path / "r.json", Results(Provenance(), (row(),)))
    whole = (tmp_path / "r.json").read_bytes()
    for length in range(len(whole) - 2):
        (tmp_path / "cut.json").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is not JSON"):
            load_results(tmp_path / "cut.json")
