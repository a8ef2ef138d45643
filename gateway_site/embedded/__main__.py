"""`python -m gateway_site.embedded run`: what `make run` calls."""

import sys


def main(arguments: list[str]) -> int:
    """Run the supervisor; return the exit status."""
    if arguments != ["run"]:
        sys.stderr.write("usage: python -m gateway_site.embedded run\n")
        return 2
    try:
        from gateway_site.embedded.supervisor import Supervisor  # here, so that a Ctrl-C during the import is met too
    except KeyboardInterrupt:
        return 0
    return Supervisor().run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
