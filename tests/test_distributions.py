"""What is given to others: the sdist holds its tests, and the wheel works with the base dependencies alone."""

import os
import subprocess
import sys
from fnmatch import fnmatch
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lightning_augmix._extras import EXTRAS, MissingPackageError, require

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    """The sdist, unpacked. It is built beside the repository, where no other test builds anything."""
    folder = tmp_path_factory.mktemp("sdist")
    ignored = [".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text().split())]
    (folder / "source").mkdir()
    for entry in ROOT.iterdir():
        if not any(fnmatch(entry.name, pattern) for pattern in ignored):
            (folder / "source" / entry.name).symlink_to(entry)
    program = "from setuptools import build_meta; build_meta.build_sdist('..')"
    subprocess.run([sys.executable, "-c", program], cwd=folder / "source", check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    (folder / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", sdist, "-C", folder / "unpacked"], check=True)  # Python 3.11.3 has no safe extractall
    (made,) = (folder / "unpacked").iterdir()
    return made


@pytest.fixture(scope="session")
def wheel(unpacked, tmp_path_factory):
    """The wheel that is built from the sdist, installed alone."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-build-isolation"]
    subprocess.run([*pip, "--no-deps", "--target", folder, unpacked], check=True)
    return folder


def needed(wheel, extras=()):
    """The names of the distributions that pip installs for the wheel."""
    (own,) = (found for found in distributions(path=[str(wheel)]) if found.name == "lightning-augmix")
    seen, waiting = set(), [(own.name, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in map(Requirement, (own if name == own.name else distribution(name)).requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), one) for one in ("", *requirement.extras)]
    return {name for name, _ in seen} - {own.name}


@pytest.fixture(scope="session")
def base(wheel, tmp_path_factory):
    """A path that has the wheel and its base dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("base")
    for name in needed(wheel):
        for top in {file.parts[0] for file in distribution(name).files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution(name).locate_file(top))
    return os.pathsep.join(map(str, [folder, wheel, ROOT / "tests"]))


@pytest.fixture
def run(base, tmp_path):
    def run(*arguments):
        # Without `site`, there is nothing but what the path has.
        command = [sys.executable, "-S", "-W", "ignore", *arguments]
        environment = {**os.environ, "PYTHONPATH": base}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.slow
def test_the_sdist_holds_what_its_tests_need_and_no_caches(unpacked):
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    for folder in ("tests", "configs", "examples", "results", ".ci"):
        ours = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        assert {path.relative_to(ROOT).as_posix() for path in ours} <= files
    assert {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "pyproject.toml"} <= files
    assert not [name for name in files if name.endswith((".pyc", ".pyo")) or "cache" in name]


@pytest.mark.slow
def test_the_tests_of_the_sdist_run(unpacked):
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    for arguments in (["--collect-only"], ["tests/test_losses.py"], ["tests/test_docs.py", "-m", "not slow"]):
        done = subprocess.run([*pytest_, *arguments], cwd=unpacked, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


LIBRARY = """
import lightning_augmix, torch, toy
from lightning_augmix import AugMixCallback, AugmentAndMixTransform, JSDLoss, augment_dataset, evaluate_robustness
from lightning_augmix.robustness.charts import draw_errors

assert lightning_augmix.__file__.startswith(WHEEL), lightning_augmix.__file__
certain = {**toy.CERTAIN, "engine": "pillow"}
module = toy.Recorder()
toy.trainer(AugMixCallback(10, **certain), root=".", max_epochs=1).fit(module, datamodule=toy.Data())
assert module.fraction("train") == [1.0], module.fraction("train")
assert JSDLoss()(torch.randn(6, 4), torch.zeros(2, dtype=torch.long)) > 0
data = augment_dataset(toy.Dim(None), AugmentAndMixTransform(10, **certain))
assert toy.is_augmented(data[0][0])
calibration = lightning_augmix.robustness.report.Calibration(0.1, 0.2, (1,), (0.5,), (0.5,))
report = lightning_augmix.RobustnessReport("mine", 0.1, {"fog": (0.1,) * 5}, calibration, calibration)
report.save("report.json")
for use in (
    lambda: str(report),
    lambda: draw_errors([report], "errors.png"),
    lambda: lightning_augmix.compute_corruptions(toy.Dim(None), "corrupted"),
):
    try:
        use()
    except ImportError as error:
        print(error)
"""


@pytest.mark.slow
def test_the_library_works_with_the_base_alone(run, wheel):
    done = run("-c", LIBRARY.replace("WHEEL", repr(str(wheel))))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == [
        "Printing a report needs rich: pip install 'lightning-augmix[robustness]'.",
        "Drawing charts needs matplotlib: pip install 'lightning-augmix[robustness]'.",
        "Computing corruptions needs imagecorruptions-imaug, rich: pip install 'lightning-augmix[robustness]'.",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "evaluate", "bench", "preview"])
def test_without_its_extra_a_command_explains_itself_and_says_what_to_install(command, run):
    module = f"lightning_augmix.commands.{command}"
    assert run("-m", module, "--help").returncode == 0
    assert "hydra" in run("-m", module, "--cfg", "all").stdout
    done = run("-m", module)
    assert done.returncode == 1
    assert done.stderr == (
        f"augmix-{command}: this command needs matplotlib, rich, scikit-learn: pip install 'lightning-augmix[cli]'.\n"
    )


@pytest.mark.slow
def test_the_extras_have_what_the_code_asks_for(wheel):
    base = needed(wheel)
    assert base.isdisjoint({package for packages in EXTRAS.values() for package in packages} | {"scipy"})
    for extra, packages in EXTRAS.items():
        assert needed(wheel, [extra]) >= {*base, *packages}
    assert needed(wheel, ["all"]) == needed(wheel, EXTRAS)
    assert needed(wheel, ["test"]) > needed(wheel, ["all"])


def test_what_is_missing_is_told_in_one_line():
    require("This", "cli", "pytest", "packaging")
    with pytest.raises(MissingPackageError, match=r"^This needs no-one, no-other: pip install 'lightning-augmix\[x\]'"):
        require("This", "x", "no-one", "pytest", "no-other")
