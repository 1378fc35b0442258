"""Runs the notebooks from top to bottom and keeps what they print: `make notebooks`, or with names, some of them.

Each runs in an empty folder, without network. Absolute paths are cut down to what a reader would see.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
SECONDS = 900  # for one cell; on an idle machine a whole notebook takes less than 180


def execute(path: Path, folder: Path) -> Any:
    """Run a notebook in a folder and return it with its outputs.

    Raises:
        CellExecutionError: a cell raised; the message has the cell and what it raised.
    """
    notebook = nbformat.read(path, as_version=4)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    os.environ |= {"HF_HUB_OFFLINE": "1", "IPYTHONDIR": str(folder / ".ipython"), "COLUMNS": "100"}
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = output.text.replace(f"{folder}/", "")
        if cell.cell_type == "code":
            cell.outputs = [item for item in cell.outputs if item.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    for file in sorted(HERE.glob("*.ipynb")):
        if len(sys.argv) == 1 or file.stem in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as text:
                nbformat.write(execute(file, Path(text).resolve()), file)
