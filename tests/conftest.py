import gc
import multiprocessing
import os

# Tests run side by side: threads that wait for one another would take longer.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or it asks the network for its newest release when it is imported

# Tests run side by side, with worker processes: what takes long is no failure.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

# Processes forked by a server find imported what each would import for itself, for many seconds.
multiprocessing.set_forkserver_preload(["lightning.pytorch"])


def pytest_configure(config):
    if not config.getoption("numprocesses", None):  # the process that starts the others imports no torch
        # Lightning's advice on toy runs: few workers, no validation loader, short epochs.
        config.addinivalue_line("filterwarnings", "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # what was imported is neither looked through again nor, in forked workers, copied for it


@pytest.fixture(autouse=True, scope="session")
def _compiled():
    from lightning_augmix.engines import numba_engine

    numba_engine.warm_up()


@pytest.fixture
def full_disk():
    """Files of this process can hold one byte; Python ignores the signal, so that writing raises."""
    resource = pytest.importorskip("resource")  # Windows has none
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
