"""Where the processes of one run come from: who started this one, how rmx starts them itself, how they meet.

    origin     the variables of torchrun, accelerate, srun and mpirun → rank, ranks, meeting point
    local      launch=local: this machine, through torch's elastic launcher
    slurm      launch=slurm: a Slurm job, through submitit
    ray_cluster  launch=ray: the workers of Ray Train's TorchTrainer
    ray_worker   what runs on the machines of a Ray cluster
    rank_command  one rank as a cluster runs it: a process of its own
    began      when the job began that this process works for
    board      what every rank is doing and how it ended, in a store that all can read
    ranks      this process among them: meeting, notes, one message at the end

Nothing heavy is imported before ranks are started or met.
"""

from rmx.launch.began import seconds_since_job_began
from rmx.launch.local import LocalRanks
from rmx.launch.origin import Origin, adopt, origin_of
from rmx.launch.ranks import end_with, meet, named_waits, note, refuse_other_ranks, stop_with_parent
from rmx.launch.ray_cluster import RayRanks
from rmx.launch.slurm import SlurmRanks

__all__ = [
    "LocalRanks",
    "Origin",
    "RayRanks",
    "SlurmRanks",
    "adopt",
    "end_with",
    "meet",
    "named_waits",
    "note",
    "origin_of",
    "refuse_other_ranks",
    "seconds_since_job_began",
    "stop_with_parent",
]
