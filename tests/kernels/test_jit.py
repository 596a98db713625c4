"""Machine code on disk: what is wrong with it costs a compilation and a warning, and nothing else."""

import errno
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numba
import pytest

from lightning_augmix.kernels import jit


def plus_one(x):
    return x + 1


@pytest.fixture
def compile_anew(tmp_path, monkeypatch):
    """Compiles the function, or loads it, as a new process would."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def run():
        monkeypatch.setattr(jit, "_warned", [])
        function = jit.compiled(plus_one)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert function(2) == 3
            assert function(0.5) == 1.5
        hits = sum(function.stats.cache_hits.values())
        return hits, [str(warning.message) for warning in caught if warning.category is RuntimeWarning]

    return run


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_second_process_loads(compile_anew, tmp_path):
    assert compile_anew() == (0, [])
    assert [path.suffix for path in files(tmp_path)] == [".nbc", ".nbc", ".nbi"]
    assert compile_anew() == (2, [])


def flipped(content):
    return content[: len(content) // 3] + bytes([content[len(content) // 3] ^ 64]) + content[len(content) // 3 + 1 :]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: bytes(len(content)),
        flipped,
        lambda content: pickle.dumps("0.1"),
        lambda content: pickle.dumps(numba.__version__) + pickle.dumps(("stamp", {})),
        lambda content: content + content,
        None,
    ],
    ids=["empty", "half", "one byte less", "zeros", "a bit", "another pickle", "foreign", "twice", "a folder"],
)
def test_a_damaged_file_is_thrown_away_with_one_warning(number, damage, compile_anew, tmp_path):
    compile_anew()
    path = files(tmp_path)[number]
    content = path.read_bytes()
    path.unlink()
    path.mkdir() if damage is None else path.write_bytes(damage(content))
    hits, messages = compile_anew()
    assert hits < 2
    [message] = messages
    assert "Machine code in" in message
    assert "it is compiled anew" in message
    if damage is not None:
        compile_anew()
        assert compile_anew() == (2, [])


def test_a_file_that_is_missing_is_compiled_anew(compile_anew, tmp_path):
    compile_anew()
    files(tmp_path)[0].unlink()
    assert compile_anew()[0] == 1
    assert compile_anew() == (2, [])


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("function", ["write", "replace", "open"])
def test_a_disk_that_is_full_at_any_write_costs_a_warning(function, number, compile_anew, tmp_path, monkeypatch):
    """Fails at the n-th writing of a file, at its opening, its content or its final name."""
    writes = []
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    original = jit.IndexDataCacheFile._open_for_write
    replace = os.replace

    def fails():
        writes.append(1)
        return len(writes) == number + 1

    class Full:
        def write(self, content):
            raise full

    def open_for_write(self, path):
        from contextlib import contextmanager

        @contextmanager
        def opened():
            if function == "open" and fails():
                raise full
            with original(self, path) as file:
                yield Full() if function == "write" and fails() else file

        return opened()

    def replaced(source, target):
        if function == "replace" and fails():
            raise full
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(jit.IndexDataCacheFile, "_open_for_write", open_for_write)
        patch.setattr("numba.core.caching.os.replace", replaced)
        _, messages = compile_anew()
    assert len(messages) == (number < len(writes))
    assert all("No space left on device" in message for message in messages)
    assert not list(tmp_path.rglob("*.tmp.*"))
    compile_anew()
    assert compile_anew() == (2, [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_done_without(compile_anew, tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert compile_anew()[0] == 0
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_is_a_file_is_done_without(compile_anew, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "file"))
    _, messages = compile_anew()  # Numba looks for another folder, in which it may have been before
    assert not messages


PROGRAM = """
import hashlib, sys
import numpy as np
from lightning_augmix import apply_plan, sample_plan
digest = hashlib.sha256()
for key in range(120):
    rng = np.random.default_rng(key)
    size = tuple(int(side) for side in rng.integers(1, 40, 2))
    image = rng.integers(0, 256, size if key % 4 == 0 else (*size, 3), dtype=np.uint8)
    plan = sample_plan(key, size, 10, augmentation_set="all" if key % 2 else "original")
    digest.update(apply_plan(image, plan, sys.argv[1]).tobytes())
print(digest.hexdigest())
"""


def run_program(engine, **environment):
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, engine]
    environment = {**os.environ, **environment}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def of_the_reference():
    return run_program("pillow")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"), [("NUMBA_DISABLE_JIT", "1"), ("NUMBA_BOUNDSCHECK", "1"), ("NUMBA_CPU_NAME", "generic")]
)
def test_interpreted_with_checks_of_bounds_and_on_any_processor_the_bytes_are_the_same(
    variable, value, of_the_reference, tmp_path
):
    assert run_program("numba", NUMBA_CACHE_DIR=str(tmp_path), **{variable: value}) == of_the_reference


SPAWNED = """
import multiprocessing, sys
import numpy as np
from lightning_augmix.engines import numba_engine
from lightning_augmix.kernels.jit import announcing
from lightning_augmix.plans.hyperparameters import validate

def compilations(hyperparameters):
    found = []
    with announcing(lambda: found.append(1)):
        numba_engine.augment(np.zeros((1, 4, 5, 3), np.uint8), np.zeros(1, np.uint64), hyperparameters)
    return len(found)

if __name__ == "__main__":
    numba_engine.warm_up()
    several = [validate(3, 3, -1, 1.0, "all"), validate(2, 5, 2, 0.3, ["rotate"]), validate(0, 1, 1, 1, "safe")]
    for each in several:
        each.table  # as a transform that was used before
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.map(compilations, several))
"""


@pytest.fixture(scope="module")
def kept_code(tmp_path_factory):
    return tmp_path_factory.mktemp("code")


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_processes_load_machine_code_whatever_the_hyperparameters(context, kept_code, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(SPAWNED)
    command = [sys.executable, "-W", "ignore", str(program), context]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(kept_code)}
    run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[0, 0, 0]", run.stderr


def test_the_files_of_earlier_versions_are_left_alone(compile_anew, tmp_path):
    compile_anew()
    index = next(path for path in files(tmp_path) if path.suffix == ".nbi")
    old = index.with_name(index.name.replace(".checked", ""))
    assert old != index
    old.write_bytes(b"of an earlier version")
    assert compile_anew() == (2, [])
    assert Path(old).read_bytes() == b"of an earlier version"
