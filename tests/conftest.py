"""What every test needs: no network, few threads, and a clear reason where a test can not run here."""

import os
import signal
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models are faster on one thread; `real` tests take two
# Threads that wait give their core away: spinning, two threads on two cores take ten times as long as soon as anything else runs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")

import pytest
from filelock import FileLock

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # started in the background: the commands we start would not hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (
    "experiment/test_offline",
    "harness/test_ranks",
    "faults/",
    "experiment/test_experiment",
    "experiment/",
    "cli/",
    "harness/",
)
"""Files that take longest; they are started first, so that neither worker is left alone with one."""


def pytest_collection_modifyitems(items):
    """Put the longest files first."""
    items.sort(
        key=lambda item: next((i for i, name in enumerate(LONGEST) if f"tests/{name}" in item.nodeid), len(LONGEST))
    )


def pytest_runtest_setup(item):
    """Skip tests of the offline models where a wheel is missing, and tests of a GPU where there is none."""
    if item.get_closest_marker("real"):
        from steer_bench.models.load import check_model
        from steer_bench.models.offline import OFFLINE_MODELS

        for name in OFFLINE_MODELS:
            try:
                check_model(name)
            except ValueError as error:
                pytest.skip(str(error))
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, and torch finds none")


@pytest.fixture(autouse=True)
def _threads(request):
    """Two threads for a real model, one for everything else."""
    if not request.node.get_closest_marker("real"):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _no_description_of_the_machine():
    from children import describe_no_machine

    describe_no_machine()


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Make a folder once per test run, whichever worker comes first: `once(name, make)`, where make(folder) fills it."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared

    def folder(name, make):
        made = shared / "once" / name
        made.mkdir(parents=True, exist_ok=True)
        with FileLock(made.with_suffix(".lock")):
            if not made.with_suffix(".done").exists():
                make(made)
                made.with_suffix(".done").touch()
        return made

    return folder


@pytest.fixture(scope="session")
def small_run(once) -> Path:
    """The folder of a finished run on two tiny models. Copy it before you change it (small_run.copy_run)."""
    from children import command
    from small_run import small_experiment

    from steer_bench.models.load import check_model

    try:
        check_model("minilm-l6-v2")
    except ValueError as error:
        pytest.skip(str(error))

    def make(folder):
        experiment, run = small_experiment(folder), folder / "run"
        for stage in ("extract", "fit", "dose", "run"):
            no_figures = ["--no-figures"] if stage == "run" else []
            done = command("-m", "steer_bench", stage, str(experiment), "--out", str(run), *no_figures)
            assert done.returncode == 0, done.stderr
            if stage == "dose":  # what is recorded is then what the evaluation asked
                for file in run.glob("records.sqlite*"):
                    file.unlink()

    return once("small", make) / "run"
