import gc
import weakref

import pytest
from torch.utils.data import dataloader


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
