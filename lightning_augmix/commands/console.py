"""What the commands share: Hydra, and one readable line instead of a traceback for the user's mistakes."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException

from lightning_augmix.commands.schemas import register

__all__ = ["UsageError", "build", "hydra_command", "log_through_hydra", "readable_errors", "usage_errors"]

# Lines in which Hydra and OmegaConf explain their internals.
_INSIDES = ("full_key:", "object_type=", "reference_type=", "Config search path:", "provider=", "Set the environment")


# The commands whose context this process is in: at most two, around the application and around its job.
_set_here: list[str] = []


class UsageError(ValueError):
    """A value from the user cannot be used; the message says which, and what is permitted."""


def hydra_command(command: str, config: str, job: Callable[[Any], Any]) -> Callable[[], None]:
    """Turns a function of a composed configuration into a console command.

    Args:
        command: The name of the command, for messages.
        config: The name of its configuration in ``configs/``.
        job: The function.

    Returns:
        The function to call from the command line.
    """

    @hydra.main(version_base="1.3", config_path="pkg://lightning_augmix.commands.configs", config_name=config)
    def application(cfg: Any) -> Any:
        with readable_errors(command):
            return job(cfg)

    def main() -> None:
        register()
        with readable_errors(command):
            application()

    return main


@contextmanager
def readable_errors(command: str) -> Iterator[None]:
    """Turns errors in composing and instantiating a configuration into one line on standard error, exit status 1.

    An interrupt is one line, too, with the shell's exit status for it, 130. Other errors are not the user's and keep
    their traceback; with the environment variable ``HYDRA_FULL_ERROR=1`` all do. Use it around the Hydra application
    and around the job inside, where Hydra would otherwise print first.

    Args:
        command: The name of the command, for the message.

    Raises:
        SystemExit: If a value cannot be used, or on an interrupt.
    """
    if os.environ.get("HYDRA_FULL_ERROR", "0") == "1" and not _set_here:
        yield
        return
    _set_here.append(command)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra re-raise exceptions instead of printing them
    try:
        yield
    except (HydraException, OmegaConfBaseException, UsageError) as error:
        sys.exit(f"{command}: {_one_line(error)}")
    except KeyboardInterrupt:
        print(f"{command}: interrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    finally:
        _set_here.pop()
        if not _set_here:
            del os.environ["HYDRA_FULL_ERROR"]


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turns what checks of arguments raise into usage errors.

    Raises:
        UsageError: If a value cannot be used.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def log_through_hydra() -> None:
    """Makes Lightning log only through Hydra's handlers, which print and write to the log file."""
    import lightning.pytorch  # noqa: F401  # installs its handlers on import

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def build(node: Any, **arguments: Any) -> Any:
    """Instantiates a configuration node; an error in its constructor is a usage error.

    Args:
        node: A node with a ``_target_``.
        **arguments: Further arguments of the constructor.

    Returns:
        The object.

    Raises:
        UsageError: If the constructor raises.
    """
    try:
        return instantiate(node, **arguments)
    except Exception as error:
        # Hydra 1.3 wraps the constructor's error in one whose text repeats it.
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, HydraException | OmegaConfBaseException):
            raise
        kind = "" if isinstance(cause, ValueError) else f"{type(cause).__name__}: "
        raise UsageError(kind + str(cause)) from error


def _one_line(error: BaseException) -> str:
    cause = error.__cause__ if not isinstance(error, UsageError) else None
    lines = [*str(error).splitlines(), *(str(cause).splitlines() if cause is not None else ())]
    kept = (line.strip() for line in lines if not line.strip().startswith(_INSIDES))
    return " ".join(dict.fromkeys(line for line in kept if line))
