"""The shape of a key: typos are refused without a look-up, the shape tells the kind, and only a digest is ever stored."""

import random
import re

import pytest

from keys import secret

PEPPER = secret.Pepper(1, bytes(range(32)))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("live", r"sk-gw-[0-9A-Za-z]{49}"),
        ("test", r"sk-gw-test-[0-9A-Za-z]{49}"),
        ("management", r"sk-gw-admin-[0-9A-Za-z]{49}"),
    ],
)
def test_a_key_has_the_shape_of_its_kind(kind: str, shape: str) -> None:
    text = secret.generate(kind)
    assert re.fullmatch(shape, text)
    assert secret.is_well_formed(text)


def test_no_typo_of_one_character_passes() -> None:
    chance = random.Random(20260711)
    for _ in range(200):
        text = secret.generate(chance.choice(["live", "test", "management"]))
        for position in range(len(text)):
            other = chance.choice([digit for digit in secret.ALPHABET + "-_ " if digit != text[position]])
            assert not secret.is_well_formed(text[:position] + other + text[position + 1 :]), (text, position, other)


def test_swapped_neighbours_do_not_pass() -> None:
    chance = random.Random(7)
    for _ in range(500):
        text = secret.generate()
        position = chance.randrange(6, len(text) - 1)
        swapped = text[:position] + text[position + 1] + text[position] + text[position + 2 :]
        assert swapped == text or not secret.is_well_formed(swapped)


def test_a_missing_or_added_character_does_not_pass() -> None:
    text = secret.generate()
    assert not secret.is_well_formed(text[:-1])
    assert not secret.is_well_formed(text + "0")
    assert not secret.is_well_formed(" " + text)
    assert not secret.is_well_formed(text + "\n")


@pytest.mark.parametrize("text", ["", "sk-gw-", "sk-" + "A" * 48, "sk-gw-" + "0" * 49, "sk-gw-" + "é" * 49, "x" * 100_000])
def test_what_was_never_a_key_is_refused(text: str) -> None:
    assert not secret.is_well_formed(text)


def test_a_live_key_cannot_be_passed_off_as_another_kind() -> None:
    body = secret.generate().removeprefix("sk-gw-")
    assert not secret.is_well_formed("sk-gw-test-" + body)
    assert not secret.is_well_formed("sk-gw-admin-" + body)


def test_keys_do_not_repeat() -> None:
    assert len({secret.generate() for _ in range(2000)}) == 2000


def test_a_digest_depends_on_the_key_and_on_the_pepper() -> None:
    one, other = secret.generate(), secret.generate()
    assert secret.digest(one, PEPPER) == secret.digest(one, PEPPER)
    assert len(secret.digest(one, PEPPER)) == 32
    assert secret.digest(one, PEPPER) != secret.digest(other, PEPPER)
    assert secret.digest(one, PEPPER) != secret.digest(one, secret.Pepper(2, b"another pepper of the installation"))


@pytest.mark.parametrize("kind", ["live", "test", "management"])
def test_what_people_recognise_a_key_by_tells_eight_of_its_digits(kind: str) -> None:
    text = secret.generate(kind)
    start, last_four = secret.recognisable(text)
    assert start == secret.PREFIXES[kind] + text.removeprefix(secret.PREFIXES[kind])[:4]
    assert text.endswith(last_four)
    assert len(last_four) == 4
    assert len(start) <= 16  # its column


def test_the_first_pepper_is_the_current_one() -> None:
    peppers = secret.read_peppers(["2:" + "ab" * 32, "1:" + "cd" * 32])
    assert [pepper.version for pepper in peppers] == [2, 1]
    assert peppers[0].secret == bytes.fromhex("ab" * 32)


@pytest.mark.parametrize("configured", [[], ["ab" * 32], ["1:xyz"], ["one:" + "ab" * 32], ["1:abcd"]])
def test_peppers_that_are_missing_malformed_or_short_are_refused(configured: list[str]) -> None:
    with pytest.raises(secret.NoPepper):
        secret.read_peppers(configured)
