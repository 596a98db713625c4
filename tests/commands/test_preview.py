import pytest
from PIL import Image

from commands_fixture import fixture_of
from lightning_augmix import sample_plan
from lightning_augmix.commands import preview
from toy import dim_image

command = fixture_of("augmix-preview", preview.main)
original = preview._training_dataset


def written(root):
    """The names of what the command wrote into its folder."""
    (folder,) = root.glob("outputs/*/*")
    return {path.name for path in folder.iterdir() if path.suffix in (".png", ".svg")}, folder


def test_a_photograph_is_drawn_step_by_step_and_in_a_grid(command, tmp_path):
    dim_image(0, (60, 40)).save(tmp_path / "mine.png")
    printed = command("image=mine.png", "augmix.severity=5", "augmix=safe", "seed=3", "severities=[1]", "widths=[1,4]")
    assert str(sample_plan(3, (60, 40), 5, augmentation_set="safe")) in printed
    names, folder = written(tmp_path)
    assert names == {"augmix.png", "augmix.svg", "grid.png", "grid.svg"}
    assert all(str(folder / name) in printed for name in names)
    with Image.open(folder / "augmix.png") as picture:
        assert min(picture.size) > 300


def test_without_one_there_is_one_of_scikit_learns(command, tmp_path):
    assert "AugMixPlan for 50×75" in command("size=50")
    assert "augmix.png" in written(tmp_path)[0]


@pytest.mark.parametrize(("size", "shown"), [((300, 200), (48, 32)), ((200, 300), (32, 48)), ((20, 30), (20, 30))])
def test_large_photographs_are_shrunk(size, shown, command, tmp_path):
    dim_image(0, size).save(tmp_path / "mine.png")
    height, width = shown
    assert f"AugMixPlan for {height}×{width}:" in command("image=mine.png", "size=32")


def test_photographs_of_cameras_are_upright_and_of_other_modes_in_colour(command, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    dim_image(0, (30, 20)).save(tmp_path / "mine.jpg", exif=exif)
    assert "AugMixPlan for 20×30:" in command("image=mine.jpg")
    dim_image(0, (30, 20)).convert("RGBA").save(tmp_path / "mine.png")
    assert "AugMixPlan for 30×20:" in command("image=mine.png")


MINE = """
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from lightning_augmix import AugmentAndMixTransform
from toy import Data, Dim, Recorder, to_tensor

dataset = Dim(to_tensor())
loader = DataLoader(dataset)
data_module = Data()
nothing = None
module = Recorder({"train": lambda: loader})
several = Recorder({"train": lambda: [loader, loader]})
part = Subset(dataset, [3])

class Two(Dim):
    def __init__(self):
        super().__init__(to_tensor(), 2)

taken = Dim(transforms.Compose([AugmentAndMixTransform(), transforms.ToTensor()]))

def factory():
    return dataset
"""


@pytest.mark.parametrize("name", ["dataset", "loader", "data_module", "factory", "Data", "Two", "module", "several"])
def test_training_images_of_ones_own_are_drawn_with_and_without_augmix(name, command, tmp_path):
    (tmp_path / "its_data.py").write_text(MINE)
    command(f"from=its_data:{name}", "images=3")
    names, folder = written(tmp_path)
    assert names == {"batch.png", "batch.svg"}
    with Image.open(folder / "batch.png") as picture:
        assert min(picture.size) > 300


def test_a_part_of_a_dataset_is_drawn_and_not_the_whole(command, tmp_path, monkeypatch):
    (tmp_path / "its_data.py").write_text(MINE)
    seen = []
    monkeypatch.setattr(preview, "_training_dataset", lambda data: seen.append(data) or original(data))
    command("from=its_data:part", "images=3")
    (part,) = seen
    assert len(part) == len(original(part)) == 1


def test_training_images_of_the_commands_data(command, tmp_path):
    command("data=digits", "images=2")
    assert "batch.png" in written(tmp_path)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["image=none.png"], "No such file"),
        (["image=mine.py"], "cannot identify image file"),
        (["augmix=off"], "augmix=off has nothing to draw"),
        (["image=mine.png", "data=digits"], "Expected one of image, data and from; got image and data"),
        (["from=its_data"], "to be module:name, such as"),
        (["from=its_data:none"], "its_data has no none"),
        (["from=no_such_module:data"], "No module named 'no_such_module'"),
        (["from=its_data:taken"], "twice is not AugMix"),
        (["severities=[11]"], r"argument `severity`.*got 11"),
        (["widths=3"], "`widths` to be a list of numbers"),
        (["images=0"], "argument `images`.*got 0"),
        (["size=0"], "argument `size`.*got 0"),
        (["seed=-1"], "argument `seed`.*got -1"),
        (["sizes=3"], "sizes"),
    ],
)
def test_mistakes_are_one_message(arguments, message, command, tmp_path, capfd):
    (tmp_path / "its_data.py").write_text(MINE)
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(SystemExit, match=message) as stop:
        command(*arguments)
    assert str(stop.value).startswith("augmix-preview: ")
