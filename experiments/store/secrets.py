"""Passwords out of text that is kept or shown: `without_secrets`.

An address may carry a secret as `user:password@` or `token@` before the host, or as a parameter such as `?password=`, and a
command as an option's value. What is recorded is cleaned before it is written, so that no reader has to.
"""

from __future__ import annotations

import re

# Between "://" and the last "@" before the path; and, for a password that holds a "/", after "user:" unless that is a port.
LOGIN = re.compile(r"(?<=://)(?:[^\s/@'\"]*@)+|(?<=://)[^\s:/@'\"]*:(?!\d*(?:/|$))[^\s'\"]*@")
NAME = r"[\w-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key)"
PARAMETER = re.compile(rf"(\b{NAME}=)(?!\s)(?:'[^']*'|\"[^\"]*\"|[^&;\s'\"]+)", re.IGNORECASE)
MASK = "***"


def without_secrets(text: str) -> str:
    """The text with *** for each login of an address and each value of a parameter that is named as a secret."""
    return PARAMETER.sub(rf"\1{MASK}", LOGIN.sub(f"{MASK}@", text))
