"""`rmx verify`: is this folder fit to score with, and do all who load it get the same scores?

opened.py      the folder as its consumers see it: config, tokenizer, headers of the weights, the loaded model
rows.py        the ten conversations that are scored
traps.py       the known traps: how each is found, what it does, what to do
consumers.py   the ten rows, scored the way each consumer scores
examined.py    all of it, in order
"""
