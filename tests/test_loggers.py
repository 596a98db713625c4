"""Fits with the loggers that people use, read back as these present them."""

import copy
import io
import pickle
from argparse import Namespace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import pytorch_lightning
import yaml
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.data.provider import ListHyperparametersResult
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from torch.utils.data import IterableDataset

from lightning_augmix import AugMixCallback
from toy import CERTAIN, Data, Recorder, Recording, dim_image, is_augmented, loader, to_tensor, trainer

OURS = {
    "severity": 3.0,
    "width": 3,
    "depth": -1,
    "alpha": 1.0,
    "augmentation_set": ["rotate"],
    "views": 0,
    "seed": 5,
    "engine": "auto",
}
FLAT = {f"augmix/{name}": value for name, value in OURS.items()}
STRINGS = {name: str(value) for name, value in FLAT.items()}
PACKAGES = [pl, pytorch_lightning]


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)


class Configuring:
    """To be mixed into modules and data modules: keeps what it is given, whatever that is."""

    def __init__(self, **settings):
        super().__init__()
        self.save_hyperparameters()
        self.settings = settings


class Module(Configuring, Recorder):
    pass


class ModuleOfTheOtherPackage(Configuring, Recording, pytorch_lightning.LightningModule):
    pass


class ConfiguredData(Configuring):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.data = Data()
        self.data.setup("fit")

    def train_dataloader(self):
        return self.data.train_dataloader()

    def val_dataloader(self):
        return self.data.val_dataloader()


class TrainingData(ConfiguredData, pl.LightningDataModule):
    pass


class TrainingDataOfTheOtherPackage(ConfiguredData, pytorch_lightning.LightningDataModule):
    pass


CLASSES = {pl: (Module, TrainingData), pytorch_lightning: (ModuleOfTheOtherPackage, TrainingDataOfTheOtherPackage)}


def fit(root, logger, module=None, *, severity=3, data=None, package=pl, **settings):
    of_module, of_data = CLASSES[package]
    module, data = module or of_module(lr=0.5, layers={"width": 4}), data or of_data(fold=2)
    callback = AugMixCallback(severity, augmentation_set=["rotate"], seed=5)
    settings = {"max_epochs": 1, "log_every_n_steps": 1, **settings}
    run = trainer(callback, root=root, package=package, logger=logger, **settings)
    run.fit(module, datamodule=data)
    assert module.seen["train"]
    return run


def board(folder):
    """The columns of TensorBoard's HParams tab, and for every run its hyperparameters there and its metrics."""
    runs = EventMultiplexer().AddRunsFromDirectory(str(folder))
    runs.Reload()
    context = backend_context.Context(TBContext(data_provider=MultiplexerDataProvider(runs, str(folder))))
    request, none = RequestContext(), ListHyperparametersResult(hyperparameters=[], session_groups=[])
    experiment = context.experiment_from_metadata(request, "", True, context.hparams_metadata(request, ""), none)
    every = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=100, allowed_statuses=api_pb2.Status.values(), include_metrics=True
    )
    groups = list_session_groups.Handler(request, context, "", every).run().session_groups
    columns = {column.name for column in experiment.hparam_infos}
    shown = [
        {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()} for group in groups
    ]
    return columns, shown, [{value.name.tag: value.value for value in group.metric_values} for group in groups]


def shown_by_tensorboard(folder):
    columns, (shown,), _ = board(folder)
    assert columns == set(shown)
    return shown


ON_BOARD = {name: str(value) if isinstance(value, list) else value for name, value in FLAT.items()}


def read(path):
    return yaml.safe_load(path.read_text())


def tensorboard(root, package=pl, **settings):
    return package.loggers.TensorBoardLogger(root, name="", version="run", **settings)


def csv(root, package=pl):
    return package.loggers.CSVLogger(root, name="", version="run")


def mlflow(root, package=pl):
    return package.loggers.MLFlowLogger(tracking_uri=f"file:{root / 'mlflow'}")


def refusals(told):
    return [message for message in (str(warning.message) for warning in told) if "did not take" in message]


def params(logger):
    """What MLflow keeps of a run."""
    return logger.experiment.get_run(logger.run_id).data.params


# ---- TensorBoard ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_tensorboard_shows_what_modules_and_data_save_and_ours(package, tmp_path):
    fit(tmp_path, tensorboard(tmp_path, package), package=package)
    assert shown_by_tensorboard(tmp_path) == {"lr": 0.5, "layers/width": 4, "fold": 2, **ON_BOARD}
    assert read(tmp_path / "run" / "hparams.yaml") == {"lr": 0.5, "layers": {"width": 4}, "fold": 2}
    assert read(tmp_path / "run" / "augmix.yaml") == OURS


def test_tensorboard_shows_ours_where_there_is_nothing_else(tmp_path):
    fit(tmp_path, tensorboard(tmp_path), Recorder(), data=Data())
    assert shown_by_tensorboard(tmp_path) == ON_BOARD


class LogsMetrics(Module):
    """Logs hyperparameters as Lightning's documentation has it."""

    def on_train_start(self):
        self.logger.log_hyperparams(self.hparams, {"hp/score": 0})

    def training_step(self, batch, batch_idx):
        self.log("hp/score", 7.0)
        return super().training_step(batch, batch_idx)


def test_tensorboard_shows_ours_beside_hyperparameters_that_a_module_logs_with_metrics(tmp_path):
    fit(tmp_path, tensorboard(tmp_path, default_hp_metric=False), LogsMetrics(lr=0.5))
    columns, (shown,), (metrics,) = board(tmp_path)
    assert shown == {"lr": 0.5, **ON_BOARD}
    assert columns == set(shown)
    assert metrics == {"hp/score": 7.0}


class LogsItself(Recorder):
    def on_train_start(self):
        self.logger.log_hyperparams(Namespace(lr=0.5), {"hp/score": 0})


def test_tensorboard_shows_what_a_module_logs_itself_and_ours(tmp_path):
    fit(tmp_path, tensorboard(tmp_path), LogsItself(), data=Data())
    assert shown_by_tensorboard(tmp_path) == {"lr": 0.5, **ON_BOARD}


def test_tensorboard_keeps_the_metric_that_stands_for_a_run(tmp_path):
    class Scored(Module):
        def training_step(self, batch, batch_idx):
            self.log("hp_metric", 0.25)
            return super().training_step(batch, batch_idx)

    fit(tmp_path, tensorboard(tmp_path), Scored(lr=0.5))
    assert board(tmp_path)[2] == [{"hp_metric": 0.25}]


def test_tensorboard_takes_what_a_user_calls_augmix_for_his(tmp_path):
    fit(tmp_path, tensorboard(tmp_path), Module(augmix={"severity": 9, "mine": True}))
    assert shown_by_tensorboard(tmp_path) == {**ON_BOARD, "fold": 2, "augmix/severity": 9, "augmix/mine": True}
    assert read(tmp_path / "run" / "hparams.yaml") == {"augmix": {"severity": 9, "mine": True}, "fold": 2}
    assert read(tmp_path / "run" / "augmix.yaml") == OURS


def test_tensorboard_is_as_it_was_after_the_fit(tmp_path):
    logger = tensorboard(tmp_path)
    before = set(vars(logger))
    fit(tmp_path, logger)
    assert set(vars(logger)) == before


def test_tensorboard_is_as_it_was_after_a_fit_that_failed(tmp_path):
    class Failing(Module):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            raise ArithmeticError

    logger = tensorboard(tmp_path)
    before = set(vars(logger))
    with pytest.raises(ArithmeticError):
        fit(tmp_path, logger, Failing(lr=0.5))
    assert set(vars(logger)) == before
    assert shown_by_tensorboard(tmp_path) == {"lr": 0.5, "fold": 2, **ON_BOARD}


def test_copies_of_tensorboards_logger_work_in_a_fit(tmp_path):
    class Copying(Module):
        def on_train_batch_start(self, batch, batch_idx):
            for copied in (copy.deepcopy(self.logger), pickle.loads(pickle.dumps(self.logger))):
                assert copied._sanitize_params({"lr": 0.5}) == {"lr": 0.5}

    fit(tmp_path, tensorboard(tmp_path), Copying(lr=0.5))


def test_tensorboard_shows_what_a_user_logged_before_the_fit(tmp_path):
    logger = tensorboard(tmp_path)
    logger.log_hyperparams({"lr": 0.1})
    fit(tmp_path, logger, Recorder(), data=Data())
    assert shown_by_tensorboard(tmp_path) == {"lr": 0.1}  # the first that a run is told, and no others
    assert read(tmp_path / "run" / "augmix.yaml") == OURS


# ---- Files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_the_csv_logger_keeps_ours_in_a_file_of_their_own(package, tmp_path):
    logger = csv(tmp_path, package)
    fit(tmp_path, logger, package=package)
    assert logger.experiment.hparams == {"lr": 0.5, "layers": {"width": 4}, "fold": 2}
    assert read(tmp_path / "run" / "hparams.yaml") == {"lr": 0.5, "layers": {"width": 4}, "fold": 2}
    assert read(tmp_path / "run" / "augmix.yaml") == OURS


def test_the_file_makes_the_callback_again(tmp_path):
    run = fit(tmp_path, csv(tmp_path))
    again = AugMixCallback(**read(tmp_path / "run" / "augmix.yaml"))
    assert again.settings == run.callbacks[0].settings


def test_the_file_tells_of_the_last_fit(tmp_path):
    logger = csv(tmp_path)
    fit(tmp_path, logger)
    fit(tmp_path, logger, severity=5)
    assert read(tmp_path / "run" / "augmix.yaml") == {**OURS, "severity": 5.0}


@pytest.mark.parametrize("kind", [tensorboard, csv])
@pytest.mark.parametrize("package", PACKAGES)
def test_modules_load_with_the_hyperparameters_of_the_file(package, kind, tmp_path):
    module, _ = CLASSES[package]
    run = fit(tmp_path, kind(tmp_path, package), package=package)
    run.save_checkpoint(tmp_path / "last.ckpt")
    loaded = module.load_from_checkpoint(tmp_path / "last.ckpt", hparams_file=tmp_path / "run" / "hparams.yaml")
    assert loaded.settings == {"lr": 0.5, "layers": {"width": 4}, "fold": 2}


# ---- What users log before ------------------------------------------------------------------------------------------


def strict(**values):
    cfg = OmegaConf.create(values)
    OmegaConf.set_struct(cfg, True)
    return cfg


@pytest.mark.parametrize("make", [strict, Namespace, dict])
def test_what_a_user_logs_before_a_fit_stays_in_files(make, tmp_path):
    loggers = [csv(tmp_path / "csv"), tensorboard(tmp_path / "tensorboard")]
    for logger in loggers:
        logger.log_hyperparams(make(lr=0.1, model={"width": 4}))
    fit(tmp_path, loggers, Recorder(), data=Data())
    for logger in loggers:
        assert read(Path(logger.save_dir) / "run" / "hparams.yaml") == {"lr": 0.1, "model": {"width": 4}}
        assert read(Path(logger.save_dir) / "run" / "augmix.yaml") == OURS


def test_struct_configurations_in_hyperparameters(tmp_path):
    loggers = [csv(tmp_path / "csv"), tensorboard(tmp_path / "tensorboard"), mlflow(tmp_path)]
    fit(tmp_path, loggers, Module(cfg=strict(model={"width": 4})))
    for logger in loggers[:2]:
        assert read(Path(logger.save_dir) / "run" / "hparams.yaml") == {"cfg": {"model": {"width": 4}}, "fold": 2}
    assert shown_by_tensorboard(tmp_path / "tensorboard") == {"cfg/model/width": 4, "fold": 2, **ON_BOARD}
    assert params(loggers[2]) == {"cfg/model/width": "4", "fold": "2", **STRINGS}


# ---- MLflow ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_mlflow_keeps_all(package, tmp_path):
    logger = mlflow(tmp_path, package)
    fit(tmp_path, logger, package=package)
    assert params(logger) == {"lr": "0.5", "layers/width": "4", "fold": "2", **STRINGS}


@pytest.mark.parametrize("mine", [{"augmix": "mine"}, {"augmix": {"severity": 9}}])
def test_mlflow_refuses_ours_where_a_user_logged_his_own(mine, tmp_path):
    logger = mlflow(tmp_path)
    logger.log_hyperparams(mine)
    with pytest.warns(UserWarning, match=r"MLFlowLogger did not take.*(Not a directory|Changing param values)") as told:
        fit(tmp_path, logger)
    assert len(refusals(told)) == 1
    assert {"lr": "0.5", "fold": "2"}.items() <= params(logger).items()
    (name,) = (name for name in params(logger) if name in ("augmix", "augmix/severity"))
    assert params(logger)[name] == ("mine" if name == "augmix" else "9")


def test_mlflow_takes_what_a_module_calls_augmix_for_the_users(tmp_path):
    logger = mlflow(tmp_path)
    with pytest.warns(UserWarning, match="MLFlowLogger did not take"):
        fit(tmp_path, logger, Module(augmix={"severity": 9}))
    assert params(logger)["augmix/severity"] == "9"


def test_two_fits_in_one_run_of_mlflow(tmp_path, recwarn):
    logger = mlflow(tmp_path)
    fit(tmp_path, logger)
    fit(tmp_path, logger)
    assert not refusals(recwarn)
    with pytest.warns(UserWarning, match=r"MLFlowLogger did not take.*'3\.0'.*'5\.0'"):
        fit(tmp_path, logger, severity=5)
    assert params(logger) == {"lr": "0.5", "layers/width": "4", "fold": "2", **STRINGS}


# ---- Weights & Biases -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_wandb_keeps_all(package, tmp_path):
    logger = package.loggers.WandbLogger(save_dir=tmp_path, offline=True)
    module, _ = CLASSES[package]
    fit(tmp_path, logger, module(lr=0.5, augmix={"mine": True}), package=package)
    fit(tmp_path, logger, module(lr=0.5, augmix={"mine": True}), package=package, severity=5)
    kept = dict(logger.experiment.config)
    logger.experiment.finish()
    assert kept == {"lr": 0.5, "augmix": {"mine": True}, "fold": 2, **FLAT, "augmix/severity": 5.0}


# ---- Loggers of users -----------------------------------------------------------------------------------------------


class Own(Logger):
    name, version = "own", 0

    def __init__(self, error=None):
        super().__init__()
        self.error = error
        self.logged = []

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        self.logged.append(dict(params))
        if self.error is not None and "augmix/severity" in params:
            raise self.error


def test_a_logger_of_ones_own_is_told_once_after_its_own(tmp_path):
    logger = Own()
    fit(tmp_path, logger, max_epochs=2)
    assert logger.logged == [{"lr": 0.5, "layers": {"width": 4}, "fold": 2}, FLAT]


def test_a_logger_that_raises_is_one_warning_and_the_others_are_told(tmp_path):
    loggers = [Own(TypeError("no lists")), csv(tmp_path), Own(ValueError("no numbers")), Own()]
    with pytest.warns(UserWarning, match="did not take") as told:
        fit(tmp_path, loggers, max_epochs=2)
    first, second = refusals(told)
    assert "Own did not take AugMix's hyperparameters" in first
    assert "TypeError: no lists" in first
    assert "ValueError: no numbers" in second
    assert loggers[-1].logged[-1] == FLAT
    assert read(tmp_path / "run" / "augmix.yaml") == OURS


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "run" / "augmix.yaml").mkdir(parents=True)
    with pytest.warns(UserWarning, match=r"CSVLogger did not take .*augmix\.yaml"):
        fit(tmp_path, csv(tmp_path))


@pytest.mark.parametrize("settings", [{"logger": False}, {"logger": None}, {"fast_dev_run": True}])
@pytest.mark.parametrize("package", PACKAGES)
def test_without_a_logger(package, settings, tmp_path):
    settings = {"logger": csv(tmp_path, package), **settings}
    fit(tmp_path, package=package, **settings)
    assert not (tmp_path / "run").exists()


def test_the_tuner_leaves_the_telling_to_the_fit(tmp_path):
    logger = Own()
    module = Module(lr=0.5)
    module.lr = 0.5
    callback = AugMixCallback(3, augmentation_set=["rotate"], seed=5)
    finder = pl.callbacks.BatchSizeFinder(max_trials=1, steps_per_trial=1)
    data = TrainingData(fold=2)
    data.batch_size = 2
    run = trainer(finder, callback, root=tmp_path, logger=logger, max_epochs=1, log_every_n_steps=1)
    run.fit(module, datamodule=data)
    assert logger.logged == [{"lr": 0.5, "fold": 2}, FLAT]


# ---- Pictures -------------------------------------------------------------------------------------------------------


def fit_with_images(root, logger, package=pl, data=None, count=4, **settings):
    run = trainer(
        AugMixCallback(10, **CERTAIN, seed=5, log_images=count),
        root=root,
        package=package,
        logger=logger,
        log_every_n_steps=1,
        **settings,
    )
    module, of_data = CLASSES[package]
    run.fit(module(), datamodule=data or of_data())
    return run


def assert_is_four_pairs(picture):
    """Four training images of 12×10 pixels in a row above the same ones with AugMix, 2 pixels between."""
    levels = np.asarray(picture)
    assert levels.shape == (12 + 2 + 12, 4 * 10 + 3 * 2, 3)
    for number in range(4):
        left = 12 * number
        assert not is_augmented(levels[:12, left : left + 10])
        assert is_augmented(levels[14:, left : left + 10])


@pytest.mark.parametrize("package", PACKAGES)
def test_tensorboard_shows_training_images_beside_their_originals(package, tmp_path):
    fit_with_images(tmp_path, tensorboard(tmp_path, package), package)
    events = EventAccumulator(str(tmp_path / "run"), {"images": 0}).Reload()
    (logged,) = events.Images("augmix/images")
    assert logged.step == 0
    assert_is_four_pairs(Image.open(io.BytesIO(logged.encoded_image_string)))


@pytest.mark.parametrize("package", PACKAGES)
def test_mlflow_keeps_training_images_beside_their_originals(package, tmp_path):
    logger = mlflow(tmp_path, package)
    fit_with_images(tmp_path, logger, package)
    with Image.open(next(tmp_path.glob("mlflow/**/augmix/images.png"))) as picture:
        assert_is_four_pairs(picture)


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_wandb_keeps_training_images_beside_their_originals(package, tmp_path):
    logger = package.loggers.WandbLogger(save_dir=tmp_path, offline=True)
    fit_with_images(tmp_path, logger, package)
    logger.experiment.finish()
    with Image.open(next(tmp_path.glob("wandb/**/media/images/augmix/*.png"))) as picture:
        assert_is_four_pairs(picture)


def test_a_logger_of_figures_alone_is_skipped_without_a_fuss(tmp_path, recwarn):
    fit_with_images(tmp_path, csv(tmp_path))
    fit_with_images(tmp_path, Own(), fast_dev_run=True)  # Lightning takes a logger of its own instead
    assert not refusals(recwarn)


def test_training_images_are_the_same_with_pictures_as_without(tmp_path):
    for seed in (None, 5):
        seen = []
        for count in (0, 4):
            module = Recorder()
            pl.seed_everything(1)
            callback = AugMixCallback(10, **CERTAIN, seed=seed, log_images=count)
            trainer(callback, root=tmp_path, logger=csv(tmp_path / f"{seed}-{count}")).fit(module, datamodule=Data())
            assert module.fraction("train") == [1.0, 1.0]
            seen.append(module.seen["train"])
        assert seen[0] == seen[1]


def test_what_cannot_be_shown_is_a_warning_and_training_goes_on(tmp_path):
    refusing = tensorboard(tmp_path)
    refusing.experiment.add_image = lambda *args, **kwargs: 1 / 0
    with pytest.warns(UserWarning, match="TensorBoardLogger did not take augmix/images: ZeroDivisionError"):
        fit_with_images(tmp_path, refusing)
    with pytest.warns(UserWarning, match="Own did not take augmix/images: TypeError: pictures go to the loggers of"):
        fit_with_images(tmp_path, Own())
    module = Recorder({"train": lambda: loader(Stream())})
    run = trainer(AugMixCallback(10, **CERTAIN, log_images=4), root=tmp_path, logger=csv(tmp_path / "csv"))
    with pytest.warns(UserWarning, match="No training images are logged: an iterable dataset"):
        run.fit(module)
    assert module.fraction("train") == [1.0, 1.0]


class Stream(IterableDataset):
    def __init__(self):
        self.transform = to_tensor()

    def __iter__(self):
        return ((self.transform(dim_image(index)), index) for index in range(8))
