"""The files in deploy/: what they run exists and composes, and they act on exit codes as rmx means them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rmx.config import check, compose
from rmx.errors import ConfigError, TimeUp

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
BASH = pytest.mark.skipif(not Path("/bin/bash").exists(), reason="needs bash")


def documents(name: str) -> dict[str, dict[str, Any]]:
    """The documents of a YAML file by kind."""
    return {node["kind"]: node for node in yaml.safe_load_all((DEPLOY / name).read_text())}


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container


def words_of(line: str) -> list[str]:
    """The configuration words of a command line: those after `rmx`, without what the shell puts in."""
    return [word for word in line.split() if re.match(r"[a-z_/.]+=", word) and "$" not in word]


def commands() -> dict[str, list[str]]:
    """Every command in deploy/ that runs rmx: those that the files run, and those in their comments."""
    found = {
        "kubernetes": container_of(documents("kubernetes.yaml")["Job"])["args"],
        "kubernetes_nodes": words_of(" ".join(container_of(documents("kubernetes_nodes.yaml")["Job"])["args"])),
        "compose": yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["rmx"]["command"],
    }
    found["ray"] = documents("ray.yaml")["RayJob"]["spec"]["entrypoint"].split()[3:]
    for path in sorted(DEPLOY.iterdir()):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            command = re.search(
                r"(?:python -m rmx|run (?:.*) rmx|sbatch deploy/\S+|python deploy/ray_job.py)(.*)", line
            )
            if command and words_of(command[1]):
                found[f"{path.name}:{number}"] = words_of(command[1])
    return found


COMMANDS = commands()


def test_the_commands_were_found() -> None:
    assert {"kubernetes", "kubernetes_nodes", "compose", "slurm.sbatch:2"} <= set(COMMANDS)
    assert {name.partition(":")[0] for name in COMMANDS} >= {"Dockerfile", "slurm.sbatch", "compose.yaml"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_composes(name: str) -> None:
    check(compose(list(COMMANDS[name])))


# --- Containers -------------------------------------------------------------------------------------------------------


def test_the_wheel_is_built_from_what_the_image_copies(tmp_path: Path) -> None:
    """Docker's own steps without Docker: the files of COPY alone, then pip."""
    pytest.importorskip("hatchling")
    for source in copied_into_the_image():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy2
        copy(ROOT / source, tmp_path / source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(tmp_path.glob("rmx-*.whl"))


def copied_into_the_image() -> list[str]:
    text = (DEPLOY / "Dockerfile").read_text()
    return [source for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for source in line.split()]


def test_the_image_copies_what_is_there_and_stops_by_signals() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    let_through = [
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    copied = copied_into_the_image()
    assert sorted(copied) == sorted(let_through)
    assert all((ROOT / source).exists() for source in copied)
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])  # type: ignore[index]
    assert entry == ["tini", "--", "python", "-m", "rmx"]


def _pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text()


def test_the_image_has_a_supported_python() -> None:
    version = re.search(r"^ARG BASE=python:(\d+)\.(\d+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    lowest = re.search(r'requires-python = ">=(\d+)\.(\d+)"', _pyproject())
    assert version and lowest
    assert tuple(map(int, version.groups())) >= tuple(map(int, lowest.groups()))


def test_the_compose_file_names_files_that_are_there() -> None:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["rmx"]
    context = (DEPLOY / service["build"]["context"]).resolve()
    assert context == ROOT and (context / service["build"]["dockerfile"]).is_file()
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


@pytest.mark.slow
def test_the_image_builds() -> None:
    """Where a Docker daemon is at hand. Without one: `buildah bud --isolation chroot`, with a base of one's own."""
    try:
        there = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        there = False
    if not there:
        pytest.skip("no Docker daemon")
    command = ["docker", "build", "-f", "deploy/Dockerfile", "-t", "rmx-test", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    shown = subprocess.run(["docker", "run", "--rm", "rmx-test", "--version"], capture_output=True, text=True)
    assert shown.stdout.startswith("rmx ")


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def test_the_job_goes_on_when_its_time_is_up_and_ends_at_a_mistake() -> None:
    job = documents("kubernetes.yaml")["Job"]
    rules = [rule for rule in job["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    by_action = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules}
    assert by_action == {"Ignore": [TimeUp.exit_code], "FailJob": [ConfigError.exit_code]}
    assert {rule["onExitCodes"]["containerName"] for rule in rules} == {container_of(job)["name"]}
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy asks for it


def test_the_pods_of_two_nodes_meet_at_the_first() -> None:
    parts = documents("kubernetes_nodes.yaml")
    service, job = parts["Service"], parts["Job"]
    args = " ".join(container_of(job)["args"])
    name, subdomain = job["metadata"]["name"], job["spec"]["template"]["spec"]["subdomain"]
    assert service["metadata"]["name"] == subdomain and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert f"--master-addr={name}-0.{subdomain}" in args
    assert f"--nnodes={job['spec']['completions']}" in args and job["spec"]["completionMode"] == "Indexed"
    assert f"--nproc-per-node={container_of(job)['resources']['limits']['nvidia.com/gpu']}" in args
    assert f"--master-port={container_of(job)['ports'][0]['containerPort']}" in args


def test_the_ray_cluster_has_a_gpu_for_each_process() -> None:
    spec = documents("ray.yaml")["RayJob"]["spec"]
    assert spec["entrypoint"].split()[:3] == ["python", "-m", "rmx"]
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    gpus = workers["replicas"] * container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"parallel.processes={gpus}" in spec["entrypoint"]
    claim = workers["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]
    shared = documents("kubernetes_nodes.yaml")["PersistentVolumeClaim"]
    assert claim["claimName"] == shared["metadata"]["name"]


@pytest.mark.parametrize("name", ["kubernetes.yaml", "kubernetes_nodes.yaml"])
def test_run_folders_are_on_a_volume_that_is_claimed(name: str) -> None:
    parts = documents(name)
    job = parts["Job"]
    pod, container = job["spec"]["template"]["spec"], container_of(job)
    (output,) = [word.partition("=")[2] for word in container["args"] if word.startswith("output_dir=")]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert output.startswith(mounts["outputs"])
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["volumes"]}
    assert claims["outputs"] == {"claimName": parts["PersistentVolumeClaim"]["metadata"]["name"]}
    modes = parts["PersistentVolumeClaim"]["spec"]["accessModes"]
    assert modes == (["ReadWriteOnce"] if job["spec"]["completions"] == 1 else ["ReadWriteMany"])


# --- Slurm ------------------------------------------------------------------------------------------------------------

# Runs what srun is to run as so many tasks of one step, with the variables that Slurm sets for them.
SRUN = """#!{python}
import os, subprocess, sys
words = [word for word in sys.argv[1:] if word != "--kill-on-bad-exit=0"]
words[0] = sys.executable
print("srun", *sys.argv[1:], "RMX_JOB_BEGAN" in os.environ, flush=True)
if "CODE" in os.environ:
    sys.exit(int(os.environ["CODE"]))
step = dict(SLURM_STEP_ID="0", SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NODELIST="localhost", SLURM_STEP_TASKS_PER_NODE="2")
tasks = [dict(os.environ, **step, SLURM_PROCID=str(i), SLURM_LOCALID=str(i), SLURM_NODEID="0") for i in range(2)]
started = [subprocess.Popen(words, env=env) for env in tasks]
sys.exit(max(task.wait() for task in started))
"""


def sbatch(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script as slurmd would, with stand-ins for srun and scontrol."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/sh\necho scontrol $*\n"}.items():
        (tools / name).write_text(text.format(python=sys.executable) if name == "srun" else text)
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "4711",
    }
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **variables}
    command = ["/bin/bash", str(DEPLOY / "slurm.sbatch"), *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )


@BASH
@pytest.mark.parametrize(("code", "queued_again"), [(0, False), (1, False), (2, False), (75, True), (143, False)])
def test_the_batch_script_queues_itself_again_when_the_time_is_up(
    code: int, queued_again: bool, tmp_path: Path
) -> None:
    done = sbatch(tmp_path, "model=gpt2", "tags=[a b]", CODE=str(code))
    assert done.returncode == code
    assert ("scontrol requeue 4711" in done.stdout) == queued_again
    assert "output_dir=outputs/slurm-4711" in done.stdout  # the same when it is queued again
    assert "model=gpt2 tags=[a b] True" in done.stdout


@BASH
def test_the_batch_script_is_one_task_for_each_gpu_and_stops_before_its_time() -> None:
    text = (DEPLOY / "slurm.sbatch").read_text()
    assert subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sbatch")], check=False).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", text, re.MULTILINE))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    hours, minutes, seconds = map(int, options["time"].split(":"))
    from rmx.training.time_limit import seconds_of

    asked = re.search(r"trainer.stop_after=(\S+)", text)
    assert asked and 300 <= 3600 * hours + 60 * minutes + seconds - seconds_of(asked[1]) <= 900


@BASH
@pytest.mark.slow
def test_a_batch_job_of_two_tasks_stops_queues_itself_and_continues(tmp_path: Path) -> None:
    """The real thing but for Slurm: two tasks of srun train until the time is up; queued again, they go on."""
    words = ["trackers=[]", "trainer.max_steps=100000", "phases=[train]", "trainer.use_cpu=true"]
    steps = [0]
    for _ in range(2):
        done = sbatch(tmp_path, *words, "trainer.stop_after=120s")
        assert done.returncode == 75, done.stdout[-2000:] + done.stderr[-3000:]
        assert "scontrol requeue 4711" in done.stdout
        (said,) = [line for line in done.stderr.splitlines() if line.startswith("rmx: ")]
        steps.append(int(said.partition("at step ")[2].split()[0]))
    assert 0 < steps[1] < steps[2]
    assert "Continuing from" in (tmp_path / "outputs" / "slurm-4711" / "run.log").read_text()
