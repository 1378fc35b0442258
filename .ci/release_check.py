"""Builds sdist and wheel, installs the wheel into an empty environment, and uses it from a foreign folder.

    python .ci/release_check.py [--outdir dist]

What is built is left in `dist/`, so that what was checked is what is uploaded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(command: list[str | Path], **options: object) -> str:
    """Run a command, show it, and return what it printed; stop where it fails."""
    words = [str(word) for word in command]
    sys.stdout.write(f"$ {' '.join(words)}\n")
    sys.stdout.flush()
    done = subprocess.run(words, text=True, capture_output=True, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        sys.exit(f"{done.stdout[-3000:]}{done.stderr[-3000:]}\nreleased nothing: exit code {done.returncode}")
    return str(done.stdout)


def main() -> None:
    """Build, install, run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outdir", type=Path, default=ROOT / "dist")
    dist: Path = parser.parse_args().outdir.resolve()
    shutil.rmtree(dist, ignore_errors=True)
    run([sys.executable, "-m", "build", "--outdir", dist, ROOT])
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        venv.create(folder / "env", with_pip=True)
        python, rmx = folder / "env/bin/python", folder / "env/bin/rmx"
        lock = ROOT / "requirements.lock"
        run([python, "-m", "pip", "install", "--quiet", "--no-cache-dir", "-c", lock, wheel], env=clean)
        foreign = folder / "elsewhere"
        foreign.mkdir()
        page = run([rmx, "--help"], cwd=foreign, env=clean)
        assert "rmx model=" in page, page
        run([rmx, "--cfg", "job", "model=qwen3", "peft=lora"], cwd=foreign, env=clean)
        tiny = ["data.size=200", "trainer.max_steps=5", "trackers=[]", "verbose=false", "output_dir=run"]
        run([rmx, *tiny], cwd=foreign, env=clean)
        results = json.loads((foreign / "run/all_results.json").read_text(encoding="utf-8"))
        assert 0.0 <= results["eval_accuracy"] <= 1.0, results
        assert (foreign / "run/report.html").is_file() and (foreign / "run/model/model.safetensors").is_file()
        where = run([python, "-c", "import rmx; print(rmx.__file__)"], cwd=foreign, env=clean).strip()
        assert where.startswith(str(folder)), where
    sys.stdout.write(f"{wheel.name} and {sdist.name} are in {dist}; eval accuracy {results['eval_accuracy']:.3f}\n")


if __name__ == "__main__":
    main()
