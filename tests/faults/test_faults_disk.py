"""A full disk: exit 4 with the place and the free bytes, what is saved stays valid, and the run goes on when there is room."""

import contextlib
import os
import subprocess
from collections import Counter

import pytest


def _goes_on(trial, undisturbed):
    code, said = trial.run()
    assert code == 0, said
    assert trial.reports() == undisturbed.reports()
    assert trial.records() == undisturbed.records()


@pytest.mark.parametrize("limit", [9_000, pytest.param(90_000, marks=pytest.mark.slow)])
def test_a_file_that_can_not_grow_stops_the_run_with_exit_4(limit, trial, undisturbed):
    code, said = trial.run(limit=limit)
    assert code == 4, said
    assert "Traceback" not in said
    assert str(trial.folder) in said
    assert "continue with: steer-bench run" in said
    assert not (trial.folder / "results.json").exists()
    _goes_on(trial, undisturbed)


@pytest.fixture
def small_disk(trial):
    """The run folder on a disk of its own of 4 MB."""
    keep = trial.folder.with_name("keep")
    trial.folder.rename(keep)
    trial.folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(trial.folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this machine lets us mount no disk; the limit on file sizes is tried above")
    try:
        subprocess.run(["cp", "-r", f"{keep}/.", str(trial.folder)], check=True)
        yield trial
    finally:
        subprocess.run(["umount", "-l", str(trial.folder)], check=True)


@pytest.mark.parametrize(
    "room", [0, pytest.param(60_000, marks=pytest.mark.slow), pytest.param(300_000, marks=pytest.mark.slow)]
)
def test_a_full_disk_stops_the_run_with_exit_4_and_freeing_it_lets_it_go_on(room, small_disk, undisturbed):
    filler = small_disk.folder / "filler"
    file = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(file, b"x" * 4096)
    with contextlib.suppress(OSError):
        os.close(file)
    with filler.open("r+b") as stream:
        stream.truncate(max(0, filler.stat().st_size - room))
    code, said = small_disk.run()
    assert code == 4, said
    assert "disk full" in said
    assert "bytes free there" in said
    assert str(small_disk.folder) in said
    kept = small_disk.records() if (small_disk.folder / "records.sqlite").is_file() and room else {}
    assert kept.items() <= undisturbed.records().items()
    filler.unlink()
    _goes_on(small_disk, undisturbed)
    twice = {key: n for key, n in Counter(small_disk.noted("computed")).items() if n > 1}
    assert len(twice) <= 8  # the batch that found no room
    assert not twice.keys() & kept.keys()
