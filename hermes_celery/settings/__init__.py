"""Settings: what the environment decides.

    settings = read_settings()

`table` lists the variables, `values` turns their texts into values, `environment` reads them, and
`places` says where the server and the home are.
"""

from __future__ import annotations

from hermes_celery.settings.environment import (
    broker_variables,
    checked_timezone,
    default_timezone,
    process_environment,
    read_settings,
    unknown_variables,
)
from hermes_celery.settings.places import FULL, address_of, check_home, redis_url, unusable_home
from hermes_celery.settings.table import DEFAULT_NAMESPACE, ELSEWHERE, VARIABLES, Settings, Variable
from hermes_celery.settings.values import checked_namespace

__all__ = [
    "DEFAULT_NAMESPACE",
    "ELSEWHERE",
    "FULL",
    "VARIABLES",
    "Settings",
    "Variable",
    "address_of",
    "broker_variables",
    "check_home",
    "checked_namespace",
    "checked_timezone",
    "default_timezone",
    "process_environment",
    "read_settings",
    "redis_url",
    "unknown_variables",
    "unusable_home",
]
