"""The console commands, each a thin Hydra application, with their data and models."""
