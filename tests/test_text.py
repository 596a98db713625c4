import pytest

from lightning_augmix._text import printable


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("jsd-seed0 é 漢字 [b] \\", "jsd-seed0 é 漢字 [b] \\"),
        ("\x1b[31mred\x9b\x07", r"\x1b[31mred\x9b\x07"),
        ("two\nlines\r\u2028", r"two\nlines\r\u2028"),
        ("\u202etxt.exe", r"\u202etxt.exe"),  # would be shown from right to left
        ("\udcff", r"\udcff"),  # of a file name that is not UTF-8
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, printed):
    assert printable(text) == printed
    assert printable(printed) == printed
    printed.encode()
