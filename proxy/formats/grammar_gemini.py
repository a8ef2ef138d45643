"""Owns the grammar of streams that we send to Gemini's clients: nothing but data lines (its SDKs give up on any other), and one true end."""

from typing import Any

import orjson

_DATA = (
    "text inlineData fileData functionCall functionResponse executableCode codeExecutionResult toolCall toolResponse thoughtSignature"
).split()
_PARTS_OF_TOTAL = ("promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
_STATUSES = range(400, 600)


def check(stream: bytes) -> list[str]:
    """Return what is wrong with a whole stream; empty when nothing is. A stream may end with an error in place of, or behind, its finish reason."""
    problems: list[str] = []
    chunks = _read_frames(stream, problems)
    finished = failed = False
    names: set[tuple[Any, Any]] = set()
    usage: Any = None
    for place, chunk in enumerate(chunks):

        def wrong(what: str, place: int = place) -> None:
            problems.append(f"chunk {place}: {what}")

        if failed:
            wrong("something comes after the error")
        if "error" in chunk:
            failed = True
            _check_error(chunk["error"], wrong)
            continue
        if finished:
            wrong("something comes after the end")
        names.add((chunk.get("responseId"), chunk.get("modelVersion")))
        usage = chunk.get("usageMetadata", usage)
        if "promptFeedback" in chunk:
            finished = isinstance(chunk["promptFeedback"], dict) and bool(chunk["promptFeedback"].get("blockReason"))
            if not finished:
                wrong("the prompt's feedback gives no reason")
            continue
        finished = _check_candidates(chunk.get("candidates"), wrong)
    if len(names) > 1:
        problems.append("the chunks are not of one answer")
    if any(not isinstance(name, str) or not name for pair in names for name in pair):
        problems.append("a chunk does not name its answer and model")
    if not finished and not failed:
        problems.append("the stream has no end")
    if finished and not failed and usage is None:
        problems.append("the stream tells no usage")
    if usage is not None:
        _check_usage(usage, problems)
    return problems


def _read_frames(stream: bytes, problems: list[str]) -> list[dict[str, Any]]:
    chunks: list[dict[str, Any]] = []
    if stream and not stream.endswith(b"\r\n\r\n"):
        problems.append("the last frame is not closed")
    for frame in filter(None, stream.split(b"\r\n\r\n")):
        if not frame.startswith(b"data: ") or b"\n" in frame or b"\r" in frame:
            problems.append(f"a frame is not one data line: {frame[:60]!r}")
            continue
        try:
            chunk = orjson.loads(frame[6:])
        except orjson.JSONDecodeError:
            problems.append(f"a frame is not JSON: {frame[:60]!r}")
            continue
        if isinstance(chunk, dict):
            chunks.append(chunk)
        else:
            problems.append("a chunk is not an object")
    return chunks


def _check_candidates(candidates: Any, wrong: Any) -> bool:
    """Whether the chunk has the finish reason."""
    if not isinstance(candidates, list) or len(candidates) != 1 or not isinstance(candidates[0], dict):
        wrong("there is not one candidate")
        return False
    candidate = candidates[0]
    if candidate.get("index") != 0:
        wrong("the candidate's index is not 0")
    reason = candidate.get("finishReason")
    if reason is not None and not (isinstance(reason, str) and reason and reason.upper() == reason):
        wrong(f"the finish reason is {reason!r}")
    content = candidate.get("content")
    if (
        not isinstance(content, dict)
        or content.get("role") != "model"
        or not isinstance(content.get("parts"), list)
        or not content["parts"]
    ):
        wrong("the content is not the model's, or has no parts")
        return reason is not None
    for part in content["parts"]:
        if not isinstance(part, dict):
            wrong("a part is not an object")
            continue
        if not any(name in part for name in _DATA):
            wrong(f"a part says nothing: {list(part)}")
        if "text" in part and not isinstance(part["text"], str):
            wrong("a text is not a string")
        if "functionCall" in part:
            call = part["functionCall"]
            if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not isinstance(call.get("args"), dict):
                wrong("a call has no name or no arguments")
        if not isinstance(part.get("thoughtSignature", ""), str):
            wrong("a signature is not a string")
    return reason is not None


def _check_usage(usage: Any, problems: list[str]) -> None:
    if not isinstance(usage, dict):
        problems.append("the usage is not an object")
        return
    counts = {name: value for name, value in usage.items() if name.endswith("TokenCount")}
    if any(not isinstance(value, int) or isinstance(value, bool) or value < 0 for value in counts.values()):
        problems.append("a count is not a whole number")
    elif counts.get("totalTokenCount") != sum(counts.get(name, 0) for name in _PARTS_OF_TOTAL):
        problems.append("the total is not the sum")
    elif counts.get("cachedContentTokenCount", 0) > counts.get("promptTokenCount", 0):
        problems.append("more was cached than there was")


def _check_error(error: Any, wrong: Any) -> None:
    if not isinstance(error, dict):
        wrong("the error is not an object")
        return
    if error.get("code") not in _STATUSES:
        wrong("the error's code is not an HTTP status")
    if not isinstance(error.get("message"), str) or not isinstance(error.get("status"), str):
        wrong("the error has no message or no status")
