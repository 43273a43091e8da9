"""One store of finished answers, shared by threads and processes. Run: python -m pytest tests/test_records.py"""

import json
import logging
import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from steer_bench.records import Records, read_only, row_checksum, use_wal

RATING = {"ratings": {"concept": 2.0}, "explanation": {"concept": "ü \x00"}, "raw": {"concept": ["a", "b"]}}

OLD_TABLE = """CREATE TABLE judgements (key TEXT PRIMARY KEY, judge TEXT NOT NULL, "case" TEXT NOT NULL, ratings TEXT NOT NULL,
explanation TEXT NOT NULL, raw TEXT NOT NULL, created TEXT NOT NULL, digest TEXT NOT NULL)"""


def old_file(path: Path, keys: str) -> None:
    """A records file as version 0.1 left it: a reply, and ratings in a table of their own."""
    with Records(path) as records:
        records.add({"reply": ["text", 2.5, 3]})
    with sqlite3.connect(path) as db:
        db.execute(OLD_TABLE)
        for key in keys:
            rest = {"raw": {"concept": [f"{key} said", "Rating: [[2]]"]}, "flags": ["rating_in_reply"]}
            texts = [json.dumps(part) for part in ({"reply": key}, {"concept": 2.0}, {"concept": "why"}, rest)]
            row = (key, "fake", *texts, "2026-01-01", row_checksum(key, *texts))
            db.execute("INSERT INTO judgements VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    db.close()


def test_what_is_recorded_comes_back_equal_and_is_never_rewritten(tmp_path: Path) -> None:
    with Records(tmp_path / "new" / "r.sqlite") as records:  # the folder is made
        records.add({"k": RATING, "reply": ["text", None, 3]})
        records.add({"k": {"ratings": {"concept": 0.0}}})
    with Records(tmp_path / "new" / "r.sqlite") as records:
        assert records.get(["k", "other", "reply"]) == {"k": RATING, "reply": ["text", None, 3]}
        assert len(records) == 2


def test_ratings_of_a_run_begun_before_are_taken_over_once_under_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    old_file(path, "ab")
    for _ in range(2):
        with Records(path) as records:
            found = records.get(["a", "b", "reply"])
            assert found["a"] == {
                "ratings": {"concept": 2.0}, "explanation": {"concept": "why"},
                "raw": {"concept": ["a said", "Rating: [[2]]"]}, "flags": ["rating_in_reply"],
            }  # fmt: skip
            assert found["b"]["raw"]["concept"][0] == "b said"
            assert found["reply"] == ["text", 2.5, 3]
            assert len(records) == 3
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("records",)]


def test_an_older_rating_that_was_changed_on_disk_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r.sqlite"
    old_file(path, "ab")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE judgements SET ratings = '{\"concept\": 1.0}' WHERE key = 'a'")
    with caplog.at_level(logging.WARNING), Records(path) as records:
        assert set(records.get("ab")) == {"b"}
    assert "1 ratings of an older version are damaged" in caplog.text


def test_an_older_table_of_another_form_is_refused_by_name_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE judgements (key TEXT, answer TEXT)")
        db.execute("INSERT INTO judgements VALUES ('a', 'paid for')")
    with pytest.raises(ValueError, match=r"r\.sqlite: damaged, or not a records file of this steer-bench"):
        Records(path)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT * FROM judgements").fetchall() == [("a", "paid for")]


def test_two_processes_take_over_older_ratings_between_them(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    old_file(path, "abcdefgh")
    code = "import sys; from steer_bench.records import Records; print(len(Records(sys.argv[1])))"
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) for _ in "12"
    ]
    assert [child.communicate(timeout=300)[0].strip() for child in children] == ["9", "9"]


def test_threads_share_records() -> None:
    with Records() as records:

        def write(start: int) -> None:
            for i in range(start, start + 100):
                records.add({f"k{i}": RATING})
                assert records.get([f"k{i}"]) == {f"k{i}": RATING}

        threads = [threading.Thread(target=write, args=(50 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(records.get([f"k{i}" for i in range(250)])) == 250


def test_processes_share_a_file(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom steer_bench.records import Records\nrecords = Records(sys.argv[1])\n"
        "for i in range(200): records.add({f'{sys.argv[2]}-{i}': {'ratings': {'concept': 1.0}}})\n"
    )
    path = tmp_path / "r.sqlite"
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [child.wait(300) for child in children] == [0, 0]
    with Records(path) as records:
        assert len(records) == 400


def test_opening_waits_for_a_process_that_holds_the_new_file(tmp_path: Path) -> None:
    """Two processes that open a new file at once: the switch to WAL mode does not wait by itself, as all else does."""
    path = tmp_path / "r.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN EXCLUSIVE")
    direct = sqlite3.connect(path, timeout=0.2, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        direct.execute("PRAGMA journal_mode=WAL")
    direct.close()
    release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    release.start()
    with Records(path) as records:
        records.add({"k": RATING})
        assert len(records) == 1
    release.join()
    other.close()


def test_a_switch_to_wal_that_fails_at_once_is_tried_again() -> None:
    class Busy:
        left = 3

        def execute(self, statement: str) -> None:
            assert statement == "PRAGMA journal_mode=WAL"
            self.left -= 1
            if self.left:
                raise sqlite3.OperationalError("database is locked")

    busy: Any = Busy()
    use_wal(busy)
    assert busy.left == 0
    busy = Busy()
    with pytest.raises(sqlite3.OperationalError):
        use_wal(busy, patience=-1)


def test_records_live_beside_other_tables(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE replies (x)")
    with Records(path) as records:
        records.add({"k": RATING})
        assert records.get(["k"])


@pytest.mark.parametrize("column", ["value", "digest"])
def test_a_record_that_was_changed_on_disk_is_not_believed_and_can_be_written_again(
    tmp_path: Path, column: str
) -> None:
    path = tmp_path / "r.sqlite"
    with Records(path) as records:
        records.add({"k0": RATING, "k1": RATING})
    with sqlite3.connect(path) as db:  # one character of one row: 2.0 becomes 1.0, say
        ((text,),) = db.execute(f"SELECT {column} FROM records WHERE rowid = 2")
        changed = text.replace("2", "1", 1) if "2" in text else text[:-1] + " "
        db.execute(f"UPDATE records SET {column} = ? WHERE rowid = 2", (changed,))
    assert read_only(path).get(["k0", "k1"]) == {"k0": RATING}
    with Records(path) as records:
        assert records.get(["k0", "k1"]) == {"k0": RATING}
        records.add({"k1": RATING})
        assert records.get(["k0", "k1"]) == {"k0": RATING, "k1": RATING}


def test_text_that_is_no_text_is_damage_for_a_reader_too(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Records(path) as records:
        records.add({"k0": RATING, "k1": RATING})
    with sqlite3.connect(path) as db:
        db.execute("UPDATE records SET value = CAST(x'7bff7d' AS TEXT) WHERE key = 'k1'")
    assert read_only(path).get(["k0", "k1"]) == {"k0": RATING}


def test_a_flipped_bit_anywhere_in_a_file_gives_an_error_or_leaves_the_record_out(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Records(path) as records:
        for i in range(24):
            records.add({f"k{i}": RATING})
    whole, rng, left_out, refused = path.read_bytes(), random.Random(0), 0, 0
    for place in rng.sample(range(len(whole)), 100):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            with Records(path) as records:
                found = records.get([f"k{i}" for i in range(24)])
        except (ValueError, sqlite3.OperationalError):
            refused += 1
        else:
            assert all(value == RATING for value in found.values())
            left_out += len(found) < 24
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
    assert refused
    assert left_out


def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    path.write_text("not a database, certainly not one " * 100)
    with pytest.raises(ValueError, match=r"r\.sqlite"):
        Records(path)
