"""OpenAI Chat Completions to and from the hub, for calls whose two sides speak different formats. Pure.

This module is the door; what is behind it is in `openai_chat_<part>.py` (`openai_chat.py` itself is for calls that pass through).
"""

from proxy.formats.openai_chat_answers import parse_answer, read_usage, render_answer, render_usage
from proxy.formats.openai_chat_dialects import OPENAI_KINDS, split_data_url
from proxy.formats.openai_chat_fields import NAME
from proxy.formats.openai_chat_requests import parse_request
from proxy.formats.openai_chat_sending import render_request
from proxy.formats.openai_chat_stream_in import StreamParser
from proxy.formats.openai_chat_stream_out import DONE, StreamRenderer

__all__ = [
    "DONE",
    "NAME",
    "OPENAI_KINDS",
    "StreamParser",
    "StreamRenderer",
    "parse_answer",
    "parse_request",
    "read_usage",
    "render_answer",
    "render_request",
    "render_usage",
    "split_data_url",
]
