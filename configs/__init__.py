"""The YAML files of the commands, installed as ``lightning_augmix.configs``; Hydra reads only packages."""
