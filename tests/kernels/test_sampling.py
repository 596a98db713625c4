import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lightning_augmix
from lightning_augmix.kernels.table import sampling_table
from lightning_augmix.operations import OPERATIONS


def test_the_table_is_read_only_and_has_a_row_for_every_operation():
    table = sampling_table(list(OPERATIONS.values()))
    assert table.shape == (17, 7)
    assert not table.flags.writeable
    np.testing.assert_array_equal(table[:, 0], range(17))


@pytest.mark.slow
def test_it_works_where_machine_code_can_be_kept_nowhere(tmp_path):
    shutil.copytree(Path(lightning_augmix.__file__).parent, tmp_path / "lightning_augmix")
    for folder in list(tmp_path.rglob("__pycache__")):
        shutil.rmtree(folder)
    (tmp_path / "lightning_augmix" / "__pycache__").write_text("no folder")
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    command = [
        sys.executable,
        "-B",
        "-W",
        "ignore",
        "-c",
        "from lightning_augmix import *; print(sample_plan(5, (32, 48)))",
    ]
    output = subprocess.run(
        command,
        cwd=tmp_path,
        env={**environment, "HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert output.startswith("AugMixPlan for 32×48: 0.586 of the image + 0.414 of")
