"""The management API: what programs do with a management key. Keys and their budgets, the ledger, members, webhook endpoints.

`door` is what every view goes through, `shapes` what is read and answered; then one module for each thing. docs/management-api.md tells of it.
"""

import sys

# REST framework loads `requests` where it is installed, for a client that only tests would use; it is, because Stripe's library needs it, and
# would cost each web process 5 MB. While REST framework looks for it, there is none.
_hidden = sys.modules.setdefault("requests", None)  # type: ignore[arg-type] # None: cannot be imported
import rest_framework.compat  # noqa: E402, F401

if _hidden is None:
    del sys.modules["requests"]
