"""Keys and values of another program -> overrides of rmx, and an account in which every key stands once at least."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rmx.config.overriding import override_value
from rmx.errors import did_you_mean
from rmx.importing.command_words import Given, value_of
from rmx.importing.peer_tables import UNSAID, Entry, PeerTable
from rmx.values import Mistake, shown

__all__ = ["Rule", "Said", "Translation", "hydra_text"]

# The order of the words of a command: what is trained, on what, how, and where it goes.
_ORDER = ("model", "data", "template", "loss", "peft", "parallel", "callbacks", "trainer", "phases", "seed")


@dataclass(frozen=True)
class Said:
    """A value for a key of rmx, the other program's key that says it, and whether that was given or is its default."""

    value: Any
    by: str
    given: bool


@dataclass
class Translation:
    """The command so far, and what becomes of each key.

    Args:
        table: what is known of the program's keys.
        given: the keys as they were given, by their names of today.
    """

    table: PeerTable
    given: dict[str, Any]
    words: dict[str, Said] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    differs: dict[str, str] = field(default_factory=dict)
    idle: dict[str, str] = field(default_factory=dict)
    carried: set[str] = field(default_factory=set)
    mistakes: list[Mistake] = field(default_factory=list)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a key's value, or what the other program takes for it."""
        if key in self.given:
            return self.given[key]
        entry = self.table.entries.get(key)
        return default if entry is None or entry.default is UNSAID else entry.default

    def says(self, key: str) -> bool:
        """Whether a key is given and says something: not false, null, empty or `none`."""
        value = self.given.get(key)
        return bool(value) and str(value).lower() not in ("none", "null", "false")

    def number(self, key: str, default: float = 0) -> float:
        """Return a key's number; what is none is a mistake, and the default is returned."""
        value = self.get(key)
        if value is None or value is False:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(key, f"{self.value_shown(key)} is not a number")
            return default
        return value

    def numbers(self, key: str) -> list[float]:
        """Return the numbers of a list, or of a text with commas; what is none is a mistake."""
        value = self.get(key)
        parts = value if isinstance(value, list) else str("" if value is None else value).split(",")
        try:
            return [float(part) for part in parts if str(part).strip()]
        except (TypeError, ValueError):
            self.wrong(key, f"{self.value_shown(key)} are not numbers")
            return []

    def set(self, ours: str, value: Any, *, by: str) -> None:
        """Give a key of rmx its value; what was given goes before a default, and the first before others."""
        before = self.words.get(ours)
        if by in self.given:
            self.carried.add(by)
        if before is None or not before.given:
            self.words[ours] = Said(value, by, by in self.given)
        elif by in self.given and before.value != value:
            self.lose(by, f"{before.by} says {ours}={hydra_text(before.value)} already")

    def lose(self, key: str, why: str) -> None:
        """A given key has no counterpart."""
        if key in self.given:
            self.lost[key] = why

    def differ(self, key: str, how: str) -> None:
        """A key means something a little different in rmx."""
        self.differs[key] = how

    def wrong(self, key: str, text: str) -> None:
        """A key cannot be what it is in the other program either, or is missing."""
        self.mistakes.append(Mistake(key, text))

    def translate(self, rules: Mapping[str, Rule]) -> None:
        """Go through the table, then through the keys that no table has."""
        for entry in self.table.entries.values():
            if entry.rule is None:
                self._plain(entry)
        for name in dict.fromkeys(entry.rule for entry in self.table.entries.values() if entry.rule):
            rules[name](self)
        for entry in self.table.entries.values():
            if entry.rule is not None and entry.name in self.given and entry.differs:
                self.differ(entry.name, entry.differs)
        for key in self.given:
            if key not in self.table.entries:
                hint = did_you_mean(key, list(self.table.entries))
                self.lost[key] = f"is no key of {self.table.title} {self.table.version}{'; ' + hint if hint else ''}"
        accounted = self.carried | self.lost.keys() | self.differs.keys() | {wrong.key for wrong in self.mistakes}
        for key in self.given:
            if key not in accounted:
                self.idle.setdefault(key, "asks for nothing that is not so anyway")

    def _plain(self, entry: Entry) -> None:
        given = entry.name in self.given
        if not given and (entry.default is UNSAID or (entry.to is None)):
            return
        value = self.get(entry.name)
        if entry.idle is not None:
            self.idle[entry.name] = entry.idle
        elif entry.values is not None:
            self._mapped(entry, value)
        elif entry.to is not None:
            if given and value is None and entry.default is UNSAID:
                return
            self.set(entry.to, value, by=entry.name)
        elif value is not None and not _neutral(value, entry.default):
            self.lost[entry.name] = entry.none or ""
            return
        if given and entry.differs:
            self.differ(entry.name, entry.differs)

    def _mapped(self, entry: Entry, value: Any) -> None:
        """A value by the entry's table of values."""
        word = _word(value)
        if value is None and word not in (entry.values or {}):
            return
        if word not in (entry.values or {}):
            if entry.otherwise == "keep" and entry.to:
                self.set(entry.to, value, by=entry.name)
            else:
                allowed = ", ".join(entry.values or ())
                self.lose(entry.name, entry.none or f"is none of {allowed}")
            return
        ours = (entry.values or {})[word]
        if ours is not None and entry.to:
            self.set(entry.to, ours, by=entry.name)

    def value_shown(self, key: str) -> str:
        """Return a given value as the account repeats it: short, and never a secret."""
        value = self.given[key]
        text = shown(key.replace("key", "api_key") if key.endswith(".key") else key, value)
        return text[1:-1] if text[:1] == "'" == text[-1:] else text

    def override_words(self, drop: Callable[[str, Any], bool] = lambda key, value: False) -> list[str]:
        """Return the words of the command in their order; a default is left out where `drop` says so."""
        kept = {key: said.value for key, said in self.words.items() if said.given or not drop(key, said.value)}
        order = sorted(kept, key=lambda key: (_place(key), "." in key))
        return [f"{key}={hydra_text(kept[key])}" for key in order]


Rule = Callable[[Translation], None]


def by_todays_names(table: PeerTable, given: Given) -> dict[str, Any]:
    """Return the given keys with older names replaced; a key under two names keeps the one of today."""
    out: dict[str, Any] = {}
    for key, value in given.keys.items():
        name = key if key in table.entries else table.aliases.get(key, key)
        if name == key or name not in given.keys:
            out[name] = value_of(value)
    return out


def hydra_text(value: Any) -> str:
    """Return a value in the grammar of Hydra's overrides.

    >>> hydra_text(1e-5), hydra_text(None), hydra_text([True, "a b"]), hydra_text({"min_lr_rate": 0.1})
    ('1e-5', 'null', "[true,'a b']", '{min_lr_rate: 0.1}')
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        return f"{value:.12g}".replace("e-0", "e-")
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(hydra_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {hydra_text(item)}" for key, item in value.items()) + "}"
    return override_value(str(value))


def _place(key: str) -> int:
    group = key.partition(".")[0]
    return _ORDER.index(group) if group in _ORDER else len(_ORDER)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _neutral(value: Any, default: Any) -> bool:
    """Whether a value is the default, or says no.

    >>> _neutral(0, 0.0), _neutral("false", UNSAID), _neutral("no", "no"), _neutral(True, False), _neutral([], None)
    (True, True, True, False, True)
    """
    if default is not UNSAID and (value == default or str(value) == str(default)):
        return True
    return value in (None, False, "", [], {}) or str(value).lower() in ("false", "none", "null")
