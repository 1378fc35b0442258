"""Trees of messages, where replies to one message are ranked → a comparison for every message with ranked replies.

tree        {"message_tree_id": ..., "prompt": {"text": "2+2?", "role": "prompter", "replies": [
                {"text": "4", "role": "assistant", "rank": 0, "replies": [...]}, ...]}}         OpenAssistant, nested
messages    {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "4", "rank": 0, ...}
                                                                               OpenAssistant, one message a row

The prompt of a comparison is the path from the root to the message that is replied to; rank 0 is best. Replies without
a rank, deleted ones, and messages with fewer than two ranked replies make no comparison, though they may be part of
the path to one.

Messages given one a row are held in memory until the last row is read, with `data.streaming`, too: replies may stand
anywhere in the file. A nested tree is one row, and nothing is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from rmx.data.accounting import RowFault
from rmx.data.rows.drafts import Draft, Row, RowOptions, kind, needed, number
from rmx.data.rows.gathering import Joined, Place
from rmx.data.rows.lists import rank
from rmx.data.rows.messages import to_messages
from rmx.records import Message

__all__ = ["Nested", "OneByOne", "message", "tree"]


class _Node(NamedTuple):
    said: Message
    rank: float | None
    own_id: object


def message(row: Row, options: RowOptions) -> Draft:
    """One message of a tree, as part of a comparison.

    >>> message({"message_id": "b", "parent_id": "a", "role": "prompter", "text": "Hi"}, RowOptions()).responses
    [[{'role': 'user', 'content': 'Hi'}]]

    Raises:
        RowFault: a message without id, role or text.
    """
    needed(row, "message_id")
    return Draft([], [[_node(row).said]], ())


def tree(row: Row, options: RowOptions) -> Draft:
    """All messages of a nested tree, as parts of comparisons.

    >>> reply = {"text": "4", "role": "assistant", "rank": 0}
    >>> tree({"prompt": {"text": "2+2?", "role": "prompter", "replies": [reply]}}, RowOptions()).responses[1]
    [{'role': 'assistant', 'content': '4'}]

    Raises:
        RowFault: a message without role or text, or replies that are no list.
    """
    return Draft([], [[node.said] for _, node, _ in _walk(needed(row, "prompt"))], ())


class Nested:
    """A comparison for every message of a nested tree that has ranked replies."""

    def __init__(self, options: RowOptions) -> None:
        self.options = options

    def add(self, row: Row, draft: Draft, place: Place) -> Iterator[Joined]:
        """The comparisons of one tree.

        Raises:
            RowFault: the replies of a message cannot be compared.
        """
        found = []
        for path, node, replies in _walk(row["prompt"]):
            compared = _compared([*path, node.said], replies, self.options)
            if compared is not None:
                found.append((compared, node.own_id))
        if not found:
            yield Joined(None, None, place, 1)
        for number_, (compared, own_id) in enumerate(found, 1):
            own = place if number_ == 1 else Place(f"{place.label}.{number_}", f"{place.where}.{number_}")
            yield Joined(compared, own_id, own, int(number_ == 1))

    def rest(self) -> Iterable[Joined]:
        """Nothing waits."""
        return ()


class OneByOne:
    """Messages of trees, one a row; all are held until the last row."""

    def __init__(self, options: RowOptions) -> None:
        self.options = options
        self.nodes: dict[Any, tuple[_Node, Any, Place]] = {}  # id → message, the id of its parent, its place
        self.twice = 0

    def add(self, row: Row, draft: Draft, place: Place) -> tuple[Joined, ...]:
        """Take in one message.

        Raises:
            RowFault: a second message of the same id.
        """
        own = row["message_id"]
        if own in self.nodes:
            raise RowFault("wrong order", "message_id stands in an earlier row, too")
        self.nodes[own] = (_node(row), row.get("parent_id"), place)
        return ()

    def rest(self) -> Iterator[Joined]:
        """The comparisons, in the order of the messages replied to; every message counts where it is used first."""
        replies: dict[Any, list[Any]] = {}
        for own, (_, parent, _) in self.nodes.items():
            replies.setdefault(parent, []).append(own)
        counted: set[Any] = set()
        for own, (node, _, place) in self.nodes.items():
            path = self._path(own)
            children = [self.nodes[reply][0] for reply in replies.get(own, ())]
            try:
                compared = (
                    None if path is None else _compared([self.nodes[n][0].said for n in path], children, self.options)
                )
            except RowFault:  # replies that say the same, or a path that is no conversation
                compared = None
            if compared is None or path is None:
                continue
            ranked = [reply for reply in replies[own] if self.nodes[reply][0].rank is not None]
            new = {*path, *ranked} - counted
            counted |= new
            yield Joined(compared, node.own_id, place, len(new))
        left = len(self.nodes) - len(counted)
        if left:
            yield Joined(None, None, next(iter(self.nodes.values()))[2], left)

    def _path(self, own: Any) -> list[Any] | None:
        """The ids from the root to a message; None when a message between is missing, or the path never ends."""
        path = [own]
        while (parent := self.nodes[path[-1]][1]) is not None:
            if parent not in self.nodes or len(path) > len(self.nodes):
                return None
            path.append(parent)
        return path[::-1]


def _compared(path: list[Message], replies: list[_Node], options: RowOptions) -> Draft | None:
    """The ranked replies of the assistant to the last message of a path."""
    ranked = [reply for reply in replies if reply.rank is not None and reply.said["role"] == "assistant"]
    if len(ranked) < 2:
        return None
    values = [-float(reply.rank or 0.0) for reply in ranked]
    try:
        return rank({}, options, path, [[reply.said] for reply in ranked], values)
    except RowFault as fault:
        if fault.reason in {"no preference", "identical responses"}:
            return None
        raise


def _walk(root: Any) -> Iterator[tuple[list[Message], _Node, list[_Node]]]:
    """Every message of a nested tree, with the path to it and the replies to it; a parent before its replies."""
    waiting: list[tuple[list[Message], Any]] = [([], root)]
    while waiting:
        path, value = waiting.pop()
        node = _node(value)
        below = value.get("replies") or []
        if not isinstance(below, list):
            raise RowFault("wrong type", f"replies is a {kind(below)}, not a list")
        yield path, node, [_node(reply) for reply in below]
        waiting += [([*path, node.said], reply) for reply in reversed(below)]


def _node(value: Any) -> _Node:
    if not isinstance(value, Mapping):
        raise RowFault("wrong type", f"a message of the tree is a {kind(value)}, not an object")
    said = to_messages([{"role": value.get("role"), "content": value.get("text")}], "message")[0]
    given = None if value.get("deleted") is True else value.get("rank")
    return _Node(said, None if given is None else number(given, "rank"), value.get("message_id"))
