"""The SQL that runs inside PostgreSQL: the functions that place, grow, settle and sweep, and what the tables need beyond Django."""

from pathlib import Path

FUNCTIONS = ("place", "grow", "settle", "sweep")


def read(name: str) -> str:
    """The text of one SQL file."""
    return (Path(__file__).parent / f"{name}.sql").read_text()


def read_functions() -> str:
    """Every function, ready to be created or replaced. A migration that changes one runs this again."""
    return "\n".join(read(name) for name in FUNCTIONS)
