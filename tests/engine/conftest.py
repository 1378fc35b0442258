"""The tests build the same tiny models as the benchmark scripts, which lie beside `tests/`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
