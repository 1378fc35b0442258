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
from nbformat.v4 import new_output

HERE = Path(__file__).resolve().parent
WIDTH = 120  # of what a run prints where there is no terminal
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
        if cell.cell_type == "code":
            cell.outputs = plain(cell.outputs, folder)
    return notebook


def plain(outputs: list[Any], folder: Path) -> list[Any]:
    """Return what was printed as one text, with the paths that a reader would see; other outputs stay as they are."""
    text = "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stdout")
    lines = text.replace(f"{folder}/", "").splitlines()
    boxed = [f"{line[:-1]:{WIDTH - 1}}│" if line[:1] == line[-1:] == "│" else line for line in lines]
    said = [new_output("stream", name="stdout", text="\n".join(boxed) + "\n")] if text.strip() else []
    return [*said, *(out for out in outputs if out.output_type != "stream")]


if __name__ == "__main__":
    for file in sorted(HERE.glob("*.ipynb")):
        if len(sys.argv) == 1 or file.stem in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as text:
                nbformat.write(execute(file, Path(text).resolve()), file)
