#!/usr/bin/env bash
# Everything that wants a GPU, in one go: bash benchmarks/gpu.sh OUTPUT_FOLDER [WHEELS]
#
# WHEELS is a folder of wheels to install first, for a machine without a network that has PyTorch and transformers'
# own needs. Tests and benchmark have time limits of their own; one that fails does not stop the other.
set -u
out=$1
wheels=${2:-}
cd "$(dirname "$0")/.."
mkdir -p "$out"
began=$SECONDS
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1 HF_HUB_DISABLE_TELEMETRY=1
if [ -n "$wheels" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site "$wheels"/*.whl || exit 1
  rm -rf /tmp/site/rmx /tmp/site/hydra_plugins/rmx_sweeper # this tree is what is tested; its metadata stays
  export PYTHONPATH="$PWD:/tmp/site"
fi
python3 - <<'PYTHON' 2>&1 | tee "$out/machine.txt"
import sys, torch, transformers, trl, peft
print(sys.version.split()[0], "torch", torch.__version__, "transformers", transformers.__version__, "trl", trl.__version__, "peft", peft.__version__)
print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU")
PYTHON
timeout "${TESTS_SECONDS:-170}" python3 -m pytest -m gpu tests/gpu -n 4 -p no:cacheprovider -W ignore --timeout=75 -rA --tb=short --durations=12 >"$out/tests.txt" 2>&1
echo "tests: exit $? after $((SECONDS - began)) s"
grep -aE "^(FAILED|ERROR|E  )|passed|failed|budget [0-9]|halved to|gradients [0-9]|pairs/s" "$out/tests.txt" | cut -c1-260
left=$((${ALL_SECONDS:-540} - (SECONDS - began)))
[ "$left" -gt 25 ] && timeout $((left + 15)) python3 -m benchmarks.gpu --output "$out/gpu.jsonl" --budget-seconds "$left" 2>&1 | tee "$out/benchmark.txt"
echo "done after $((SECONDS - began)) s"
