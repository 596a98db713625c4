"""The YAML files of the commands; Hydra reads only packages."""
