import pickle

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from test_published import write_cifar_c

from lightning_augmix import RobustnessReport, compute_perturbations, evaluate_robustness
from lightning_augmix.robustness.perturbations import perturb
from lightning_augmix.robustness.report import check_comparable
from lightning_augmix.robustness.sequences import PERTURBATIONS, open_perturbations
from robustness_fixture import TO_TENSOR, ByColor, Clean, trainer

PUBLISHED = [name if name != "snow" else "spatter" for name in PERTURBATIONS]
NOISES = ("gaussian_noise", "shot_noise")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*litlogger"),
    pytest.mark.filterwarnings("ignore:The `.*_dataloader` does not have many workers"),
]


def write_cifar_p(folder, count=4, names=PUBLISHED, size=(8, 9)):
    folder.mkdir(exist_ok=True)
    random, arrays = np.random.default_rng(3), {}
    for number, name in enumerate(names):
        frames = 4 + number % 3
        arrays[name] = random.integers(0, 256, (count, frames, *size, 3), dtype=np.uint8)
        np.save(folder / f"{name}.npy", arrays[name])
    return arrays


def rate_by_hand(sequences, is_noise):
    """Counts the flips one by one, as the paper's equations for the flip probability have it."""
    rates = []
    for sequence in sequences:
        answers = [int(frame.astype(float).mean((0, 1)).argmax()) for frame in sequence]
        flips = 0
        for number in range(1, len(answers)):
            flips += answers[number] != answers[0 if is_noise else number - 1]
        rates.append(flips / (len(answers) - 1))
    return sum(rates) / len(rates)


class Raw(Clean):
    """The images before their transform."""

    def __getitem__(self, index):
        return self.images[index], index % 3


def measured(tmp_path, sequences, **settings):
    (tmp_path / "c").mkdir(exist_ok=True)
    write_cifar_c(tmp_path / "c", corruptions=["fog"])
    settings = {"batch_size": 7, "trainer": trainer(tmp_path), **settings}
    return evaluate_robustness(
        ByColor(), Clean(5), tmp_path / "c", TO_TENSOR, corruptions=["fog"], sequences=sequences, **settings
    )


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_flip_rates_equal_a_computation_by_hand(batch_size, tmp_path):
    arrays = write_cifar_p(tmp_path)
    report = measured(tmp_path, tmp_path, batch_size=batch_size)
    assert list(report.flip_rates) == PUBLISHED
    for name, rate in report.flip_rates.items():
        assert rate == pytest.approx(rate_by_hand(arrays[name], name in NOISES), abs=1e-6)
    assert report.mean_flip_rate == pytest.approx(np.mean(list(report.flip_rates.values())))
    assert len(set(report.flip_rates.values())) > 3
    assert report.sequences == f"{tmp_path.name} (CIFAR-10-P's format), 4 each"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "workers"),
    [({}, 2), ({"devices": 2, "strategy": "ddp_spawn"}, 0), ({"devices": 2, "strategy": "ddp_spawn"}, 1)],
)
def test_flip_rates_are_the_same_with_workers_and_ranks(settings, workers, tmp_path):
    write_cifar_p(tmp_path, count=5)
    alone = measured(tmp_path, tmp_path)
    report = measured(tmp_path, tmp_path, num_workers=workers, trainer=trainer(tmp_path, **settings))
    assert report.flip_rates == alone.flip_rates
    assert report.errors == alone.errors


def test_computed_sequences(tmp_path):
    report = measured(tmp_path, compute_perturbations(Raw(5), ["gaussian_noise", "translate"], seed=2))
    for number, name in enumerate(PERTURBATIONS):
        if name in report.flip_rates:
            sequences = [
                perturb(image, name, "cifar", np.random.SeedSequence([2, number, index]))
                for index, image in enumerate(Raw(5).images)
            ]
            assert report.flip_rates[name] == pytest.approx(rate_by_hand(sequences, name in NOISES), abs=1e-6)
    assert report.sequences == "computed at CIFAR-10-P's strengths, seed 2, 5 each"
    assert "sequences computed at CIFAR-10-P's strengths, seed 2" in report.measured_on


def test_the_report_keeps_and_shows_them(tmp_path):
    write_cifar_p(tmp_path)
    report = measured(tmp_path, tmp_path)
    report.save(tmp_path / "report.json")
    assert RobustnessReport.load(tmp_path / "report.json") == report
    lines = [" ".join(line.replace("│", " ").split()) for line in str(report).splitlines()]
    assert f"mean flip rate {100 * report.mean_flip_rate:.1f}" in lines
    assert f"flips, spatter {100 * report.flip_rates['spatter']:.1f}" in lines
    assert "mean flip rate" in report._repr_html_()
    without = measured(tmp_path, None)
    assert "flip" not in str(without)
    assert np.isnan(without.mean_flip_rate)


def write_videos(folder, classes=("cat", "dog"), frames=5):
    """Videos of even frames, which compression hardly changes."""
    random, colors = np.random.default_rng(4), {}
    for name in PERTURBATIONS:
        for label in classes:
            (folder / name / label).mkdir(parents=True)
            path = folder / name / label / "0.mp4"
            video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 1, (32, 16))
            colors[name, label] = random.integers(0, 3, frames)
            for channel in colors[name, label]:
                frame = np.full((16, 32, 3), 40, np.uint8)
                frame[..., channel] = 200
                video.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            video.release()
    return colors


@pytest.mark.parametrize("nested", ["", "noise"])
def test_imagenet_p_is_videos_in_folders(nested, tmp_path):
    folder = tmp_path / nested
    colors = write_videos(folder)
    opened = open_perturbations(tmp_path)
    assert opened.perturbations == PERTURBATIONS
    for name in PERTURBATIONS:
        sequences = opened.dataset(name, TO_TENSOR)
        assert len(sequences) == 2
        for sequence, label in zip(sequences, ("cat", "dog"), strict=True):
            assert sequence.shape == (5, 3, 16, 32)
            assert sequence.mean((2, 3)).argmax(1).tolist() == colors[name, label].tolist()
    assert opened.source == f"{tmp_path.name} (ImageNet-P's format)"


def test_mapped_files_are_opened_by_each_process(tmp_path):
    arrays = write_cifar_p(tmp_path)
    sequences = open_perturbations(tmp_path).dataset("tilt", TO_TENSOR)
    content = pickle.dumps(sequences)
    assert len(content) < 2000
    expected = torch.stack([TO_TENSOR(frame) for frame in arrays["tilt"][2]])
    assert torch.equal(pickle.loads(content)[2], expected)


def broken(name, content):
    def write(folder):
        write_cifar_p(folder)
        path = folder / f"{name}.npy"
        path.unlink() if content is None else path.write_bytes(content) if isinstance(content, bytes) else np.save(
            path, content
        )

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: None, "Expected a folder with <perturbation>.npy .* has neither"),
        (broken("tilt", None), r"lacks .*tilt\.npy"),
        (broken("tilt", b"\x93NUMPY"), r"tilt\.npy is truncated or not an array"),
        (
            broken("tilt", np.zeros((2, 3, 8, 9), np.uint8)),
            r"to hold uint8 sequences.*got uint8 \[2, 3, 8, 9\]",
        ),
        (broken("tilt", np.zeros((2, 3, 8, 9, 3))), "got float64"),
        (broken("tilt", np.zeros((2, 3, 8, 8, 3), np.uint8)), r"frames of tilt .* \[3, 8, 9\].*got \[3, 8, 8\]"),
        (broken("tilt", np.zeros((4, 1, 8, 9, 3), np.uint8)), "at least 2; sequence 0 has 1"),
        (broken("tilt", np.zeros((2, 3, 8, 9, 3), np.uint8)), "got 4 of gaussian_noise, 2 of tilt: files are missing"),
    ],
)
def test_what_are_no_sequences_is_refused_by_name(write, message, tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    write(folder)
    with pytest.raises(ValueError, match=message):
        measured(tmp_path, folder)


def test_damaged_and_missing_videos_are_refused_by_name(tmp_path):
    write_videos(tmp_path)
    path = tmp_path / "snow" / "dog" / "0.mp4"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"0\.mp4 is truncated or not a video"):
        list(open_perturbations(tmp_path).dataset("snow", TO_TENSOR))
    (tmp_path / "tilt" / "dog" / "0.mp4").unlink()
    (tmp_path / "tilt" / "cat" / "0.mp4").unlink()
    with pytest.raises(ValueError, match=r"sequences lack .*tilt"):
        open_perturbations(tmp_path).dataset("tilt", TO_TENSOR)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"perturbations": ["fog"]}, ValueError, r"`perturbations` to be of: gaussian_noise.* got \['fog'\]"),
        ({"perturbations": []}, ValueError, "got none"),
        ({"strengths": "cifar10"}, ValueError, "strengths"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 1.5}, TypeError, "seed"),
        ({"data": Raw(0)}, ValueError, "`data` to have images; got none"),
        ({"data": Clean(3)}, ValueError, r"image 0 is float32 \[3, 8, 9\]"),
    ],
)
def test_wrong_arguments_are_refused(arguments, kind, message):
    with pytest.raises(kind, match=message):
        compute_perturbations(**{"data": Raw(3), **arguments})


def test_what_is_not_a_folder_or_sequences_is_refused(tmp_path):
    with pytest.raises(TypeError, match="`sequences` to be a folder or what compute_perturbations returns; got Raw"):
        measured(tmp_path, Raw(3))


def test_strengths_follow_the_size_of_the_images(tmp_path):
    def source(side):
        return compute_perturbations([(Image.new("RGB", (side, 20)), 0)], ["tilt"]).source

    assert source(32).startswith("computed at CIFAR-10-P's")
    assert source(64).startswith("computed at Tiny ImageNet-P's")
    assert source(65).startswith("computed at ImageNet-P's")


def test_flip_rates_of_other_perturbations_are_not_compared(tmp_path):
    reports = [measured(tmp_path, compute_perturbations(Raw(5), [name])) for name in ("brightness", "tilt")]
    with pytest.raises(ValueError, match=r"differ in .*perturbations \(brightness and tilt\)"):
        check_comparable(reports)
