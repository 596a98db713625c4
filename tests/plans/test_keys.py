import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_augmix.plans.keys import GeneratorKeys, RunKeys, fold_in


def test_combined_keys_depend_on_every_integer_and_their_order():
    keys = {fold_in(a, b, c) for a in range(-5, 5) for b in range(10) for c in range(10)}
    assert len(keys) == 1000
    assert all(0 <= key < 2**64 for key in keys)
    assert fold_in(1) != fold_in(1, 0) != fold_in(0, 1)


def test_combined_keys_are_spread_evenly():
    keys = np.array([fold_in(3, epoch, index) for epoch in range(20) for index in range(1000)], np.uint64)
    assert stats.kstest(keys / 2.0**64, "uniform").pvalue > 1e-4
    bits = np.unpackbits(keys.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert abs(bits - 0.5).max() < 5 * 0.5 / len(keys) ** 0.5


def test_generator_keys_follow_their_generator():
    draws = [GeneratorKeys(torch.Generator().manual_seed(1)).draw() for _ in range(2)]
    assert draws[0] == draws[1]
    torch.manual_seed(1)
    assert GeneratorKeys().draw() == draws[0] != GeneratorKeys().draw()


def test_without_a_seed_ranks_with_the_same_generator_differ():
    def draw(rank):
        torch.manual_seed(0)
        return RunKeys(None, rank).draw()

    assert draw(0) == draw(0) != draw(1)


def test_with_a_seed_keys_depend_on_seed_epoch_index_and_count_alone():
    def draw(seed=1, epoch=2, index=3, rank=0, count=1):
        keys = RunKeys(seed, rank)
        keys.epoch = epoch
        with keys.sample(index):
            return [keys.draw() for _ in range(count)][-1]

    assert draw() == draw(rank=5)
    assert len({draw(), draw(seed=2), draw(epoch=3), draw(index=4), draw(count=2)}) == 5


def test_with_a_seed_a_draw_outside_a_sample_or_in_another_thread_is_an_error():
    keys = RunKeys(1, 0)
    with pytest.raises(RuntimeError, match="outside the training dataset"):
        keys.draw()
    errors = []

    def draw():
        try:
            keys.draw()
        except RuntimeError as error:
            errors.append(error)

    with keys.sample(3):
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
    assert len(errors) == 1


def test_epoch_and_use_are_seen_through_copies_that_workers_get():
    keys = RunKeys(3, 0)
    copied = pickle.loads(ForkingPickler.dumps(keys))  # what a spawned process is given
    keys.epoch = 7
    assert copied.epoch == 7
    assert not keys.audit.used
    with copied.sample(0):
        copied.draw()
    assert keys.audit.used
    keys.audit.used = False
    assert not copied.audit.used


def test_a_sample_counts_the_keys_that_are_drawn_for_it():
    keys, others = RunKeys(None, 0), GeneratorKeys()
    assert not keys.audit.is_making_sample()
    with keys.sample("any index") as sample:
        assert keys.audit.is_making_sample()
        assert not others.audit.is_making_sample()
        for source in (keys, others, keys):
            source.draw()
    others.draw()
    assert (sample.drawn, sample.foreign) == (2, 1)
    assert (keys.audit.drawn, others.audit.drawn) == (2, 2)


def test_loaders_of_a_run_share_epoch_and_use_but_no_keys():
    keys = RunKeys(1, 0)
    loaders = [keys.for_loader(position) for position in range(3)]
    keys.epoch = 4
    drawn = []
    for source in (keys, *loaders):
        with source.sample(7):
            drawn.append(source.draw())
    assert {source.epoch for source in loaders} == {4}
    assert keys.audit.used
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_deep_copies_stay_in_the_run():
    keys = RunKeys(1, 0)
    assert copy.deepcopy({"keys": keys})["keys"] is keys


@pytest.mark.parametrize("index", [[0, 1], "cat", 1.5, None])
def test_with_a_seed_indices_that_are_no_integers_are_refused(index):
    with pytest.raises(TypeError, match="must be an integer"), RunKeys(1, 0).sample(index):
        pass


def test_keys_drawn_first_in_inference_mode_are_drawn_outside_of_it_too():
    def draw(_):
        keys = GeneratorKeys()
        with torch.inference_mode():
            first = keys.draw()
        return first, keys.draw()

    with ThreadPoolExecutor(1) as pool:
        [(first, second)] = pool.map(draw, [None])
    assert first != second
