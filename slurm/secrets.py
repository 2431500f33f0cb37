"""Which variables and settings may hold a password. Imports only the standard library."""

from __future__ import annotations

import re

SECRET_NAME = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|API_?KEY|PRIVATE_KEY|PGPASS", re.IGNORECASE)
SECRET_VALUE = re.compile(r"://[^/\s]*@|[?&;\s](password|passwd|token|secret)=", re.IGNORECASE)
MASK = "***"


def is_secret(name: str, value: str) -> bool:
    """Whether the variable may hold a password: by its name, or by an address with a login in it."""
    return bool(SECRET_NAME.search(name) or SECRET_VALUE.search(value))


def masked(setting: str) -> str:
    """FIELD=VALUE as it may be shown: with *** for a value that may hold a password."""
    field, equals, value = setting.partition("=")
    return f"{field}={MASK}" if equals and (is_secret(field, value) or SECRET_NAME.search(value)) else setting
