import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted(Path(__file__).parents[1].glob("examples/**/*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.relative_to(EXAMPLES[0].parent).as_posix())
def test_every_example_runs_in_an_empty_folder(example, tmp_path):
    subprocess.run([sys.executable, example], check=True, cwd=tmp_path, timeout=300)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_short(example):
    assert len(example.read_text(encoding="utf-8").splitlines()) < 80
