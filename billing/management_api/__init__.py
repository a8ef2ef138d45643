"""The management API: what programs do with a management key. Keys and their budgets, the ledger, members, webhook endpoints.

`door` is what every view goes through, `shapes` what is read and answered; then one module for each thing. docs/management-api.md tells of it.
"""
