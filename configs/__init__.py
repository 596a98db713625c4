"""YAML of the commands, installed as ``lightning_augmix.configs``; Hydra reads only folders that are packages."""
