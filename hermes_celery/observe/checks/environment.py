"""Check this machine's settings: whether beats and workers can start, and alerts reach people."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hermes_celery.errors import SettingsError
from hermes_celery.masking.urls import masked
from hermes_celery.observe.finding import Finding, fail, ok, warn
from hermes_celery.settings import Settings, check_home, unknown_variables


def check_variables(settings: Settings) -> Iterator[Finding]:
    """Report settings that have no effect."""
    for text in settings.ignored:
        yield warn("settings", text)
    for name, meant in unknown_variables().items():
        advice = f"; did you mean {meant}?" if meant else ""
        yield warn("settings", f"{name} is not a setting, so it has no effect{advice}")


def check_files(settings: Settings) -> Iterator[Finding]:
    """Report files that beats and workers with these settings cannot read."""
    return refusals("home", lambda: check_home(settings))


def refusals(check: str, refuse: Callable[[], None]) -> Iterator[Finding]:
    """Report each fault of the SettingsError that `refuse` raises; nothing if it raises none."""
    try:
        refuse()
    except SettingsError as error:
        for fault in error.faults:
            yield fail(check, fault)


def check_alerts(
    settings: Settings, *, refuse: Callable[[], None], without_target: Callable[[], list[str]]
) -> Finding:
    """Report whether alerts (incidents that concern no single job) reach anybody.

    `refuse` raises SettingsError for invalid alerts. `without_target` returns the parts of the
    alerts that resolve to no target on this machine.
    """
    try:
        refuse()
        lost = without_target()
    except SettingsError as error:
        return fail("alerts", "; ".join(error.faults))
    if lost:
        return fail("alerts", f"HERMES_CELERY_ALERTS: {', '.join(lost)} has no target on this "
                     "machine; name a chat, or set the platform's home channel")  # fmt: skip
    if settings.alerts == "local":
        return ok("alerts", "troubles of no single job are kept here only: `hermes-celery "
                   "incidents`; HERMES_CELERY_ALERTS sends them to people")  # fmt: skip
    return ok("alerts", f"sent to {masked(settings.alerts)}")
