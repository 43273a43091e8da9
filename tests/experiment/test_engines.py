"""The Ray engine against this process: the same page, nothing lost and nothing done twice when a worker or the head is killed."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from importlib.util import find_spec
from pathlib import Path

import pytest
from small_run import ROOT, copy_run, records, small_experiment

from steer_bench.cli.engines import check_engine, open_engine
from steer_bench.experiment import run as runs
from steer_bench.experiment.engines import STAGES

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra [ray]: pip install 'steer-bench[ray]'")
SLOWED = """
import os
from steer_bench.records import Records

def add(self, values, _add=Records.add):
    import time
    if any("ratings" in value for value in values.values()):  # the judge's
        return _add(self, values)
    time.sleep(float(os.environ["STEER_TEST_SLOW"]))
    _add(self, values)
    with open(os.environ["STEER_TEST_LOG"], "a") as log:
        log.write("".join(key + chr(10) for key in values))

Records.add = add
"""


@pytest.fixture(scope="module")
def fitted(small_run, tmp_path_factory):
    cluster = {"workers": 2, "shards": 6, "evaluate": {"num_cpus": 1}}
    return runs.open_run(str(copy_run(small_run, tmp_path_factory.mktemp("fitted") / "run", cluster=cluster)))


@pytest.fixture(scope="module")
def alone(small_run):
    return runs.open_run(str(small_run))


def again(run, to):
    return runs.open_run(str(copy_run(run.folder.path, to)))


class Driver:
    """`steer-bench run RUN --engine ray` in a process of its own, with every record that any of its workers adds written down."""

    def __init__(self, folder, run, slow=0.0):
        (folder / "site").mkdir(exist_ok=True)
        (folder / "site" / "sitecustomize.py").write_text(SLOWED)
        self.mark, self.log = f"STEER_TEST={uuid.uuid4()}", folder / "added.txt"
        paths = [folder / "site", ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {
            **os.environ, "STEER_TEST": self.mark.split("=")[1], "STEER_TEST_LOG": str(self.log), "STEER_TEST_SLOW": str(slow),
            "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1", "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        }  # fmt: skip
        words = [sys.executable, "-m", "steer_bench", "run", str(run.folder), "--no-figures", "--engine", "ray"]
        self.output = (folder / f"{self.mark}.txt").open("w+")
        self.process = subprocess.Popen(words, stdout=self.output, stderr=subprocess.STDOUT, env=env)
        self.shards = run.folder.path / "shards"

    def processes(self, name):
        """Processes of this driver's cluster whose command line holds `name`."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command, environ = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            except OSError:
                continue
            if self.mark.encode() in environ and name in command.decode(errors="replace").replace("\0", " "):
                found.append(int(folder.name))
        return found

    def wait_for_records(self, n):
        """Until n answers are recorded, long before all is done."""
        end = time.monotonic() + 300
        while time.monotonic() < end and self.process.poll() is None:
            if self.log.is_file() and self.log.read_text().count("\n") >= n:
                return
            time.sleep(0.02)
        raise AssertionError(f"no records: {self.said()}")

    def said(self):
        self.output.seek(0)
        return self.output.read()[-3000:]

    def end(self):
        """Exit code, once it has ended; whatever is left of its cluster is ended too."""
        try:
            return self.process.wait(timeout=300)
        finally:
            for pid in self.processes(""):
                os.kill(pid, signal.SIGKILL)

    def added(self):
        return self.log.read_text().split()


def page(run):
    return (run.folder.path / "leaderboard.md").read_bytes()


@needs_ray
@pytest.mark.slow
def test_head_killed_then_a_worker_killed_the_page_is_that_of_one_process_and_nothing_is_done_twice(
    fitted, alone, tmp_path
):
    run, all_records = again(fitted, tmp_path / "run"), records(alone.folder.path)
    driver = Driver(tmp_path, run, slow=0.1)
    driver.wait_for_records(8)
    head = [*driver.processes("gcs_server"), *driver.processes("raylet/raylet")]
    assert len(head) >= 2
    for pid in head:
        os.kill(pid, signal.SIGKILL)
    assert driver.end() != 0
    left = len(driver.added())
    assert 0 < left < len(all_records)
    saved = sum(_count(file) for file in driver.shards.rglob("*.sqlite"))
    assert saved >= left  # all that was written down is on disk

    driver = Driver(tmp_path, run, slow=0.1)  # the same command
    driver.wait_for_records(left + 8)
    workers = driver.processes("ray::measure")
    assert workers, driver.said()
    os.kill(workers[0], signal.SIGKILL)
    assert driver.end() == 0, driver.said()
    assert page(run) == page(alone)
    assert records(run.folder.path) == all_records
    added = driver.added()
    assert len(added) == len(set(added))  # no finished answer was computed again
    assert len(all_records) - (saved - left) <= len(added) <= len(all_records)


def _count(file):
    """Records of a shard's file; none where the process was killed before it had made the table."""
    with sqlite3.connect(file) as database:
        made = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'records'").fetchone()[0]
        return database.execute("SELECT count(*) FROM records").fetchone()[0] if made else 0


def test_without_ray_the_engine_says_what_to_install(monkeypatch):
    monkeypatch.setattr("steer_bench.cli.engines.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'steer-bench\[ray\]'"):
        check_engine("ray")


def test_without_ray_the_command_is_exit_2(tmp_path):
    code = (
        "import sys; sys.modules['ray'] = None; import steer_bench.cli.engines as engines; engines.find_spec = lambda name: None;"
        f"sys.argv = ['steer-bench', 'run', 'quickstart', '--out', {str(tmp_path / 'run')!r}, '--engine', 'ray'];"
        "from steer_bench.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "pip install 'steer-bench[ray]'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_unknown_engine_and_an_address_without_ray_are_refused():
    with pytest.raises(ValueError, match="there are in-process, ray"):
        check_engine("spark")
    with pytest.raises(ValueError, match="only --engine ray"):
        check_engine("in-process", "auto")
    with open_engine("in-process") as engine:
        assert engine is STAGES


def test_another_cluster_is_the_same_run(fitted, tmp_path):
    """What a run spreads over changes no number, so it may change between two starts."""
    run = again(fitted, tmp_path / "run")
    other = small_experiment(tmp_path, cluster={"workers": 7})
    text = other.read_text()
    for config, name in zip(run.experiment.models, ("llama", "gemma"), strict=True):
        text = text.replace(str(tmp_path / name), config.name)
    other.write_text(text)
    assert runs.open_run(str(other), run.folder.path).experiment.cluster.workers == 7
