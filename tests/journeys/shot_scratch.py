from django.core.management import call_command
from tests.journeys.browser import browser, page, sign_in
from tests.journeys.test_playground import give
from tests.accounts.people import House
from billing.models import Wallet
def test_shot(page, gateway):
    call_command("apply","catalog/seeds/demo.yaml"); call_command("apply","catalog/seeds/openai.yaml"); call_command("apply","catalog/seeds/anthropic.yaml")
    gateway.sees_catalog()
    h=House(); give(Wallet.objects.get(account=h.account),25)
    h.account.name="Acme"; h.account.save()
    u=h.user("owner"); u.name="Ada"; u.save()
    sign_in(page,u)
    page.set_viewport_size({"width":1200,"height":760})
    for theme in ("light","dark"):
        page.emulate_media(color_scheme=theme)
        page.goto(f"{h.base}/playground?model=demo/lorem")
        page.get_by_label("Compare two models").check()
        page.locator("#model-b").select_option("demo/reasoning")
        page.get_by_label("Message").fill("Write three sentences about lighthouses.")
        page.get_by_role("button",name="Send").click()
        for p in "ab": page.locator(f"[data-pane={p}] [data-meter]").get_by_text("tokens in").wait_for()
        page.locator('#stop').wait_for(state='hidden')
        page.screenshot(path=f"/tmp/plan/pg-{theme}.png")
    page.set_viewport_size({"width":1280,"height":900})
    page.emulate_media(color_scheme="light")
    for n,a in (("models","/models"),("model","/models/demo/echo"),("status","/status"),("docs","/docs/quickstart"),("ref","/docs/reference"),("guar","/docs/guarantees")):
        page.goto(a); page.screenshot(path=f"/tmp/plan/pub-{n}.png")
    page.goto(f"{h.base}/playground"); page.screenshot(path="/tmp/plan/pub-pg.png")
    page.set_viewport_size({"width":390,"height":844})
    for n,a in (("models","/models"),("docs","/docs/quickstart"),("pg",f"{h.base}/playground")):
        page.goto(a); page.screenshot(path=f"/tmp/plan/pub-{n}-m.png")
    page.context.clear_cookies()
    page.goto("/"); page.screenshot(path="/tmp/plan/pub-landing-m.png")
    page.set_viewport_size({"width":1280,"height":900}); page.goto("/"); page.screenshot(path="/tmp/plan/pub-landing.png",full_page=True)
