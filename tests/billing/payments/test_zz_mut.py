import pytest
from tests.billing.payments import test_machine as m
from tests.faults.chaos import bugs
from billing.payments import reversals, events
@pytest.mark.parametrize("bug", [bugs.claw_back_at_each_event, bugs.credit_once_an_event])
def test_it(bug, monkeypatch):
    monkeypatch.setattr(reversals, "settle", reversals.settle)
    monkeypatch.setitem(events.HANDLERS, "payment_intent.succeeded", events.HANDLERS["payment_intent.succeeded"])
    bug()
    with pytest.raises(BaseException) as e:
        m.test_any_history_of_payments_adds_up()
    print(repr(e.value)[:300])
