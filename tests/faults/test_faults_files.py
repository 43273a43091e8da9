"""Files that are cut, changed, renamed or not what they say: a clear error or what was whole, never a number from them."""

import ast
import shutil
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest
from steered import make_arms

import steer_bench
from steer_bench.records import Records
from steer_bench.vectors.arms import Arm, Arms
from steer_bench.vectors.store import VectorStore
from steer_bench.vectors.tensor_file import load_card, load_tensors, save_tensors

VALUES = [[f"key-{i}-{j}" for j in range(3)] for i in range(4)]


@pytest.fixture
def written(tmp_path):
    """A records file in use: four batches, all still in the write-ahead log; and its files as a kill would leave them."""
    path = tmp_path / "records.sqlite"
    with sqlite3.connect(path) as db:  # the smallest pages: fewer lengths to try, all of them tried
        db.execute("PRAGMA page_size = 512")
        db.execute("VACUUM")
    db.close()
    records = Records(path)
    sizes = []
    for batch in VALUES:
        records.add({key: [len(key), True] for key in batch})
        sizes.append((tmp_path / "records.sqlite-wal").stat().st_size)
    left = {file.name: file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith("-shm")}
    records.close()
    return left, sizes


def test_cut_at_every_byte_of_its_last_record_a_file_still_holds_all_others(written, tmp_path):
    left, sizes = written
    whole, tried = left["records.sqlite-wal"], 0
    for length in range(sizes[-2], sizes[-1]):
        folder = tmp_path / "cut"
        folder.mkdir()
        (folder / "records.sqlite").write_bytes(left["records.sqlite"])
        (folder / "records.sqlite-wal").write_bytes(whole[:length])
        records = Records(folder / "records.sqlite")
        kept = records.get(key for batch in VALUES for key in batch)
        records.close()
        assert kept == {key: [len(key), True] for batch in VALUES[:-1] for key in batch}
        shutil.rmtree(folder)
        tried += 1
    assert tried > 1000
    print(f"write-ahead log cut at {tried} lengths: 0 earlier records lost, 0 torn ones read")


def test_a_flipped_bit_anywhere_in_a_records_file_gives_an_error_or_leaves_the_record_out(tmp_path):
    path = tmp_path / "records.sqlite"
    records = Records(path)
    for batch in VALUES:
        records.add({key: [-1.5, True] for key in batch})
    records.close()
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = left_out = 0
    for place in rng.choice(len(whole), 400, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            opened = Records(path)
            found = opened.get(key for batch in VALUES for key in batch)
            opened.close()
        except ValueError as error:
            assert "mv " in str(error)  # noqa: PT017 (says how to go on)
            refused += 1
        except sqlite3.OperationalError:
            refused += 1
        else:
            assert all(value == [-1.5, True] for value in found.values())
            left_out += len(found) < 12
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
    assert refused
    assert left_out


def test_every_digit_of_a_record_that_is_changed_on_disk_is_found(tmp_path):
    path = tmp_path / "records.sqlite"
    records = Records(path)
    records.add({"a": [-12.375, True], "b": [-3.5, False]})
    records.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE records SET value = '[-11.375, true]' WHERE key = 'a'")
    again = Records(path)
    assert again.get(["a", "b"]) == {"b": [-3.5, False]}
    again.add({"a": [-12.375, True]})  # computed again, it takes the place of the damaged one
    assert again.get(["a"]) == {"a": [-12.375, True]}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", marks=pytest.mark.slow),
        b"not a database, but long enough to be read as one" * 9,
        pytest.param(b"SQLite format 3\0" + b"\xff" * 5000, marks=pytest.mark.slow),
    ],
)
def test_a_records_file_that_is_none_stops_the_run_with_the_way_on(content, trial, undisturbed):
    (trial.folder / "records.sqlite").write_bytes(content)
    code, said = trial.run()
    if not content:  # an empty file is an empty database
        assert code == 0, said
        return
    assert code == 4
    assert "records.sqlite: damaged" in said
    assert "mv " in said
    (trial.folder / "records.sqlite").rename(trial.folder / "records.sqlite.damaged")
    code, said = trial.run()
    assert code == 0, said
    assert trial.reports() == undisturbed.reports()


def _seal_broken(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _not_finite(value):
    def change(path):
        data = bytearray(path.read_bytes())
        data[-4:] = struct.pack("<f", value)
        path.write_bytes(data)

    return change


def _layer_changed(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(b'\\"layer\\": 1', b'\\"layer\\": 2'))


def _pickled(path):
    import torch

    torch.save({"v": torch.ones(3)}, path)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "more": lambda path: path.write_bytes(path.read_bytes() + b"\0" * 8),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "a bit": _seal_broken,
    "NaN": _not_finite(float("nan")),
    "Inf": _not_finite(float("inf")),
    "card": _layer_changed,
    "pickle": _pickled,
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_vector_arms_or_map_file_is_refused_by_name(damage, tmp_path):
    arms = make_arms()
    path = tmp_path / "arms.safetensors"
    arms.save(path)
    DAMAGE[damage](path)
    with pytest.raises(ValueError, match=r"arms\.safetensors"):
        Arms.load(path)
    vectors = {"sea": np.ones(4, dtype=np.float32), "law": np.arange(4, dtype=np.float32)}
    VectorStore("m", 1, vectors, 2.0).save(tmp_path / "vectors.safetensors")
    save_tensors(tmp_path / "map.safetensors", {"weight": np.ones((3, 3))}, {"kind": "map", "layer": 1})
    for name, load in (("vectors", VectorStore.load), ("map", load_tensors)):
        DAMAGE[damage](tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match=rf"{name}\.safetensors"):
            load(tmp_path / f"{name}.safetensors")


def test_a_file_of_another_kind_or_width_under_the_right_name_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    VectorStore("m", 1, {"sea": np.ones(4, dtype=np.float32)}, 2.0).save(path)
    with pytest.raises(ValueError, match="not the arms of a target"):
        Arms.load(path)
    make_arms().save(path)
    with pytest.raises(ValueError, match="not the vectors of a model"):
        VectorStore.load(path)
    card = {"kind": "arms", "target": "t", "layer": 1, "scale": 1.0, "d_model": 4, "arms": []}
    narrow = {"native||sea": np.ones(4, dtype=np.float32), "native||law": np.ones(3, dtype=np.float32)}
    save_tensors(tmp_path / "narrow.safetensors", narrow, card)
    with pytest.raises(
        ValueError, match=r"narrow.safetensors: vector 'native\|\|law' has shape \(3,\), .* d_model is 4"
    ):
        Arms.load(tmp_path / "narrow.safetensors")
    (tmp_path / "narrow.safetensors").unlink()
    for value in (np.nan, np.inf, 1e39):
        with pytest.raises(ValueError, match="not finite"):
            Arms("t", 1, 1.0, {(Arm("native"), "sea"): np.array([value, 1.0])}).save(path)
    assert load_card(path)["kind"] == "arms"  # what was there is whole
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("which", ["arms", "vectors"])
@pytest.mark.parametrize("damage", ["cut", "a bit", "card"])
def test_a_run_whose_vectors_were_damaged_stops_before_any_number(which, damage, trial):
    path = next((trial.folder / which).glob("*.safetensors"))
    DAMAGE["card" if damage == "card" else damage](path)
    if damage == "card":
        path.write_bytes(path.read_bytes().replace(b'\\"scale\\": ', b'\\"scale\\": 1'))
    code, said = trial.run()
    assert code == 4, said
    assert path.name in said
    assert "continue with" in said
    assert not trial.noted("computed")


def test_nothing_of_ours_loads_a_pickle_but_convert_and_no_yaml_is_loaded_unsafely():
    """Read from the code itself, so that a new module can not."""
    package, seen = Path(steer_bench.__file__).parent, []
    for file in sorted(package.rglob("*.py")):
        is_convert = package / "vectors" / "formats" in file.parents
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            unsafe = {name.partition(".")[0] for name in names} & {"pickle", "dill", "joblib", "shelve", "marshal"}
            assert is_convert or not unsafe, f"{file}:{node.lineno} imports {unsafe}"
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            call = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if call == "torch.load":
                assert (is_convert, given["weights_only"]) == (True, "True"), f"{file}:{node.lineno}"
            elif call == "np.load":
                assert given["allow_pickle"] == "False", f"{file}:{node.lineno}"
            elif call.startswith("yaml.") and call.endswith(("load", "load_all")) and "safe" not in call:
                loader = given["Loader"]
                assert f"class {loader}(yaml.SafeLoader)" in file.read_text(), f"{file}:{node.lineno}"
            else:
                continue
            seen.append(call)
    assert {"torch.load", "np.load", "yaml.load"} <= set(seen)
