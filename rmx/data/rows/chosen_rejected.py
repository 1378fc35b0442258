"""Rows with a chosen and a rejected response → the parts of a comparison.

preference, explicit prompt     {"prompt": "2+2?", "chosen": "4", "rejected": "5"}      each a text or messages
preference, implicit prompt     {"chosen": [user, assistant], "rejected": [user, assistant]}    shared messages = prompt
dialogue (HH-RLHF)              {"chosen": "\\n\\nHuman: 2+2?\\n\\nAssistant: 4",
                                 "rejected": "\\n\\nHuman: 2+2?\\n\\nAssistant: 5"}
sharegpt                        {"conversations": [{"from": "human", "value": "2+2?"}],
                                 "chosen": {"from": "gpt", "value": "4"}, "rejected": {"from": "gpt", "value": "5"}}
alpaca                          {"instruction": "Add.", "input": "2+2", "chosen": "4", "rejected": "5",
                                 "system": "Be brief.", "history": [["question", "answer"]]}

All of them may carry `system`, `tools`, `margin`, `target` (share of annotators for chosen) or
`votes_chosen`/`votes_rejected`, `tie` and `weight`.
"""

from __future__ import annotations

from rmx.data.accounting import RowFault
from rmx.data.rows.drafts import (
    Draft,
    Row,
    RowOptions,
    alternating,
    answer,
    kind,
    make_draft,
    needed,
    prompt_messages,
    prompt_of,
    split_shared,
)
from rmx.data.rows.messages import is_dialogue, to_messages, turns_of, usual_spelling
from rmx.records import Message

__all__ = ["alpaca", "dialogue", "preference", "sharegpt"]


def preference(row: Row, options: RowOptions) -> Draft:
    """`prompt` (optional), `chosen`, `rejected`: texts or messages.

    >>> draft = preference({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, RowOptions())
    >>> draft.prompt, draft.responses[0]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}])

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    chosen, rejected = needed(row, "chosen"), needed(row, "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowFault("wrong type", f"chosen is a {kind(chosen)}, rejected is a {kind(rejected)}")
    if isinstance(chosen, str):
        prompt = prompt_of(row)
        if prompt is None and is_dialogue(chosen) and is_dialogue(rejected):
            return dialogue(row, options)
        before = prompt_messages(prompt, "prompt")
        return make_draft(row, options, before, [answer(chosen, "chosen"), answer(rejected, "rejected")])
    turns = alternating(row.get("prompt"), chosen, rejected)
    if turns is not None:
        return make_draft(row, options, *turns)
    sides = to_messages(chosen, "chosen"), to_messages(rejected, "rejected")
    if not sides[0] or not sides[1]:
        raise RowFault("empty response", "chosen" if not sides[0] else "rejected")
    if sides[0][0]["role"] == "assistant" and sides[1][0]["role"] == "assistant":
        prompt = prompt_of(row)
        if prompt is not None:
            return make_draft(row, options, prompt_messages(prompt, "prompt"), list(sides))
    elif isinstance(row.get("prompt"), list):
        before = prompt_messages(row["prompt"], "prompt")
        n = len(before)
        if n and (sides[0][:n] != before or sides[1][:n] != before):
            raise RowFault("prompts differ", "chosen or rejected does not begin with the messages of prompt")
        return make_draft(row, options, before, [sides[0][n:], sides[1][n:]])
    # A text or a conversation beside whole conversations (UltraFeedback) repeats what these say; where it does not,
    # the check of the columns finds it.
    before, responses = split_shared(sides[0], sides[1])
    return make_draft(row, options, before, responses)


def dialogue(row: Row, options: RowOptions) -> Draft:
    """HH-RLHF: two whole dialogues in one string each; the shared turns are the prompt.

    >>> draft = dialogue({"chosen": "\\n\\nHuman: 2+2?\\n\\nAssistant: 4",
    ...                   "rejected": "\\n\\nHuman: 2+2?\\n\\nAssistant: 5"}, RowOptions())
    >>> len(draft.prompt), draft.responses[1]
    (1, [{'role': 'assistant', 'content': '5'}])

    Raises:
        RowFault: no text, text before the first turn, or sides that answer different prompts.
    """
    texts = []
    for side in ("chosen", "rejected"):
        text = needed(row, side)
        if not isinstance(text, str):
            raise RowFault("wrong type", f"{side} is a {kind(text)}, not a dialogue in one string")
        usual = usual_spelling(text)
        if usual is None:
            reason = "wrong type" if text.strip() else "empty response"
            raise RowFault(reason, f"{side} is no '\\n\\nHuman:' dialogue")
        texts.append(usual)
    before, responses = _split_dialogues(*texts)
    return make_draft(row, options, before, responses)


def _split_dialogues(chosen: str, rejected: str) -> tuple[list[Message], list[list[Message]]]:
    """Shared turns and responses; nearly always the sides part in the last turn, and then the prompt is read once."""
    cut = chosen.rfind(_ANSWER)
    prompt, first = chosen[:cut], chosen[cut + len(_ANSWER) :]
    if rejected.startswith(_ANSWER, cut) and rejected.startswith(prompt) and "\n\nHuman:" not in first:
        second = rejected[cut + len(_ANSWER) :]
        if _ANSWER not in second and "\n\nHuman:" not in second:
            turns = turns_of(prompt)
            if turns and turns[-1]["role"] == "user":
                return turns, [answer(first.strip(), "chosen"), answer(second.strip(), "rejected")]
    return split_shared(turns_of(chosen), turns_of(rejected))


_ANSWER = "\n\nAssistant:"


def sharegpt(row: Row, options: RowOptions) -> Draft:
    """LLaMA-Factory's ShareGPT ranking: `conversations`, and `chosen`/`rejected` as one message each.

    >>> message = lambda role, text: {"from": role, "value": text}
    >>> sharegpt({"conversations": [message("human", "Hi")], "chosen": message("gpt", "Hello"),
    ...           "rejected": message("gpt", "No")}, RowOptions()).responses[1]
    [{'role': 'assistant', 'content': 'No'}]

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    column = "history" if row.get("history") is not None else "conversations"
    needed(row, column)
    before = prompt_messages(prompt_of({**row, "history": row[column]}), column)
    responses = []
    for side in ("chosen", "rejected"):
        value = needed(row, side)
        responses.append(answer(value, side) if isinstance(value, str) else to_messages(value, side))
    return make_draft(row, options, before, responses)


def alpaca(row: Row, options: RowOptions) -> Draft:
    """LLaMA-Factory's alpaca ranking: `instruction`, `input`, `chosen`, `rejected`, `system`, `history`.

    >>> alpaca({"instruction": "Add.", "input": "2+2", "chosen": "4", "rejected": "5"}, RowOptions()).prompt
    [{'role': 'user', 'content': 'Add.\\n2+2'}]

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    prompt = prompt_of({**row, "prompt": row.get("prompt", row.get("instruction"))})
    if prompt is None or prompt == "":
        raise RowFault("missing column", "instruction")
    if row.get("input") is not None and not isinstance(row["input"], str):
        raise RowFault("wrong type", f"input is a {kind(row['input'])}, not text")
    before = prompt_messages(prompt, "instruction")
    return make_draft(row, options, before, [answer(needed(row, side), side) for side in ("chosen", "rejected")])
