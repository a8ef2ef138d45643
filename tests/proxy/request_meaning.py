"""Owns the judge of requests: what one asks, in one dict, whatever its format. Read from the formats' documentation, apart from the gateway's code."""

import json
import re
from typing import Any

Asked = dict[str, Any]


def of(shape: str, body: dict[str, Any]) -> Asked:
    """Return what a request says: system text, texts of each role, calls, results, pictures and files, names of functions."""
    asked: Asked = {"system": "", "user": "", "assistant": "", "calls": [], "results": [], "media": 0, "tools": []}
    READERS[shape](body, asked)
    for name in ("system", "user", "assistant"):
        asked[name] = re.sub(r"\s+", "", asked[name])
    asked["results"] = [re.sub(r"\s+", "", _canonical(result)) for result in asked["results"]]
    asked["tools"] = sorted(asked["tools"])
    return asked


def _each(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value]
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _canonical(result: str) -> str:
    """A result that is JSON, always in the same words."""
    try:
        return json.dumps(json.loads(result), sort_keys=True)
    except ValueError:
        return result


def _text(content: Any) -> str:
    """The text of a content that is a string or parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(one, str) for one in content):
        return "".join(content)
    return "".join(part.get("text") or part.get("refusal") or "" for part in _each(content))


def _media(content: Any, kinds: tuple[str, ...]) -> int:
    return sum(part.get("type") in kinds for part in _each(content))


def _arguments(given: Any) -> Any:
    if not isinstance(given, str):
        return given or {}
    try:
        return json.loads(given or "{}")
    except ValueError:
        return {}


def _role(name: Any) -> str:
    return {"developer": "system", "system": "system", "assistant": "assistant", "model": "assistant"}.get(str(name), "user")


def _chat(body: dict[str, Any], asked: Asked) -> None:
    for message in body["messages"]:
        content = message.get("content")
        if message["role"] == "tool":
            asked["results"].append(_text(content))
            continue
        asked[_role(message["role"])] += _text(content) + (message.get("refusal") or "")
        asked["media"] += _media(content, ("image_url", "input_audio", "file", "video_url"))
        for call in message.get("tool_calls") or []:
            function = call.get("function") or call.get("custom") or {}
            given = function.get("arguments", function.get("input"))
            asked["calls"].append((function.get("name"), _arguments(given) if "function" in call else {"input": given}))
    asked["tools"] += [function["name"] for function in body.get("functions") or []]  # what tools have replaced
    for tool in body.get("tools") or []:
        asked["tools"] += [(tool.get("function") or tool.get("custom") or {}).get("name") or tool.get("type")]


def _responses(body: dict[str, Any], asked: Asked) -> None:
    asked["system"] += body.get("instructions") or ""
    given = body.get("input")
    if isinstance(given, str):
        asked["user"] += given
    for item in _each(given):
        kind = item.get("type", "message")
        if kind == "message":
            asked[_role(item.get("role"))] += _text(item.get("content"))
            asked["media"] += _media(item.get("content"), ("input_image", "input_file", "input_audio"))
        elif kind in ("function_call", "custom_tool_call"):
            asked["calls"].append((item["name"], _arguments(item["arguments"]) if kind == "function_call" else {"input": item["input"]}))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            asked["results"].append(_text(item["output"]))
            asked["media"] += _media(item["output"], ("input_image", "input_file"))
    for tool in body.get("tools") or []:
        inner = tool.get("tools") or [tool] if tool["type"] == "namespace" else [tool]
        asked["tools"] += [one.get("name") or one["type"] for one in inner]


def _messages(body: dict[str, Any], asked: Asked) -> None:
    asked["system"] += _text(body.get("system"))
    for message in body["messages"]:
        content = message["content"]
        asked[_role(message["role"])] += content if isinstance(content, str) else ""
        for block in _each(content):
            kind = block.get("type")
            if kind == "text":
                asked[_role(message["role"])] += block["text"]
            elif kind in ("image", "document"):
                asked["media"] += 1
            elif kind == "tool_use":
                asked["calls"].append((block["name"], block["input"]))
            elif kind == "tool_result":
                asked["results"].append(_text(block.get("content")))
                asked["media"] += _media(block.get("content"), ("image", "document"))
    asked["tools"] += [tool["name"] if tool.get("type", "custom") == "custom" else tool["type"] for tool in body.get("tools") or []]


def _gemini(body: dict[str, Any], asked: Asked) -> None:
    def get(fields: dict[str, Any], name: str) -> Any:
        return fields.get(name, fields.get(re.sub(r"[A-Z]", lambda found: "_" + found[0].lower(), name)))

    def parts_of(content: Any) -> list[dict[str, Any]]:
        if isinstance(content, str):
            return [{"text": content}]
        if isinstance(content, list):
            return [part for one in content for part in parts_of(one)]
        return _each(content.get("parts")) if "parts" in content else _each(content)

    asked["system"] += "".join(part.get("text", "") for part in parts_of(get(body, "systemInstruction") or {}))
    contents = body["contents"]
    for content in contents if isinstance(contents, list) else [contents]:
        role = _role(content.get("role")) if isinstance(content, dict) else "user"
        for part in parts_of(content):
            if isinstance(part.get("text"), str) and not part.get("thought"):
                asked[role] += part["text"]
            if get(part, "inlineData") or get(part, "fileData"):
                asked["media"] += 1
            if call := get(part, "functionCall"):
                asked["calls"].append((call["name"], call.get("args") or {}))
            if answer := get(part, "functionResponse"):
                said = answer.get("response") or {}
                inner = next((said[name] for name in ("output", "result", "error", "content") if len(said) == 1 and name in said), said)
                asked["results"].append(inner if isinstance(inner, str) else json.dumps(inner, sort_keys=True))
                asked["media"] += len(answer.get("parts") or [])
    for tool in _each(body.get("tools")):
        declared = get(tool, "functionDeclarations")
        asked["tools"] += [one["name"] for one in declared] if declared else list(tool)


READERS = {"chat": _chat, "responses": _responses, "messages": _messages, "gemini": _gemini}
