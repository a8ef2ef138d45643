"""Runs the soak from the command line; exit code 1 when anything was left behind."""

import argparse
import os
import sys
import time

from tests.faults import soak

ENVIRON = {
    "DJANGO_SETTINGS_MODULE": "tests.faults.soak.settings",
    "DEBUG": "0",
    "HTTPS_ONLY": "no",
    "CHECK_STREAMS": "off",
    "LOG_LEVEL": "ERROR",
}


def main() -> int:
    """Run, and print what happened."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.soak", description=soak.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="of load, after the warm-up and a storm of clients who leave")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--bug", default="", help="leaks to plant (tests.faults.soak.bugs), with commas")
    options = parser.parse_args()
    import tests.servers  # noqa: F401 - starts PostgreSQL and Valkey, and says in the environment where they are

    os.environ.update(ENVIRON, SOAK_BUG=options.bug)
    import django

    django.setup()
    from tests.faults.soak import campaign  # not above: Django has to be ready first

    return campaign.run(minutes=options.minutes, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
