"""Files and hub datasets → rows: what a path means, and how each kind of file is read."""
