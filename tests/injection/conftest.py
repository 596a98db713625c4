import gc
import weakref

import pytest
from torch.utils.data import dataloader

from lightning_augmix import AugMixCallback
from lightning_augmix._errors import PlacementError


@pytest.fixture(autouse=True)
def _workers_end(monkeypatch):
    """Ends the workers that a failed fit left. Where the garbage collector does it, torch waits 5 s for each."""
    kind = dataloader._MultiProcessingDataLoaderIter
    start = kind.__init__
    iterators = weakref.WeakSet()

    def start_and_note(self, *arguments):
        iterators.add(self)
        start(self, *arguments)

    monkeypatch.setattr(kind, "__init__", start_and_note)
    gc.disable()
    yield
    for iterator in list(iterators):
        iterator._shutdown_workers()
    gc.enable()


@pytest.fixture(params=["workers", "device"])
def on(request, monkeypatch):
    """Where `AugMixCallback` augments images if it is not told: the tests that use this run with both.

    What is marked `refused_on_device` has to be refused there.
    """
    if request.param == "device" and request.node.get_closest_marker("refused_on_device"):
        request.applymarker(pytest.mark.xfail(raises=PlacementError, strict=True))
    monkeypatch.setitem(AugMixCallback.__init__.__kwdefaults__, "on", request.param)
    return request.param
