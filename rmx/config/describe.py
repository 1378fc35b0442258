"""Write library.json again after an update of a library: `python -m rmx.config.describe`."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from rmx.config.library import LIBRARY_FILE, TARGETS
from rmx.config.signatures import signature_as_json
from rmx.files import write_text

__all__ = ["describe"]


def describe(target: str) -> dict[str, Any]:
    """Import a target and return its entry of library.json."""
    return {"version": version(target.partition(".")[0]), **dict(signature_as_json(target))}


def main() -> None:
    """Write library.json again, a parameter a line."""
    entries = []
    for target in TARGETS:
        entry = describe(target)
        lines = [
            f"   {json.dumps(name)}: {json.dumps(entry['parameters'][name])}" for name in sorted(entry["parameters"])
        ]
        head = ", ".join(f"{json.dumps(key)}: {json.dumps(entry[key])}" for key in ("version", "required", "is_open"))
        body = ",\n".join(lines)
        defaults = json.dumps(entry["defaults"], sort_keys=True)
        entries.append(f' {json.dumps(target)}: {{{head},\n  "defaults": {defaults},\n  "parameters": {{\n{body}}}}}')
    write_text(LIBRARY_FILE, "{\n" + ",\n".join(entries) + "\n}\n")


if __name__ == "__main__":
    main()
