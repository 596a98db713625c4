"""Your own Hydra application, with AugMix from the installed configs: no path to set, no schema to copy.

python main.py augmix.severity=5
python main.py augmix=off
"""

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    print("epochs:", cfg.epochs)
    callbacks = [instantiate(cfg.augmix)]
    print("callbacks:", [getattr(callback, "transform", callback) for callback in callbacks])


if __name__ == "__main__":
    main()
