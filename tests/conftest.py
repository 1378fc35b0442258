"""What holds for all tests: no network, no person's caches, no surprise from the machine's settings."""

from __future__ import annotations

import os
import tempfile

# Before anything imports the libraries that read these.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RMX_CACHE", os.path.join(tempfile.gettempdir(), f"rmx-test-cache-{os.getuid()}"))
for name in ("WANDB_API_KEY", "WANDB_MODE", "RMX_ALLOW_TARGETS", "RMX_TRUST_REMOTE_CODE"):
    os.environ.pop(name, None)
