"""Tool calls and tools in the one spelling that rmx works with, whatever spelling the row has.

| published as | becomes |
|---|---|
| arguments as JSON text (OpenAI) or as an object (transformers) | an object, its keys in the row's order |
| a call as `{"name", "arguments"}`, or the older `function_call` of a message | a call in `tool_calls` |
| a bare function as tool, `{"name", "description", "parameters"}` (LLaMA-Factory) | the function of a tool |
| tools, one tool, or its parameters as JSON text | lists and objects |

Two rows that differ in the spelling alone get the same text from every template.
"""

from __future__ import annotations

import json
from typing import Any

from rmx.data.accounting import RowFault
from rmx.records import Message

__all__ = ["calls_in_one_spelling", "tool_calls", "tools_in_one_spelling"]


def calls_in_one_spelling(message: Message, place: str = "message") -> Message:
    """The message with its calls under `tool_calls`, as `tool_calls` returns them; without the key if there are none.

    Raises:
        RowFault: a call without a name.

    >>> calls_in_one_spelling({"function_call": {"name": "now", "arguments": "{}"}})
    {'tool_calls': [{'type': 'function', 'function': {'name': 'now', 'arguments': {}}}]}
    """
    if "tool_calls" not in message and "function_call" not in message:
        return message
    rest = {key: value for key, value in message.items() if key not in ("tool_calls", "function_call")}
    given = message.get("tool_calls") or message.get("function_call")
    return {**rest, "tool_calls": tool_calls(given, place)} if given else rest


def tool_calls(given: Any, place: str) -> list[dict[str, Any]]:
    """One call or a list of calls, as objects or as JSON text, in one spelling.

    Raises:
        RowFault: no JSON, or a call without a name.

    >>> tool_calls('{"name": "weather", "arguments": "{\\\\"city\\\\": \\\\"Paris\\\\"}"}', "message 2")
    [{'type': 'function', 'function': {'name': 'weather', 'arguments': {'city': 'Paris'}}}]
    """
    calls = _from_json(given, f"{place}: its tool calls are text, but not JSON")
    return [_call(call, place) for call in (calls if isinstance(calls, list) else [calls])]


def _call(given: Any, place: str) -> dict[str, Any]:
    call = _from_json(given, f"{place}: a tool call is text, but not JSON")
    function = call.get("function", call) if isinstance(call, dict) else None
    if not (isinstance(function, dict) and isinstance(function.get("name"), str)):
        raise RowFault("wrong type", f"{place}: a tool call has no name")
    beside = {key: value for key, value in call.items() if function is not call and key not in ("type", "function")}
    wanted = {"name": function["name"], "arguments": _arguments(function.get("arguments"))}
    return {**beside, "type": "function", "function": wanted}


def _arguments(given: Any) -> Any:
    """An object; text that is no JSON object stays what it is, because a model may have written just that."""
    if given is None or given == "":
        return {}
    if isinstance(given, str):
        try:
            parsed = json.loads(given)
        except ValueError:
            return given
        return parsed if isinstance(parsed, dict) else given
    return given


def tools_in_one_spelling(given: Any) -> tuple[dict[str, Any], ...] | None:
    """The tools of a row; None where it has none.

    Raises:
        RowFault: not a list of objects, or text that is not JSON.

    >>> tools_in_one_spelling('[{"name": "now", "description": "The time", "parameters": {}}]')
    ({'type': 'function', 'function': {'name': 'now', 'description': 'The time', 'parameters': {}}},)
    """
    if not given or (isinstance(given, str) and not given.strip()):
        return None
    tools = _from_json(given, "tools is text, but not JSON")
    tools = [tools] if isinstance(tools, dict) else tools
    if not isinstance(tools, list | tuple):
        raise RowFault("wrong type", "tools is not a list of objects")
    return tuple(_tool(_from_json(tool, "a tool is text, but not JSON")) for tool in tools) or None


def _tool(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise RowFault("wrong type", "tools is not a list of objects")
    function = tool.get("function", tool)
    if not (isinstance(function, dict) and isinstance(function.get("name"), str)):
        return tool  # of a kind that only its template knows
    if function is tool:
        function = {key: value for key, value in tool.items() if key != "type" or value != "function"}
    if isinstance(function.get("parameters"), str):
        parameters = _from_json(function["parameters"] or "{}", "the parameters of a tool are text, but not JSON")
        function = {**function, "parameters": parameters}
    beside = {} if tool.get("function") is None else {k: v for k, v in tool.items() if k not in ("type", "function")}
    return {"type": "function", "function": function, **beside}


def _from_json(value: Any, fault: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise RowFault("wrong type", fault) from error
