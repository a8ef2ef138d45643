"""Runs chaos from the command line; exit code 1 when money is not where it belongs."""

import argparse
import os
import random
import sys
import time
import uuid

from tests.faults import chaos
from tests.faults.chaos.bugs import BUGS
from tests.faults.chaos.campaign import DRAWN, Campaign
from tests.faults.chaos.servers import Servers, a_folder


def main() -> int:
    """Run, and print what happened."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.chaos", description=chaos.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--bug", choices=BUGS, default="")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end the rounds after this time, however many there were")
    parser.add_argument("--audit-every", type=int, default=20, help="rounds between two audits beside the traffic")
    options = parser.parse_args()
    os.environ.setdefault("SECRET_KEY", uuid.uuid4().hex)
    os.environ.setdefault("KEY_PEPPERS", f"1:{uuid.uuid4().hex}{uuid.uuid4().hex}")
    os.environ.setdefault("ENCRYPTION_KEYS", f"1:{uuid.uuid4().hex}{uuid.uuid4().hex}")
    began = time.monotonic()
    with a_folder() as folder:
        servers = Servers(folder, seed=options.seed)
        try:
            servers.start()
            servers.begin_anew(bug=options.bug)
            campaign = Campaign(servers, seed=options.seed, audit_every=options.audit_every, say=lambda line: print(line, flush=True))
            verdict = campaign.run(random.Random(options.seed).choices(DRAWN, k=options.rounds), seconds=options.minutes * 60)
            if verdict.problems:
                print(servers.logs())
        except Exception:
            print(servers.logs())
            raise
        finally:
            servers.stop()
    print(f"{sum(campaign.kills.values())} kills in {time.monotonic() - began:.0f} s, seed {options.seed}")
    for name, value in verdict.figures.items():
        print(f"  {name}: {value}")
    for problem in verdict.problems[:30]:
        print(f"PROBLEM: {problem}")
    print("money is not where it belongs" if verdict.problems else "0 lost, 0 doubled, 0 overspent; every audit is clean")
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
