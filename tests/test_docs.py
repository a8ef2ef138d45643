"""The house around the code says what the code does: settings, errors, commands, links and docstrings are compared with it."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

from django.core.management import get_commands

from tools import build_error_docs

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("accounts", "billing", "catalog", "gateway_site", "keys", "proxy")
# Read by a library we configure, not by our code, and worth an operator's knowing.
# Passed between our own processes; nobody sets them by hand.
INTERNAL = {"DJANGO_SETTINGS_MODULE"}
_EXAMPLE = re.compile(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="([^"]+)">')
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@cache
def tracked() -> tuple[Path, ...]:
    """Every file of the project that is, or is about to be, in version control; those on disk where there is none."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        hidden = {".venv", ".gateway", ".git", "__pycache__"}
        found = [path for path in ROOT.rglob("*") if not hidden & set(path.relative_to(ROOT).parts) and not path.name.endswith(".pyc")]
    return tuple(sorted(path for path in found if path.is_file()))


def pages() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md"]


def modules() -> list[Path]:
    """The modules of the apps; migrations are made by a machine, and an empty `__init__.py` says nothing."""
    inside = [path for path in tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in PACKAGES]
    return [path for path in inside if "migrations" not in path.parts and path.stat().st_size]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- Generated pages -----------------------------------------------------------------------------------------------------------------


def test_the_page_of_errors_is_what_the_table_says() -> None:
    assert build_error_docs.PAGE.read_text(encoding="utf-8") == build_error_docs.render(), "run `python -m tools.build_error_docs`"


def test_every_code_of_the_table_has_an_anchor_for_its_help_url() -> None:
    from proxy import errors

    anchors = set(_ANCHOR.findall(build_error_docs.render()))
    codes = {entry.code for entry in (*errors.TABLE.values(), errors.INTERNAL)}
    assert codes | {"missing_model", "context_length_exceeded"} <= anchors


# -- Settings ------------------------------------------------------------------------------------------------------------------------


def settings_read() -> dict[str, ast.expr | None]:
    """The variables that the code reads from the environment, with the default that `settings.py` gives (None elsewhere)."""
    found: dict[str, ast.expr | None] = {}
    for path in (path for path in modules() if path.relative_to(ROOT).parts[0] == "gateway_site"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name, default in _read_here(node):
                found[name] = default or found.get(name)
    return found


def _read_here(node: ast.AST) -> list[tuple[str, ast.expr | None]]:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="env")), args=[ast.Constant(value=str(name)), *_], keywords=keywords):
            return [(name, next((word.value for word in keywords if word.arg == "default"), None))]
        case ast.Call(
            func=ast.Attribute(value=ast.Attribute(value=ast.Name(id="os"), attr="environ"), attr="get"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [(name, None)]
        case ast.Subscript(
            value=ast.Attribute(value=ast.Name(id="os"), attr="environ"), slice=ast.Constant(value=str(name)), ctx=ast.Load()
        ):
            return [(name, None)]
        case ast.Compare(left=ast.Constant(value=str(name)), comparators=[ast.Attribute(value=ast.Name(id="os"), attr="environ")]):
            return [(name, None)]
        case ast.Assign(targets=[ast.Name(id="KEY_VARIABLES")], value=table):
            return [(name, None) for names in ast.literal_eval(table).values() for name in names]
    return []


def as_written(default: ast.expr) -> str | None:
    """A default as `.env` would say it; None where it depends on something else."""
    if not all(isinstance(node, ast.Constant | ast.List | ast.BinOp | ast.operator | ast.expr_context) for node in ast.walk(default)):
        return None
    value = eval(compile(ast.Expression(default), "settings.py", "eval"))  # noqa: S307 - constants and arithmetic, as just checked
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value)


def test_the_example_lists_exactly_the_settings_that_are_read() -> None:
    listed = [name for name, _ in _EXAMPLE.findall((ROOT / ".env.example").read_text(encoding="utf-8"))]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(settings_read()) - INTERNAL


def test_the_example_shows_the_defaults_of_the_settings() -> None:
    listed = dict(_EXAMPLE.findall((ROOT / ".env.example").read_text(encoding="utf-8")))
    wanted = {name: as_written(default) for name, default in settings_read().items() if default is not None}
    assert {name: listed.get(name) for name in wanted} == {name: text or "" for name, text in wanted.items()}


def test_the_example_explains_every_setting() -> None:
    explained = False
    for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines():
        if _EXAMPLE.match(line):
            assert explained, f"{line} stands without a comment"
        elif not line.startswith("# ") or line.startswith("# --"):
            explained = False
        else:
            explained = True


def test_the_operations_page_names_only_settings_that_exist() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`([A-Z][A-Z0-9]+_[A-Z0-9_]+)(?:=[^`]*)?`", page)) <= set(settings_read())


# -- Pages ---------------------------------------------------------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(text)]
    return {*titles, *_ANCHOR.findall(text)}


def test_every_link_to_a_file_leads_somewhere() -> None:
    broken = [
        f"{name_of(page)}: {target}"
        for page in pages()
        for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
        if not re.match(r"[a-z][a-z0-9+.-]*:", target) and not _leads_somewhere(page, target)
    ]
    assert not broken


def _leads_somewhere(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    there = (page.parent / name).resolve() if name else page
    return there.exists() and (not anchor or there.suffix != ".md" or anchor in _anchors(there))


def test_every_command_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = set(get_commands())
    missing = set()
    for page in pages():
        text = page.read_text(encoding="utf-8")
        missing |= set(re.findall(r"(?:`|^|&& |\b[A-Z]+=\S+ )make ([a-z-]+)", text, re.MULTILINE)) - targets
        missing |= set(re.findall(r"manage\.py ([a-z_]+)", text)) - commands
    assert not missing


def test_every_file_a_page_names_exists() -> None:
    """Paths in code type, such as `proxy/relay.py`."""
    path = re.compile(rf"`((?:{'|'.join(PACKAGES)}|tests|tools|docs|deploy|\.ci)/[\w./-]*)`")
    named = {name for page in pages() for name in path.findall(page.read_text(encoding="utf-8"))}
    assert not {name for name in named if not (ROOT / name).exists()}


def test_every_module_and_function_a_page_names_exists() -> None:
    """Dotted names in code type, such as `proxy.relay` or `billing.ledger.credit`."""
    dotted = re.compile(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?:\(\))?`")
    named = {name for page in pages() for name in dotted.findall(page.read_text(encoding="utf-8"))}
    assert not {name for name in named if not _is_in_the_code(name.split("."))}


def _is_in_the_code(parts: list[str]) -> bool:
    depth = max(depth for depth in range(1, len(parts) + 1) if _module(parts[:depth]) is not None)
    module = _module(parts[:depth])
    return module is not None and all(re.search(rf"\b{part}\b", module.read_text(encoding="utf-8")) for part in parts[depth:])


def _module(parts: list[str]) -> Path | None:
    path = ROOT.joinpath(*parts)
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)


# -- Code ----------------------------------------------------------------------------------------------------------------------------


def test_every_module_opens_with_a_sentence_that_says_what_it_owns() -> None:
    opening = {name_of(path): ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in modules()}
    assert not [name for name, docstring in opening.items() if not re.match(r"\S[^\n]*(?:\n[^\n]+)*[.:]", docstring)]


def test_every_package_stands_in_the_import_contracts() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    packages = {path.relative_to(ROOT).parts[0] for path in tracked() if path.name == "__init__.py"} - {"tests", "tools"}
    assert set(contracts["root_packages"]) == packages


def test_the_project_speaks_of_itself_alone() -> None:
    registries = ("pypi" + r"\.org", "pythonhosted" + r"\.org", "npm" + r"js\.(?:org|com)", "registry" + r"\.yarn")
    places = ("/" + r"work/(?:main|shared)\b", "/" + r"tmp/plan\b", "/" + r"root/")
    forbidden = re.compile("|".join((*registries, *places)).encode())
    found = {name_of(path): match.group() for path in tracked() if (match := forbidden.search(path.read_bytes()))}
    assert not found
