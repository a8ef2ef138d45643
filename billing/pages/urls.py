"""The addresses of the billing pages, under `/a/<slug>/`."""

from django.urls import path

from billing.pages import alerts_page, auto, grants, home, ledger_page, payments, plans, webhooks

urlpatterns = [
    path("billing", home.home, name="billing"),
    path("billing/top-ups", payments.payments_page, name="billing_payments"),
    path("billing/top-ups/<uuid:top_up_id>", payments.payment_page, name="billing_top_up"),
    path("billing/auto-top-up", auto.auto_page, name="billing_auto"),
    path("billing/auto-top-up/off", auto.turn_off, name="billing_auto_off"),
    path("billing/card", auto.add_card, name="billing_card_add"),
    path("billing/card/remove", auto.remove_card, name="billing_card_remove"),
    path("billing/plan", plans.plan_page, name="billing_plan"),
    path("billing/plan/change/<slug:plan_slug>", plans.change_page, name="billing_plan_change"),
    path("billing/plan/cancel", plans.cancel, name="billing_plan_cancel"),
    path("billing/plan/resume", plans.resume, name="billing_plan_resume"),
    path("billing/plan/pay", plans.pay, name="billing_plan_pay"),
    path("billing/plan/purchases/<uuid:subscription_id>", plans.bought_page, name="billing_plan_bought"),
    path("billing/credits", grants.credits_page, name="billing_credits"),
    path("billing/ledger", ledger_page.ledger_page, name="billing_ledger"),
    path("billing/alerts", alerts_page.alerts_page, name="billing_alerts"),
    path("webhooks", webhooks.webhooks_page, name="webhooks"),
    path("webhooks/<uuid:endpoint_id>", webhooks.webhook_page, name="webhook"),
    path("webhooks/<uuid:endpoint_id>/secret", webhooks.rotate_secret, name="webhook_secret"),
    *(path(f"webhooks/<uuid:endpoint_id>/{deed}", webhooks.do_deed, {"deed": deed}, name=f"webhook_{deed}") for deed in webhooks.DEEDS),
]
