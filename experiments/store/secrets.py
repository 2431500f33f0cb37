"""Passwords out of text that is kept or shown: `without_secrets`, and of the words of a command `words_without_secrets`.

An address may carry a secret as `user:password@` or `token@` before the host, or as a parameter such as `?password=`, and a
command as an option's value. What is recorded is cleaned before it is written, so that no reader has to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Between "://" and the last "@" before the path; and, for a password that holds a "/", after "user:" unless that is a port.
LOGIN = re.compile(r"(?<=://)(?:[^\s/@'\"]*@)+|(?<=://)[^\s:/@'\"]*:(?!\d*(?:/|$))[^\s'\"]*@")
NAME = (
    r"[\w-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?|pgpass)"
)
PARAMETER = re.compile(rf"(\b{NAME}=)(?!\s)(?:'[^']*'|\"[^\"]*\"|[^&;\s'\"]+)", re.IGNORECASE)
VARIABLE = re.compile(  # of --cluster-set: the value ends where the word does
    r"(environment\.\w*(?:token|password|passwd|secret|credential|api_?key|private_key|pgpass)\w*=).+",
    re.IGNORECASE | re.DOTALL,
)
NOTIFY = "--notify"  # a shell command, of which nobody knows where it holds a password
MASK = "***"


def without_secrets(text: str) -> str:
    """The text with *** for each login of an address and each value of a parameter that is named as a secret."""
    return PARAMETER.sub(rf"\1{MASK}", LOGIN.sub(f"{MASK}@", text))


def words_without_secrets(words: Sequence[str]) -> list[str]:
    """The same for each word of a command. The command of `--notify` is left out as a whole."""
    clean: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before == NOTIFY:
            clean.append(MASK)
        elif word.startswith(f"{NOTIFY}="):
            clean.append(f"{NOTIFY}={MASK}")
        elif variable := VARIABLE.fullmatch(word):
            clean.append(f"{variable[1]}{MASK}")
        else:
            clean.append(without_secrets(word))
    return clean
