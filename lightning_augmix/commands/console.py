"""What the commands share: Hydra, and one readable line instead of a traceback for the user's mistakes."""

import difflib
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lightning_augmix import __version__
from lightning_augmix._errors import PlacementError
from lightning_augmix._extras import EXTRAS, require
from lightning_augmix._text import printable
from lightning_augmix.commands import runs, sweeps
from lightning_augmix.commands.help import described, text_of
from lightning_augmix.commands.schemas import register

__all__ = ["Terminated", "UsageError", "build", "hydra_command", "log_through_hydra", "readable_errors", "usage_errors"]

# Lines in which Hydra and OmegaConf explain their internals.
_INSIDES = ("full_key:", "object_type=", "reference_type=", "Config search path:", "provider=", "Set the environment")
# What is no fault of the user's run and offers no choice.
_ADVERTISEMENTS = ("💡 Tip", "Detected KeyboardInterrupt", "Received SIGTERM", "`weights_only` was not set")
_KNOWN_WARNINGS = (
    ".*isinstance.treespec, LeafSpec",  # Lightning with a newer torch
    ".*Checkpoint directory .* exists and is not empty",  # a run that is resumed in its own folder
    ".*The dirpath has changed",  # a run that is resumed in another
    ".*does not have many workers",  # data.num_workers is for the user to choose
    ".*The number of training batches .* is smaller than the logging interval",
    ".*is not supported by the model summary",  # of bf16-mixed: the size in MB is estimated
    "(?s).*(version_base parameter|register_new_resolver|_execution_whitelist_)",  # Hydra 1.4, which permits them still
)


# Marks HYDRA_FULL_ERROR as set here, and not by the user: also for the processes of a launcher.
_SET_HERE = "LIGHTNING_AUGMIX_READABLE_ERRORS"


class UsageError(ValueError):
    """A value from the user cannot be used; the message says which, and what is permitted."""


def hydra_command(command: str, config: str, job: Callable[[Any], Any]) -> Callable[[], None]:
    """Turns a function of a composed configuration into a console command.

    Args:
        command: The name of the command, for messages.
        config: The name of its configuration in ``commands/configs/``.
        job: The function.

    Returns:
        The function to call from the command line.
    """
    _quiet_warnings()

    @hydra.main(version_base="1.3", config_path="pkg://lightning_augmix.commands.configs", config_name=config)
    def application(cfg: Any) -> Any:
        with readable_errors(command):
            require("this command", "cli", *EXTRAS["cli"])
            _check_keys(cfg, config)
            return job(cfg)

    def main() -> None:
        register()
        OmegaConf.register_new_resolver("new_folder", sweeps.new_folder, replace=True, use_cache=True)
        OmegaConf.register_new_resolver("sweep_folder", sweeps.sweep_folder, replace=True, use_cache=True)
        signal.signal(signal.SIGTERM, _terminate)
        arguments = sys.argv[1:]
        with readable_errors(command), _closed_pipes():
            if "--version" in arguments:
                print(command, __version__)
            elif "--help" in arguments or "-h" in arguments:
                # As Hydra reads them, but for overrides on both sides of a flag, which it takes here.
                read, _ = get_args_parser().parse_known_intermixed_args(arguments)
                print(described(config, read.overrides, read.config_dir))
            else:
                with sweeps.table_at_the_end(), runs.release_at_the_end():
                    application()

    return main


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""


def _terminate(number: int, frame: Any) -> NoReturn:
    # Schedulers send SIGTERM to all processes of a group, sometimes twice. That it ends the worker processes, of which
    # SIGCHLD tells, is no error then. By a function, because SIG_IGN leads to messages about signals on their way.
    for each in ("SIGTERM", "SIGCHLD"):
        if hasattr(signal, each):
            signal.signal(getattr(signal, each), lambda number, frame: None)
    raise Terminated


def _check_keys(cfg: Any, config: str) -> None:
    own: Any = OmegaConf.create(text_of(config))
    groups = [next(iter(entry)) for entry in own.get("defaults", []) if not isinstance(entry, str)]
    known = sorted({*own, *groups} - {"defaults", "hydra"})
    for key in cfg:
        if key not in known:
            raise UsageError(f"{_no_key(str(key), known)}; the keys are {', '.join(known)}.")


def _no_key(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"There is no key {key!r}" + (f" (did you mean {close[0]}?)" if close else "")


@contextmanager
def _closed_pipes() -> Iterator[None]:
    """Ends as other programs do where what reads the output has ended, such as ``head``."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


@contextmanager
def readable_errors(command: str) -> Iterator[None]:
    """Turns errors that are the user's to mend into one line on standard error, exit status 1.

    An interrupt is one line, too, with the shell's exit status for it, 130, or 143 for SIGTERM. Other errors keep their
    traceback; with the environment variable ``HYDRA_FULL_ERROR=1`` all do. Use it around the Hydra application and
    around the job inside, where Hydra would otherwise print first. In a sweep, a job that fails ends alone.

    Args:
        command: The name of the command, for the message.

    Raises:
        SystemExit: If a value cannot be used, a package of an extra is missing, or on an interrupt.
    """
    is_inside = _SET_HERE in os.environ
    if os.environ.get("HYDRA_FULL_ERROR", "0") == "1" and not is_inside:
        yield
        return
    # Makes Hydra re-raise exceptions instead of printing them.
    os.environ.update({"HYDRA_FULL_ERROR": "1", _SET_HERE: "1"})
    try:
        yield
    except KeyboardInterrupt as interrupt:
        is_terminated = isinstance(interrupt, Terminated)
        how = "terminated" if is_terminated else "interrupted"
        print(f"{command}: {how}{sweeps.how_to_go_on() or interrupt}.", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if is_terminated else signal.SIGINT))
    except Exception as error:
        is_job_of_sweep = is_inside and sweeps.is_sweep()
        if isinstance(error, BrokenPipeError | sweeps.JobFailedError):
            raise
        if not _is_for_the_user(error) and (is_inside or not _is_hydras(error)):
            if not is_job_of_sweep:
                raise
            traceback.print_exc()
            error = RuntimeError(f"{type(error).__name__}: {error}")
        message = f"{command}: {_message(error)}"
        if not is_job_of_sweep:
            sys.exit(message)
        # Hydra goes on with the next job, and raises this again in the end.
        print(message, file=sys.stderr)
        runs.record(error=_message(error), in_its_folder=not isinstance(error, runs.UsedFolderError))
        raise sweeps.JobFailedError from error
    finally:
        if not is_inside:
            for name in ("HYDRA_FULL_ERROR", _SET_HERE):
                del os.environ[name]


def _is_for_the_user(error: Exception) -> bool:
    kinds = (
        HydraException,
        OmegaConfBaseException,
        UsageError,
        runs.UsedFolderError,
        PlacementError,
        OSError,
        ImportError,
    )
    is_full_disk = isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error)
    return is_full_disk or isinstance(error, kinds) or _is_misconfiguration(error)


def _is_misconfiguration(error: BaseException) -> bool:
    """Whether it is Lightning's word for a mistake of its user; without Lightning, which takes a second to import."""
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    return lightning is not None and isinstance(error, lightning.MisconfigurationException)


def _is_hydras(error: Exception) -> bool:
    """Whether it is a ValueError that Hydra itself raised, for instance for ``data=null``."""
    if not isinstance(error, ValueError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__")).startswith("hydra.")


def _message(error: Exception) -> str:
    text = str(error)
    if "Original Traceback" in text:  # of a worker process of a loader, at whose end is the error itself
        text = re.split(r"^[\w.]+(?:Error|Exception): ", text, flags=re.MULTILINE)[-1]
    if isinstance(error, PlacementError):
        return "\n".join(map(printable, text.splitlines()))
    return printable(_of_override(error) or _one_line(error, text))


def _of_override(error: BaseException) -> str | None:
    """What is wrong with an override, where Hydra's own words lead astray: its ``+key`` passes what nothing takes."""
    if isinstance(error, OverrideParseException) and "=" not in error.override:
        return f"Expected key=value; got {error.override!r}: --help lists the keys."
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"There is no {group}={name}; permitted are {', '.join(error.options)}."
    cause = error.__cause__
    if not isinstance(cause, ConfigKeyError | ConfigAttributeError) or cause.full_key is None:
        return None
    parent: Any = cause.parent_node
    prefix = cause.full_key.rpartition(".")[0]
    known = [f"{prefix}.{key}" if prefix else str(key) for key in parent or ()]
    more = f", or +{cause.full_key}=… to pass it on" if prefix and cause.object_type is dict else ""
    return f"{_no_key(cause.full_key, known)}: --help lists them{more}."


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
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_news)
    _quiet_warnings()


def _is_news(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in _ADVERTISEMENTS)


def _quiet_warnings() -> None:
    for message in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message)


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
        is_clear = isinstance(cause, ValueError) or _is_misconfiguration(cause)
        kind = "" if is_clear else f"{type(cause).__name__}: "
        raise UsageError(kind + str(cause)) from error


def _one_line(error: BaseException, text: str) -> str:
    cause = error.__cause__ if isinstance(error, HydraException | OmegaConfBaseException) else None
    lines = [*text.splitlines(), *(str(cause).splitlines() if cause is not None else ())]
    kept = (line.strip() for line in lines if not line.strip().startswith(_INSIDES))
    return " ".join(dict.fromkeys(line for line in kept if line))
