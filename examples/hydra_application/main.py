"""A Hydra application of one's own that takes AugMix from the installed configs: no path to set, no schema to copy.

python main.py augmix.severity=5 augmix.augmentation_set=safe
"""

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    callback = instantiate(cfg.augmix)
    print("epochs:", cfg.epochs)
    print("callback:", callback.transform)


if __name__ == "__main__":
    main()
