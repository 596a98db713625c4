import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_augmix.plans.schedule import Schedule


def test_a_schedule_of_nothing_changes_nothing():
    assert not Schedule()
    assert [Schedule().severity(3.0, epoch, None) for epoch in range(4)] == [3.0] * 4
    assert Schedule().arguments() == {}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(warmup_epochs=4), [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]),
        (Schedule(milestones={3: 1, 1: 10}), [4.0, 10.0, 10.0, 1.0, 1.0, 1.0]),
        (Schedule(clean_epochs=2), [4.0, 4.0, 4.0, 4.0, 0.0, 0.0]),
        (Schedule(2, {2: 8, 5: 0}, 1), [2.0, 4.0, 8.0, 8.0, 8.0, 0.0]),
        (Schedule(milestones={0: 0, 2: 3}), [0.0, 0.0, 3.0, 3.0, 3.0, 3.0]),
    ],
)
def test_schedules(schedule, expected):
    assert [schedule.severity(4.0, epoch, 6) for epoch in range(6)] == expected


@given(st.integers(0, 9), st.dictionaries(st.integers(0, 20), st.floats(0, 10)), st.integers(0, 9), st.integers(0, 30))
def test_severities_are_in_range_and_arguments_make_the_schedule_again(warmup, milestones, clean, epoch):
    schedule = Schedule(warmup, milestones, clean)
    assert 0 <= schedule.severity(10.0, epoch, 25) <= 10
    assert Schedule(**schedule.arguments()) == schedule
    assert bool(schedule) == bool(schedule.arguments())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup_epochs": -1}, "`warmup_epochs`.*at least 0.*got -1"),
        ({"warmup_epochs": 1.5}, "`warmup_epochs`.*got 1.5"),
        ({"clean_epochs": True}, "`clean_epochs`.*got True"),
        ({"milestones": [3, 5]}, r"`milestones` to be a mapping .*such as \{30: 5\}; got \[3, 5\]"),
        ({"milestones": {-1: 5}}, "`milestones`.*got -1.*from 0"),
        ({"milestones": {"3": 5}}, "`milestones`.*got '3'"),
        ({"milestones": {3: 11}}, "`milestones`.*got 11"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Schedule(**arguments)
