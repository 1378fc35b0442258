"""Checkpoints that are complete or absent, verified before use, and enough to end a stopped run as if it never was.

sealing      one folder: manifest, fsync, rename, verify
folder       the run's checkpoints: stage, newest valid, set aside, rotate, room
tensors      optimizer and schedule as safetensors and JSON, without pickle
shards       tensors that several processes hold parts of
drift        what a run is made with, and how two differ
continuing   the trainer's side
"""

from rmx.checkpoints.keep import CheckpointFolder
from rmx.checkpoints.sealing import MANIFEST, Manifest, read_manifest, verify

__all__ = ["MANIFEST", "CheckpointFolder", "Manifest", "read_manifest", "verify"]
