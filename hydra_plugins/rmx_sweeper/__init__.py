"""Hydra's way into `rmx.sweep`: the class that Hydra calls for `-m`; its options are in conf/hydra/sweeper/rmx.yaml."""
