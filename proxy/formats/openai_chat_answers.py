"""Whole Chat Completions answers, from providers and to clients; usage, citations and why an answer ends. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

from catalog.usage import TokenUsage
from proxy.formats import openai_chat
from proxy.formats.conversation import (
    Answer,
    AnyItem,
    Audio,
    CannotParse,
    Echo,
    Image,
    Origin,
    Reasoning,
    Refusal,
    Stop,
    Text,
    ToolCall,
    ToolDef,
)
from proxy.formats.openai_chat_fields import NAME, dicts_of, is_count, mapping_of, raw_of, text_of
from proxy.formats.openai_chat_reasoning import detail_format, format_of, render_details, seal_detail, text_detail
from proxy.formats.openai_chat_requests import parse_assistant
from proxy.formats.tool_names import client_name, renamed_tools, tool_of

_STOPS: Final[Mapping[str, Stop]] = {
    "stop": Stop.END,
    "eos": Stop.END,
    "length": Stop.LENGTH,
    "model_length": Stop.LENGTH,
    "model_context_window_exceeded": Stop.LENGTH,
    "tool_calls": Stop.TOOL,
    "function_call": Stop.TOOL,
    "content_filter": Stop.FILTER,
    "sensitive": Stop.FILTER,
    "refusal": Stop.FILTER,
    "error": Stop.FAULT,
    "network_error": Stop.FAULT,
    "insufficient_system_resource": Stop.FAULT,
}
_FINISHES: Final[Mapping[Stop, str]] = {
    Stop.END: "stop",
    Stop.LENGTH: "length",
    Stop.TOOL: "tool_calls",
    Stop.FILTER: "content_filter",
    Stop.PAUSE: "stop",
    Stop.FAULT: "error",
}


def _unwrap_input(arguments: str) -> str:
    """The free text in the arguments of a function that stands for a custom tool."""
    try:
        found = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = found.get("input") if isinstance(found, dict) else None
    return text if isinstance(text, str) else arguments


def read_usage(usage: Any) -> TokenUsage | None:
    """Turn a `usage` object into disjoint buckets; None when there is none."""
    return openai_chat.read_usage(usage) if isinstance(usage, dict) else None


def render_usage(usage: TokenUsage) -> dict[str, Any]:
    """The counts as a `usage` object: `prompt_tokens` contains what was cached, `completion_tokens` the reasoning."""
    return {
        "prompt_tokens": usage.total_input_tokens,
        "completion_tokens": usage.total_output_tokens,
        "total_tokens": usage.total_input_tokens + usage.total_output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
            "audio_tokens": usage.audio_input_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": usage.audio_output_tokens},
        **({"server_tool_use_details": {"web_search_requests": usage.web_searches}} if usage.web_searches else {}),  # as OpenRouter says it
    }


def read_stop(reason: str, *, calls: bool) -> Stop:
    """The hub's word for a finish reason. With calls there, "stop" means that they are to be made (Gemini's OpenAI endpoint, xAI)."""
    stop = _STOPS.get(reason, Stop.END)
    return Stop.TOOL if calls and stop is Stop.END else stop


def make_call_id(answer_id: str, created: int, place: int) -> str:
    """An id for a call whose provider gave none: the same for the same answer, another in the next."""
    return f"call_{hashlib.blake2s(f'{answer_id}/{created}/{place}'.encode(errors='surrogatepass'), digest_size=12).hexdigest()}"


def search_results(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Perplexity's sources, which stand beside the choices, as annotations."""
    cited = fields.get("citations")
    sources = dicts_of(fields.get("search_results")) or [{"url": url} for url in (cited if isinstance(cited, list) else ())]
    return [_url_citation(source) for source in sources if text_of(source.get("url"))]


def _url_citation(source: Mapping[str, Any]) -> dict[str, Any]:
    start, end = source.get("start_index"), source.get("end_index")
    return {
        "type": "url_citation",
        "url_citation": {
            "url": source.get("url") or source.get("uri"),
            "title": text_of(source.get("title")),
            "start_index": start if is_count(start) else 0,
            "end_index": end if is_count(end) else 0,
        },
    }


def render_citation(raw: Any, origin: Origin | None) -> dict[str, Any] | None:
    """A citation as an annotation of this format; None where it names no address."""
    if not isinstance(raw, dict):
        return None
    if origin == NAME:
        return raw
    source = raw["web"] if isinstance(raw.get("web"), dict) else raw
    return _url_citation(source) if text_of(source.get("url")) or text_of(source.get("uri")) else None


def parse_answer(fields: Mapping[str, Any]) -> Answer:
    """Read a whole answer: its first choice.

    Raises: CannotParse.
    """
    choices = fields.get("choices")
    if not isinstance(choices, list) or fields.get("error"):
        raise CannotParse("The answer has no choices.", param="choices")
    choice = next((one for one in dicts_of(choices) if one.get("index") in (None, 0)), {})
    message = mapping_of(choice.get("message"))
    created = fields.get("created")
    answer = Answer(
        id=text_of(fields.get("id")),
        model=text_of(fields.get("model")),
        items=[],
        stop=None,
        usage=read_usage(fields.get("usage")),
        created=created if is_count(created) else 0,
        raw=fields,
        origin=NAME,
    )
    answer.items = _parse_answer_message(message, answer)
    texts = [item for item in answer.items if isinstance(item, Text)]
    if texts and not texts[-1].citations:
        texts[-1].citations = search_results(fields)
    if reason := text_of(choice.get("finish_reason")):
        answer.stop = read_stop(reason, calls=any(isinstance(item, ToolCall) for item in answer.items))
        answer.raw_stop = reason
        answer.stop_text = text_of(choice.get("stop_reason"))
    answer.logprobs = choice.get("logprobs")
    return answer


def _parse_answer_message(message: dict[str, Any], answer: Answer) -> list[AnyItem]:
    """The items of an answer's message. Unlike a client, a provider is read as far as it makes sense."""
    content = message.get("content")
    calls = dicts_of(message.get("tool_calls"))
    for place, call in enumerate(calls):
        if not text_of(call.get("id")):
            calls[place] = {**call, "id": make_call_id(answer.id, answer.created, place)}
    tidy: dict[str, Any] = {
        **message,
        "content": content if isinstance(content, str) else dicts_of(content),
        "tool_calls": calls,
        "refusal": text_of(message.get("refusal")),
    }
    for name in ("audio", "function_call"):
        tidy[name] = message.get(name) if isinstance(message.get(name), dict) else None
    if tidy["function_call"] is not None:
        tidy["function_call"] = {**tidy["function_call"], "name": text_of(tidy["function_call"].get("name"))}
    return parse_assistant(tidy, "content", legacy_id=make_call_id(answer.id, answer.created, 0))


def is_legacy(echo: Echo) -> bool:
    """Whether the client asked in the words of before there were tools."""
    return bool(echo.request.get("functions")) and not echo.request.get("tools")


def render_image_part(item: Image, index: int) -> dict[str, Any]:
    """A picture that the model made, as an entry of `images`."""
    url = f"data:{item.media_type or 'image/png'};base64,{item.data}" if item.data else item.url
    return {"type": "image_url", "image_url": {"url": url}, "index": index}


def render_audio(item: Audio) -> dict[str, Any]:
    """What the model spoke, as the message's `audio`."""
    given = mapping_of(raw_of(item).get("audio"))
    return {
        **given,
        "id": item.audio_id or given.get("id") or "audio_0",
        "data": item.data,
        "transcript": item.transcript,
        "expires_at": given.get("expires_at") or 0,
    }


def render_answer(answer: Answer, echo: Echo) -> dict[str, Any]:
    """The JSON to give to a client of this format."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    texts: list[str] = []
    thoughts: list[str] = []
    details: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    refusals: list[str] = []
    changed = renamed_tools(echo.conversation)
    usual = format_of(answer.model)
    groups = 0
    for item in answer.items:
        match item:
            case Text():
                texts.append(item.text)
                notes += [note for raw in item.citations if (note := render_citation(raw, item.origin)) is not None]
                if item.signature:
                    details.append(text_detail(item, groups, usual))
                    groups += 1
            case Reasoning():
                thoughts += [item.text] if item.text else item.summary
                found = render_details(item, groups, usual)
                details += found
                groups += bool(found)
            case ToolCall():
                calls.append(render_call(item, changed))
                for seal in item.seals:
                    details.append(seal_detail(seal, owner=item.call_id, format_name=detail_format(item, [seal], usual), index=groups))
                    groups += 1
            case Refusal():
                refusals.append(item.text)
            case Image():
                images.append(render_image_part(item, len(images)))
            case Audio():
                message["audio"] = render_audio(item)
            case _:
                pass  # built-in tools ran at the provider: a client of this format sees only what came of them
    if texts:
        message["content"] = "".join(texts)
    if refusals or answer.refusal:
        message["refusal"] = "".join(refusals) or answer.refusal
    elif not calls and message["content"] is None and "audio" not in message:
        message["content"] = ""
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    lists = {"reasoning_details": details, "annotations": notes, "images": images, "tool_calls": calls}
    message |= {name: values for name, values in lists.items() if values}
    finish = finish_of(answer.stop or Stop.END, calls=bool(calls), legacy=is_legacy(echo))
    if calls and is_legacy(echo):
        message["function_call"] = message.pop("tool_calls")[0].get("function")
    logprobs = answer.logprobs
    if isinstance(logprobs, list):
        logprobs = {"content": logprobs, "refusal": None}
    rendered: dict[str, Any] = {
        "id": echo.id,
        "object": "chat.completion",
        "created": echo.created,
        "model": echo.model,
        "choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}],
    }
    if answer.usage is not None:
        rendered["usage"] = render_usage(answer.usage)
    return rendered


def finish_of(stop: Stop, *, calls: bool, legacy: bool) -> str:
    """The `finish_reason`; `legacy` for a client from before there were tools."""
    finish = _FINISHES[stop]
    if calls and finish == "stop":
        finish = "tool_calls"
    return "function_call" if legacy and finish == "tool_calls" else finish


def render_call(call: ToolCall, changed: Mapping[str, ToolDef]) -> dict[str, Any]:
    """A call as the client knows its tool, whatever the provider called it."""
    tool, name = tool_of(call, changed), client_name(call, changed)
    rendered: dict[str, Any] = {"id": call.call_id}
    if call.kind == "custom" or (tool is not None and tool.kind == "custom"):
        text = call.arguments if call.kind == "custom" else _unwrap_input(call.arguments)
        rendered |= {"type": "custom", "custom": {"name": name, "input": text}}
    else:
        rendered |= {"type": "function", "function": {"name": name, "arguments": call.arguments or "{}"}}
    if call.seals:
        rendered["extra_content"] = {"google": {"thought_signature": call.seals[0].data}}
    return rendered
