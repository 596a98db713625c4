"""The YAML files that every Hydra application sees, installed as ``lightning_augmix.configs``."""
