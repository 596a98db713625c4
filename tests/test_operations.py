import pickle

import pytest

from lightning_augmix.operations import OPERATIONS, Operation, augmentation_sets, resolve_operations

SAFE = (
    "autocontrast",
    "equalize",
    "posterize",
    "solarize",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
ENHANCEMENTS = ("color", "contrast", "brightness", "sharpness")
SETS = {
    "all": SAFE + ENHANCEMENTS,
    "safe": SAFE,
    "original": SAFE + tuple(f"{name}_original" for name in ("color", "contrast", "brightness", "sharpness")),
    "photometric": ("autocontrast", "equalize", "posterize", "solarize", *ENHANCEMENTS),
}


def test_the_sets_are_those_of_the_method():
    assert set(augmentation_sets) == set(SETS)
    for name, operations in augmentation_sets.items():
        assert sorted(operation.name for operation in operations) == sorted(SETS[name])


def test_the_sets_cannot_be_changed():
    with pytest.raises(TypeError):
        augmentation_sets["mine"] = ()
    with pytest.raises(AttributeError):
        OPERATIONS["rotate"].scale = 90


@pytest.mark.parametrize("given", [["rotate", "color"], ("rotate", "color"), [OPERATIONS["rotate"], "color"]])
def test_lists_of_names_and_records_are_taken(given):
    assert [operation.name for operation in resolve_operations(given)] == ["rotate", "color"]


def test_a_sets_operations_stand_for_the_set():
    assert resolve_operations(augmentation_sets["safe"]) == resolve_operations("safe")


def test_records_survive_pickling():
    assert resolve_operations(pickle.loads(pickle.dumps(augmentation_sets["all"]))) == augmentation_sets["all"]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("rotat", ValueError, "'rotat'"),
        ("rotate", ValueError, r"write \['rotate'\]"),
        ([], ValueError, "empty"),
        (["rotate", "twirl"], ValueError, "'twirl'"),
        ([Operation("rotate", scale=90)], ValueError, "scale=90"),
        ([3], TypeError, "got 3"),
        (7, TypeError, "got 7"),
        (None, TypeError, "None"),
    ],
)
def test_errors_name_the_argument_what_is_permitted_and_what_was_given(given, error, words):
    with pytest.raises(error, match=rf"`augmentation_set` to be one of all, safe.*{words}"):
        resolve_operations(given)
