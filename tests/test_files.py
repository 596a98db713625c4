import os
import stat
import subprocess
import sys

import pytest

from lightning_augmix._files import whole_file


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with whole_file(path) as part:
        part.write_text("after")
        assert part.parent == tmp_path
        assert part.suffix == ".txt"
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to("target")
    with whole_file(tmp_path / "link") as part:
        part.write_text("text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "text"


def test_a_named_pipe_stays_one_and_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with whole_file(pipe) as part:
            part.write_text("text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_standard_output_that_is_a_pipe_is_written_to():
    code = (
        "from lightning_augmix._files import whole_file\n"
        "with whole_file('/dev/stdout') as part: part.write_text('text')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE).stdout == b"text"


def test_standard_output_that_goes_to_a_file_stays_with_it(tmp_path):
    code = (
        "from lightning_augmix._files import whole_file\n"
        "with whole_file('/dev/stdout') as part: part.write_text('text')\n"
        "print('after')"
    )
    with (tmp_path / "out.txt").open("a") as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file)
    assert (tmp_path / "out.txt").read_text() == "textafter\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_names_may_be_as_long_as_the_file_system_permits(tmp_path):
    with whole_file(tmp_path / ("a" * 255)) as part:
        part.write_text("text")
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


def test_a_full_disk_leaves_what_was_there(tmp_path, full_disk):
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match="too large"), whole_file(path) as part:
        part.write_text("text")
    assert list(tmp_path.iterdir()) == []
