"""Text that comes from others, such as names of folders."""

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Escapes what a terminal would obey or not show, such as ``\x1b`` and line breaks.

    Args:
        text: Any text; for Rich, pass the result as ``rich.text.Text``, which reads no markup.

    Returns:
        One line of printable characters.

    Example:
        >>> print(printable("red\x1b[31m\n"))
        red\x1b[31m\n
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
