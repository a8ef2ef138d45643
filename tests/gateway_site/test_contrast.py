"""Facts about the colours of the pages, computed from the style sheet: everything can be read (WCAG 2.2 AA), in light and in dark."""

import re
from pathlib import Path

import pytest

STATIC = Path(__file__).parents[2] / "gateway_site" / "static"
SHEET = (STATIC / "site.css").read_text() + (STATIC / "chart.css").read_text()
PAIR = r"light-dark\((#[0-9a-f]{6}),\s*(#[0-9a-f]{6})\)"
COLOURS = {name: (light, dark) for name, light, dark in re.findall(rf"--([\w-]+):\s*{PAIR}", SHEET)} | {"on-accent": ("#ffffff", "#ffffff")}
COLOURS |= {
    rule: (light, dark)
    for rule, light, dark in re.findall(rf"^(thead th|tbody tr:hover|\.meter-fill\.\w+) {{.*?{PAIR}", SHEET, re.MULTILINE)
}
GROUNDS = ("back", "surface", "sunken", "thead th", "tbody tr:hover")
MOODS = ("good", "warn", "bad", "accent")
TEXT = [(front, back) for front in ("text", "muted", *MOODS) for back in GROUNDS]
TEXT += [(front, f"{mood}-soft") for mood in MOODS for front in ("text", "muted", "accent", mood)]
TEXT += [("on-accent", "accent-fill"), ("on-accent", "accent-fill-hover"), ("on-accent", "bad-fill")]
# Borders of controls, what is focused, lines and bars of charts, how full a meter is.
SHAPES = [("line-strong", back) for back in GROUNDS[:3]] + [("accent", back) for back in GROUNDS[:3]]
SHAPES += [(f"series-{number}", "surface") for number in range(1, 7)]
SHAPES += [("accent-fill", "sunken"), (".meter-fill.warn", "sunken"), (".meter-fill.bad", "sunken")]


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("theme", "place"), [("light", 0), ("dark", 1)])
@pytest.mark.parametrize(("pairs", "least"), [(TEXT, 4.5), (SHAPES, 3.0)], ids=["text", "shapes"])
def test_what_is_to_be_read_stands_out(theme: str, place: int, pairs: list[tuple[str, str]], least: float) -> None:
    found = {(front, back): contrast(COLOURS[front][place], COLOURS[back][place]) for front, back in pairs}
    assert {pair: round(value, 2) for pair, value in found.items() if value < least} == {}
