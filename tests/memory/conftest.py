"""The tests measure with the code of the benchmark scripts, which lie beside `tests/`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
