"""Runs chaos from the command line; exit code 1 when money is not where it belongs."""

import argparse
import os
import random
import sys
import tempfile
import time
import uuid
from pathlib import Path

from tests.faults import chaos
from tests.faults.chaos.bugs import BUGS
from tests.faults.chaos.campaign import DRAWN, Campaign


def main() -> int:
    """Run, and print what happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=chaos.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--bug", choices=BUGS, default="")
    parser.add_argument("--audit-every", type=int, default=20, help="rounds between two audits beside the traffic")
    options = parser.parse_args()
    os.environ.setdefault("SECRET_KEY", uuid.uuid4().hex)
    os.environ.setdefault("KEY_PEPPERS", f"1:{uuid.uuid4().hex}{uuid.uuid4().hex}")
    os.environ.setdefault("ENCRYPTION_KEYS", f"1:{uuid.uuid4().hex}{uuid.uuid4().hex}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tollgate-chaos-", ignore_cleanup_errors=True) as folder:
        victims = random.Random(options.seed).choices(DRAWN, k=options.rounds)
        campaign = Campaign(
            Path(folder), seed=options.seed, bug=options.bug, audit_every=options.audit_every, say=lambda line: print(line, flush=True)
        )
        try:
            verdict = campaign.run(victims)
        except Exception:
            print(campaign.servers.logs())
            raise
        if verdict.problems:
            print(campaign.servers.logs())
    print(f"{sum(campaign.kills.values())} kills in {time.monotonic() - began:.0f} s, seed {options.seed}")
    for name, value in verdict.figures.items():
        print(f"  {name}: {value}")
    for problem in verdict.problems[:30]:
        print(f"PROBLEM: {problem}")
    print("money is not where it belongs" if verdict.problems else "0 lost, 0 doubled, 0 overspent; every audit is clean")
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
