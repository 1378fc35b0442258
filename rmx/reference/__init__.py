"""The reference, collected from the code: every key, metric, file, error, exit code, verb and public name.

entries          what an entry is
config_keys      keys, groups and options, from signatures, docstrings and the comments in conf/
metric_names     every number that a run logs or writes
shown_numbers    every number that pages and verbs show beside those
kept_files       every file that a run leaves
endings          error classes and exit codes
verbs            `rmx score`, `rmx bench`, ... and their options
python_names     what `import rmx` offers
look_up          a name → its entries, or the names that are near
explain          `rmx explain NAME`
reference_pages  the pages of docs/reference/; `python -m rmx.reference` writes them
"""
