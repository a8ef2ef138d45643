"""What a Gemini call used: of its answers, and of its other methods. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalog.usage import TokenUsage
from proxy.formats.base import BYTES_PER_TOKEN
from proxy.formats.gemini_parts import camel_case, list_of, mapping_of
from proxy.formats.usage_reading import Doubts, UnreadableCount, take_count


def read_usage(obj: Any, *, web_searches: int = 0) -> TokenUsage | None:
    """Turn `usageMetadata` into disjoint buckets; None when there is none. What it breaks is among its doubts.
    The searches stand elsewhere in the answer.

    Cached tokens are inside the prompt, those of built-in tools beside it; thoughts are beside the candidates.
    """
    if not isinstance(obj, dict):
        return None
    get = obj.get
    prompt, candidates = get("promptTokenCount"), get("candidatesTokenCount")
    thoughts, cached, tools = get("thoughtsTokenCount"), get("cachedContentTokenCount"), get("toolUsePromptTokenCount")
    if candidates is None:
        candidates = get("responseTokenCount")
    if prompt is None and candidates is None and thoughts is None:
        return None
    doubts = Doubts()
    try:
        read, out, thought, reused = (
            take_count(prompt) + take_count(tools),
            take_count(candidates),
            take_count(thoughts),
            take_count(cached),
        )
        heard = said = 0
        if "promptTokensDetails" in obj or "candidatesTokensDetails" in obj:
            heard = _audio(get("promptTokensDetails")) + _audio(get("toolUsePromptTokensDetails")) - _audio(get("cacheTokensDetails"))
            said = _audio(get("candidatesTokensDetails"))
        total = take_count(get("totalTokenCount"), default=read + out + thought)
    except UnreadableCount as error:
        return error.usage
    doubts.expect("usage_total_mismatch", holds=total == read + out + thought)
    doubts.expect("usage_audio_beyond_input", holds=heard <= read)
    doubts.expect("usage_audio_beyond_output", holds=said <= out)
    if reused > read:
        doubts.note("usage_cached_beyond_input")
        read += reused
    heard, said = min(max(heard, 0), read - reused), min(said, out)
    return TokenUsage(
        input_tokens=read - reused - heard,
        cached_input_tokens=reused,
        audio_input_tokens=heard,
        output_tokens=out - said,
        reasoning_tokens=thought,
        audio_output_tokens=said,
        web_searches=web_searches,
        doubts=doubts.found,
    )


def _audio(details: Any) -> int:
    if not isinstance(details, list):
        return 0
    return sum(take_count(one.get("tokenCount")) for one in details if isinstance(one, dict) and one.get("modality") == "AUDIO")


def render_usage(usage: TokenUsage) -> dict[str, Any]:
    """The `usageMetadata` that says this."""
    metadata: dict[str, Any] = {
        "promptTokenCount": usage.total_input_tokens,
        "candidatesTokenCount": usage.output_tokens + usage.audio_output_tokens,
        "totalTokenCount": usage.total_input_tokens + usage.total_output_tokens,
    }
    if usage.cached_input_tokens:
        metadata["cachedContentTokenCount"] = usage.cached_input_tokens
    if usage.reasoning_tokens:
        metadata["thoughtsTokenCount"] = usage.reasoning_tokens
    if usage.audio_input_tokens:
        text = usage.total_input_tokens - usage.audio_input_tokens
        metadata["promptTokensDetails"] = [
            {"modality": "TEXT", "tokenCount": text},
            {"modality": "AUDIO", "tokenCount": usage.audio_input_tokens},
        ]
    if usage.audio_output_tokens:
        metadata["candidatesTokensDetails"] = [{"modality": "AUDIO", "tokenCount": usage.audio_output_tokens}]
    return metadata


@dataclass(frozen=True, slots=True)
class MethodUsage:
    """What a call of another method used; `estimated` when the provider did not say and the tokens are our own count."""

    usage: TokenUsage
    estimated: bool = False


def read_method_usage(method: str, request: Any, answer: Any) -> MethodUsage:
    """What countTokens (nothing), embedContent, batchEmbedContents, predict (embeddings, or Imagen's pictures) or generateContent used.

    Never raises: what cannot be read is estimated from the request.
    """
    answer = camel_case(answer) if isinstance(answer, dict) else {}
    if method == "countTokens":
        return MethodUsage(TokenUsage())
    predictions = [one for one in list_of(answer.get("predictions")) if isinstance(one, dict)]
    pictures = list_of(answer.get("generatedImages")) + [one for one in predictions if "bytesBase64Encoded" in one or "gcsUri" in one]
    if pictures:
        return MethodUsage(TokenUsage(images=len(pictures)))
    usage = read_usage(answer.get("usageMetadata"))
    if usage is not None and usage.is_sane():
        return MethodUsage(usage)
    if method in ("predict", "generateImages") and not any("embeddings" in one for one in predictions) and not _has_text(request):
        return MethodUsage(TokenUsage())  # every picture was filtered
    embedded = [*list_of(answer.get("embeddings")), answer.get("embedding"), *(one.get("embeddings") for one in predictions)]
    counted = [_tokens_of(one) for one in embedded if isinstance(one, dict)]
    if counted and None not in counted:
        return MethodUsage(TokenUsage(input_tokens=sum(one for one in counted if one is not None)))
    if method in ("predict", "generateImages") and not counted:
        return MethodUsage(TokenUsage())
    return MethodUsage(TokenUsage(input_tokens=-(-_text_bytes(request) // BYTES_PER_TOKEN)), estimated=True)


def _has_text(request: Any) -> bool:
    return isinstance(request, dict) and any(
        isinstance(one, dict) and isinstance(one.get("content"), str) for one in list_of(request.get("instances"))
    )


def _tokens_of(embedding: Mapping[str, Any]) -> int | None:
    statistics = camel_case(mapping_of(embedding.get("statistics")))
    try:
        return take_count(statistics["tokenCount"])
    except (KeyError, UnreadableCount):
        return None


def _text_bytes(value: Any) -> int:
    """The bytes of every text in a request, wherever it stands; data in base64 is not text."""
    size = 0
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            for name, inner in one.items():
                if isinstance(inner, str):
                    size += len(inner.encode(errors="replace")) if name in ("text", "content", "prompt", "title") else 0
                else:
                    waiting.append(inner)
    return size
