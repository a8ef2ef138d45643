#!/usr/bin/env python
"""Django's command line. Without DATABASE_URL and REDIS_URL it uses the embedded servers, starting them for the command if need be."""

import os
import sys
from contextlib import nullcontext

from gateway_site.embedded.servers import borrow
from gateway_site.embedded.state import EmbeddedError

_NEEDS_NO_SERVERS = {"help", "version", "compilemessages", "makemessages", "collectstatic", "check"}


def main() -> None:
    """Run the command that the arguments name."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_site.settings")
    from django.core.management import execute_from_command_line

    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    try:
        with nullcontext() if command in _NEEDS_NO_SERVERS else borrow():
            execute_from_command_line(sys.argv)
    except EmbeddedError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
