"""Ten conversations that a reward model is examined on: five prompts, to each a good and a poor answer.

Short and long, one turn and several, code, another script, an empty line inside: what tokenizers, padding and
templates treat differently.
"""

from __future__ import annotations

from rmx.records import Message

__all__ = ["ten_conversations"]

_PROMPTS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("What is 2 + 2?",),
        "2 + 2 is 4.",
        "five",
    ),
    (
        ("How do I read a file in Python?",),
        "Open it in a with block, so that it is closed again:\n\n```python\nwith open('notes.txt') as file:\n"
        "    text = file.read()\n```\n\nFor a large file, go through it line by line: `for line in file:`.",
        "You cannot. You cannot. You cannot.",
    ),
    (
        ("Hi!", "Hello! What can I do for you?", "Why does the sea have tides?"),
        "Mostly because of the Moon. Its pull is stronger on the side of the Earth that faces it than on the far side, "
        "and the difference stretches the oceans into two bulges. The Earth turns below them, so most coasts see high "
        "water about twice a day. The Sun does the same, a little less than half as strongly: at new and full moon "
        "the two add up to spring tides.",
        "Idk, look it up yourself, this is a stupid question.",
    ),
    (
        ("Übersetze ins Japanische: „Guten Morgen“.",),
        "„Guten Morgen“ heißt auf Japanisch おはようございます (ohayō gozaimasu).",
        "asdf asdf asdf asdf 🌊🌊🌊 asdf asdf asdf asdf asdf asdf asdf asdf asdf asdf asdf asdf",
    ),
    (
        (
            "I have a headache.",
            "I am sorry to hear that. Since when?",
            "Since this morning.",
            "Did you drink enough water, and sleep well?",
            "No, neither. What should I do?",
        ),
        "Drink a large glass of water and rest for a while in a dark, quiet room. If it does not ease, gets much worse "
        "or comes with fever, a stiff neck or trouble seeing, call a doctor.",
        "Take all the pills in the house at once.",
    ),
)


def ten_conversations() -> list[list[Message]]:
    """Return the ten, good answers at even places and the poor one to the same prompt after it.

    >>> rows = ten_conversations()
    >>> len(rows), [rows[i][-1]["content"] for i in (0, 1)], len(rows[8])
    (10, ['2 + 2 is 4.', 'five'], 6)
    """
    found: list[list[Message]] = []
    for turns, good, poor in _PROMPTS:
        prompt: list[Message] = [
            {"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)
        ]
        found += [[*prompt, {"role": "assistant", "content": answer}] for answer in (good, poor)]
    return found
