"""Hydra's way into `rmx.sweep`: the options of hydra/sweeper=rmx and the class that Hydra calls for `-m`."""
