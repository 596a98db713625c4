"""The packages that only an extra installs: where one is missing, one line says what to install."""

from importlib.metadata import PackageNotFoundError, distribution

__all__ = ["EXTRAS", "MissingPackageError", "require"]

#: What each extra has that the code asks for; pyproject.toml says in which versions.
EXTRAS = {
    "cli": ("matplotlib", "rich", "scikit-learn"),
    "robustness": ("imagecorruptions-imaug", "matplotlib", "rich"),
}


class MissingPackageError(ImportError):
    """A package of an extra is not installed; the message says what to install."""


def require(purpose: str, extra: str, *packages: str) -> None:
    """Checks that packages of an extra are installed.

    Args:
        purpose: What needs them, for the message.
        extra: The extra of lightning-augmix that has them.
        *packages: Their names, as pip knows them.

    Raises:
        MissingPackageError: If one of them is not.
    """
    missing = ", ".join(package for package in packages if not _is_installed(package))
    if missing:
        raise MissingPackageError(f"{purpose} needs {missing}: pip install 'lightning-augmix[{extra}]'.")


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
