"""Changes to Jinja text: a pinned clock, one BOS in front, and an end at the scored token.

The result is again plain Jinja for transformers' sandbox, so a tokenizer that is saved with it renders the same
text everywhere, without rmx.
"""

from __future__ import annotations

import datetime
import re
from functools import lru_cache

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from rmx.errors import ModelError

__all__ = ["literals", "markers", "pin_date", "quoted", "unpinned", "variables", "without", "wrap"]


_MARKER = re.compile(r"<[|｜][^<>|｜\s]{1,40}[|｜]>|</?(?:start_of_turn|end_of_turn)>|\[/?INST\]")


class _Generation(jinja2.ext.Extension):
    """Parses `{% generation %}`, which transformers' templates may hold; only needed to read the syntax tree."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a plain class attribute

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=16)
def _parse(source: str) -> jinja2.nodes.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    del environment.globals["lipsum"]  # so that `variables` lists it: its text is random
    try:
        return environment.parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(f"template: line {error.lineno} is not valid Jinja: {error.message}") from None


@lru_cache(maxsize=16)
def variables(source: str) -> frozenset[str]:
    """Names that a template reads from outside: `messages`, `tools`, `bos_token`, `strftime_now` ...

    >>> sorted(variables("{% set a = 1 %}{{ a }}{{ messages }}{{ bos_token }}"))
    ['bos_token', 'messages']
    """
    return frozenset(jinja2.meta.find_undeclared_variables(_parse(source)))


def literals(source: str) -> list[str]:
    """All texts that a template can write by itself: raw text and string constants."""
    tree = _parse(source)
    raw = [node.data for node in tree.find_all(jinja2.nodes.TemplateData)]
    return raw + [node.value for node in tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str)]


def markers(source: str) -> set[str]:
    """What a template writes and looks like a control token.

    >>> sorted(markers("<|user|>{{ messages }}{{ '[INST]' }} a < b > c"))
    ['<|user|>', '[INST]']
    """
    return {marker for text in literals(source) for marker in _MARKER.findall(text)}


def unpinned(source: str) -> list[str]:
    """What makes two renderings of the same conversation differ: the clock and Jinja's random helpers.

    transformers' sandbox gives a template no other source of change than these.

    >>> unpinned("{{ strftime_now('%Y') }}{{ messages | random }}")
    ['strftime_now', 'random']
    """
    found: list[str] = [name for name in ("strftime_now", "lipsum") if name in variables(source)]
    if any(node.name == "random" for node in _parse(source).find_all(jinja2.nodes.Filter)):
        found.append("random")
    return found


def pin_date(source: str, date: datetime.date) -> str:
    """Shadow `strftime_now` by a macro that knows only `date`, for every format the template asks for.

    >>> print(pin_date("{{ strftime_now('%d %b %Y') }}", datetime.date(2024, 7, 26)))  # doctest: +ELLIPSIS
    {%- macro strftime_now(format) -%}{%- if format == "%d %b %Y" -%}{{- "26 Jul 2024" -}}{%- else -%}...
    """
    if "strftime_now" not in variables(source):
        return source
    formats = [
        call.args[0].value
        for call in _parse(source).find_all(jinja2.nodes.Call)
        if isinstance(call.node, jinja2.nodes.Name)
        and call.node.name == "strftime_now"
        and call.args
        and isinstance(call.args[0], jinja2.nodes.Const)
    ]
    branches = "".join(
        f"{{%- {'elif' if number else 'if'} format == {quoted(wanted)} -%}}{{{{- {quoted(date.strftime(wanted))} -}}}}"
        for number, wanted in enumerate(dict.fromkeys(formats))
    )
    other = f"{{{{- {quoted(date.isoformat())} -}}}}"
    body = f"{branches}{{%- else -%}}{other}{{%- endif -%}}" if branches else other
    return f"{{%- macro strftime_now(format) -%}}{body}{{%- endmacro %}}\n{source}"


def without(source: str, names: list[str]) -> str:
    """Let a template read special tokens that the tokenizer does not have as empty text.

    >>> without("{{ bos_token + 'a' }}", ["bos_token", "eos_token"])
    "{%- set bos_token = '' %}\\n{{ bos_token + 'a' }}"
    """
    used = variables(source)
    return "".join(f"{{%- set {name} = '' %}}\n" for name in names if name in used) + source


def wrap(source: str, *, start: str, end: str | None) -> str:
    """Jinja that writes `source`'s text with `start` in front, ended at the scored token.

    `start` and `end` are Jinja expressions. `end=None`: the text already closes with a control token, so only the
    white space after it goes; otherwise `end` is appended. A rendering that asks for a generation prompt keeps its end.

    >>> wrap("{{ messages }}", start="", end="eos_token")
    '{%- set rmx_text %}\\n{{ messages }}{% endset -%}\\n{{- rmx_text -}}\\n{%- if not add_generation_prompt -%}...'
    """
    body = re.sub(r"(\r\n|\r|\n)\Z", "", source)  # Jinja drops one newline at the end of a source, here it is inside
    head = f"{{{{- {start} -}}}}\n" if start else ""
    # trim_blocks eats the newline after `set`, so the first line of `source` still begins a line
    opened = f"{{%- set rmx_text %}}\n{body}{{% endset -%}}\n{head}"
    if end is None:
        return (
            f"{opened}{{%- if add_generation_prompt -%}}\n{{{{- rmx_text -}}}}\n{{%- else -%}}\n"
            f"{{{{- rmx_text.rstrip() -}}}}\n{{%- endif -%}}"
        )
    return f"{opened}{{{{- rmx_text -}}}}\n{{%- if not add_generation_prompt -%}}\n{{{{- {end} -}}}}\n{{%- endif -%}}"


def quoted(text: str) -> str:
    """`text` as a Jinja string constant.

    >>> quoted('a"b')
    '"a\\\\"b"'
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
