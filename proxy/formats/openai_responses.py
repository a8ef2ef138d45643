"""OpenAI Responses: requests, whole answers and streams, to and from the hub, and the pass-through tap. Pure.

The provider keeps nothing: a request goes out with all its items, `store` false and sealed thinking; what a client calls by id
(`previous_response_id`, `conversation`, an item's reference) the gateway has put in before. This module is the door; what is behind it is in
`openai_responses_<part>.py`.
"""

from proxy.formats.openai_responses_answers import parse_answer, render_answer
from proxy.formats.openai_responses_items import NAME
from proxy.formats.openai_responses_output import read_usage, render_usage
from proxy.formats.openai_responses_requests import STATE_FIELDS, is_instructions, parse_request
from proxy.formats.openai_responses_sending import render_request
from proxy.formats.openai_responses_stream_in import StreamParser
from proxy.formats.openai_responses_stream_out import KEEP_ALIVE, StreamRenderer
from proxy.formats.openai_responses_tap import ResponsesAnswer, ResponsesTap, read_answer

__all__ = [
    "KEEP_ALIVE",
    "NAME",
    "STATE_FIELDS",
    "ResponsesAnswer",
    "ResponsesTap",
    "StreamParser",
    "StreamRenderer",
    "is_instructions",
    "parse_answer",
    "parse_request",
    "read_answer",
    "read_usage",
    "render_answer",
    "render_request",
    "render_usage",
]
