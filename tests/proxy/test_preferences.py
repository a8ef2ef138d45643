"""What a client may ask of the routing."""

from datetime import UTC, datetime

import orjson
import pytest

from catalog import pricing
from proxy import preferences
from proxy.body import InvalidJson, parse_body
from proxy.formats.base import InvalidRequest


def read(**fields: object):
    return preferences.read(parse_body(orjson.dumps(fields)))


def test_a_body_without_wishes_is_handed_back_as_it_is():
    body = parse_body(b'{ "model":"a",  "x": 1.50 }')
    assert preferences.read(body) == (body, preferences.Wishes(("a",), preferences.ANY))


def test_the_gateways_own_fields_are_taken_out_and_the_rest_keeps_its_bytes():
    raw = b'{"model" : "a", "models":["b", "a"], "big": 123456789012345678901, "provider": {"only": ["x"]}, "t": 1.50}'
    body, wishes = preferences.read(parse_body(raw))
    assert body.raw == b'{"model":"a","big":123456789012345678901,"t":1.50}'
    assert wishes.models == ("a", "b")
    assert wishes.preferences.only == {"x"}
    assert "models" not in body.fields


def test_the_first_of_the_list_is_the_model_where_none_is_named():
    body, wishes = read(models=["b", "c"], messages=[])
    assert body.fields["model"] == "b"
    assert orjson.loads(body.raw) == {"model": "b", "messages": []}
    assert wishes.models == ("b", "c")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"models": "a"}, "models"),
        ({"models": [1]}, "models"),
        ({"models": list("abcdef")}, "models"),
        ({"provider": "openai"}, "provider"),
        ({"provider": {"orders": []}}, "provider.orders"),
        ({"provider": {"order": "openai"}}, "provider.order"),
        ({"provider": {"sort": "luck"}}, "provider.sort"),
        ({"provider": {"allow_fallbacks": 1.5}}, "provider.allow_fallbacks"),
        ({"provider": {"max_price": 1}}, "provider.max_price"),
        ({"provider": {"max_price": {"prompt": "much"}}}, "provider.max_price.prompt"),
        ({"provider": {"max_price": {"prompt": True}}}, "provider.max_price.prompt"),
        ({"provider": {"max_price": {"air": 1}}}, "provider.max_price.air"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(fields, param):
    with pytest.raises(InvalidRequest) as refused:
        read(model="a", **fields)
    assert refused.value.param == param


def test_a_list_given_twice_is_refused():
    with pytest.raises(InvalidJson):
        parse_body(b'{"models": ["a"], "models": ["b"]}')


def test_who_is_allowed_and_in_which_order():
    wishes = read(model="a", provider={"order": ["y", "X"], "ignore": ["z"]})[1].preferences
    assert [wishes.rank(slug) for slug in ("y", "x", "other")] == [0, 1, 2]
    assert wishes.allows("other")
    assert not wishes.allows("z")
    strict = read(model="a", provider={"order": ["y"], "allow_fallbacks": False})[1].preferences
    assert strict.allows("y")
    assert not strict.allows("other")
    assert not read(model="a", provider={"only": ["y"]})[1].preferences.allows("other")


def test_a_price_is_compared_with_its_markup():
    rates = pricing.fill_rates({"input": 1_000_000_000, "output": 2_000_000_000, "request": None})
    price = pricing.Price(1, datetime(2026, 1, 1, tzinfo=UTC), rates, None, None, 100_000)
    assert read(model="a", provider={"max_price": {"prompt": 1.1, "completion": "2.2"}})[1].preferences.affords(price)
    assert not read(model="a", provider={"max_price": {"prompt": 1.09}})[1].preferences.affords(price)
    assert not read(model="a", provider={"max_price": {"completion": 2}})[1].preferences.affords(price)
