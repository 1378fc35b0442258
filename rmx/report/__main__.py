"""`python -m rmx.report FOLDER...` is `rmx report FOLDER...`."""

from __future__ import annotations

import sys

from rmx.errors import RmxError
from rmx.report import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except RmxError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
