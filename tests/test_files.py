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


def test_names_may_be_as_long_as_the_file_system_permits(tmp_path):
    with whole_file(tmp_path / ("a" * 255)) as part:
        part.write_text("text")
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


def test_a_full_disk_leaves_what_was_there(tmp_path, full_disk):
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match="too large"), whole_file(path) as part:
        part.write_text("text")
    assert list(tmp_path.iterdir()) == []
