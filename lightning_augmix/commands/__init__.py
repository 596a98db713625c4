"""The console commands, each a thin Hydra application, and the data and models they come with."""
