"""What a client's tools are called at providers, and which tool a name in an answer means. Pure.

A name that a provider takes stays as it is. Every other one is replaced by the same text at every provider, so that a call is turned back
by that text alone, whatever two formats stand on the two sides.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from proxy.formats.conversation import Conversation, ToolCall, ToolDef

LONGEST_NAME: Final = 64
PLAIN: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What OpenAI, most who followed, and Anthropic take."""
GOOGLE: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")

_ODD = re.compile(r"[^a-zA-Z0-9_-]")
_BEGINNING = re.compile(r"[a-zA-Z_]")


def wire_name(name: str, namespace: str = "", *, legal: re.Pattern[str] = PLAIN) -> str:
    """A tool's name at a provider: `name`, or `namespace__name`, if that is legal there; else a text that is legal everywhere."""
    full = _full_name(name, namespace)
    return full if legal.fullmatch(full) else _replacement(full)


def usable_text(text: str) -> str:
    """The text with every character that no name may have replaced, at most 64 long."""
    return _ODD.sub("_", text)[:LONGEST_NAME]


def renamed_tools(conversation: Conversation | None) -> dict[str, ToolDef]:
    """The client's tools that a provider may know by another name or as another kind, by every name that it may use for them."""
    if conversation is None:
        return {}
    tools = [tool for tool in conversation.tools if tool.kind != "builtin"]
    own = {tool.name for tool in tools if not tool.namespace}
    renamed: dict[str, ToolDef] = {}
    for tool in tools:
        full = _full_name(tool.name, tool.namespace)
        for called in (full,) if PLAIN.fullmatch(full) and GOOGLE.fullmatch(full) else (full, _replacement(full)):
            if (called != tool.name or tool.kind == "custom") and (called == tool.name or called not in own):
                renamed.setdefault(called, tool)
    return renamed


def tool_of(call: ToolCall, renamed: Mapping[str, ToolDef]) -> ToolDef | None:
    """The renamed tool that a provider's call means; None where the name is the client's own."""
    return renamed.get(_full_name(call.name, call.namespace))


def client_name(call: ToolCall, renamed: Mapping[str, ToolDef]) -> str:
    """What a client without namespaces calls the tool of a call."""
    tool = tool_of(call, renamed)
    if tool is not None and not tool.namespace:
        return tool.name
    return wire_name(call.name, call.namespace) if call.namespace else call.name


def _full_name(name: str, namespace: str) -> str:
    return f"{namespace}__{name}" if namespace else name


def _replacement(full: str) -> str:
    digest = hashlib.blake2s(full.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    text = _ODD.sub("_", full)
    if not _BEGINNING.match(text):
        text = "_" + text
    return f"{text[: LONGEST_NAME - 9]}_{digest}"
