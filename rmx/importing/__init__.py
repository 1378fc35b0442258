"""`rmx import`: what a command or file of another reward-model trainer means as an rmx command.

peer_tables.py    every key of the three interfaces, from YAML: what it becomes, or why it has no counterpart
command_words.py  a file, or the words of a command, -> keys and values
translating.py   keys and values -> overrides, and an account of every key
rules.py, from_trl.py, from_llamafactory.py, from_openrlhf.py   what takes several keys together
pages.py         docs/coming_from/*.md, written from the same tables
"""
