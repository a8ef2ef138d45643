"""A mail server on a socket that keeps what it is given. What it does with a mail is ordered by the recipient's name.

`refuse-…@` is refused for good (550), `busy-…@` for now (451); all others are taken.
"""

import asyncio
import email
import email.policy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage


@dataclass
class SmtpSink:
    """The server's address, and the mails it took."""

    port: int = 0
    mails: list[tuple[str, EmailMessage]] = field(default_factory=list)

    def of(self, recipient: str) -> list[EmailMessage]:
        """The mails that `recipient` got."""
        return [message for to, message in list(self.mails) if to == recipient]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak with one client."""
        recipients: list[str] = []

        async def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())
            await writer.drain()

        await say("220 sink ready")
        while line := (await reader.readline()).decode().strip():
            verb, _, rest = line.partition(" ")
            match verb.upper():
                case "EHLO" | "HELO":
                    await say("250 sink")
                case "MAIL" | "RSET":
                    recipients = []
                    await say("250 fine")
                case "RCPT":
                    address = rest.partition("<")[2].partition(">")[0]
                    if address.startswith("refuse-"):
                        await say("550 no such person")
                    elif address.startswith("busy-"):
                        await say("451 come back later")
                    else:
                        recipients.append(address)
                        await say("250 fine")
                case "DATA":
                    await say("354 go on")
                    raw = (await reader.readuntil(b"\r\n.\r\n"))[:-3]
                    message = email.message_from_bytes(raw.replace(b"\r\n..", b"\r\n."), policy=email.policy.default)
                    self.mails += [(to, message) for to in recipients]
                    await say("250 taken")
                case "QUIT":
                    await say("221 bye")
                    break
                case _:
                    await say("502 what?")
        writer.close()


@contextmanager
def smtp_sink() -> Iterator[SmtpSink]:
    """A running sink on a free port of loopback."""
    sink, loop = SmtpSink(), asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(sink.serve, "127.0.0.1", 0))
    sink.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
