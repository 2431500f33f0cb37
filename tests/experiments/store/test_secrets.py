"""What is kept has no password in it. Oracle: the same text written by hand."""

from __future__ import annotations

import pytest

from experiments.store.secrets import without_secrets, words_without_secrets


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://ada:p4ss@host:5000/x", "http://***@host:5000/x"),
        ("https://t0ken@host", "https://***@host"),
        ("postgresql+psycopg2://ada:p@ss@h/db", "postgresql+psycopg2://***@h/db"),
        ("postgresql://ada:p/ss@h/db", "postgresql://***@h/db"),
        (
            "postgresql://h/db?user=ada&password=p4ss&sslmode=require",
            "postgresql://h/db?user=ada&password=***&sslmode=require",
        ),
        (
            "python -m experiments serve --store='postgresql://a:b@h/db' --port 5",
            "python -m experiments serve --store='postgresql://***@h/db' --port 5",
        ),
        ("https://h/x?access_token=abc;b=2", "https://h/x?access_token=***;b=2"),
        ("MLFLOW_TRACKING_PASSWORD='a b' python x", "MLFLOW_TRACKING_PASSWORD=*** python x"),
        ("API_KEY=1 x", "API_KEY=*** x"),
        # nothing to hide
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("git+https://host/x@v1", "git+https://host/x@v1"),
        ("--set optim.lr=0.1 head.hidden=8", "--set optim.lr=0.1 head.hidden=8"),
        ("K=128", "K=128"),
    ],
)
def test_logins_and_named_secrets_are_masked(text: str, clean: str) -> None:
    assert without_secrets(text) == clean
    assert without_secrets(clean) == clean


@pytest.mark.parametrize(
    ("words", "clean"),
    [
        (["--notify", 'curl -H "Authorization: Bearer abc" h', "--yes"], ["--notify", "***", "--yes"]),
        (["--notify=mail -S smtp-auth=abc"], ["--notify=***"]),
        (["environment.PGPASS=a b'c", "environment.A=b c"], ["environment.PGPASS=***", "environment.A=b c"]),
        (["environment.TOKEN_OF_ADA=abc"], ["environment.TOKEN_OF_ADA=***"]),
        (
            ["environment.DB=postgresql://a:b@h/db", "time=2:00:00"],
            ["environment.DB=postgresql://***@h/db", "time=2:00:00"],
        ),
        (["--set", "optim.lr=0.1"], ["--set", "optim.lr=0.1"]),
    ],
)
def test_of_a_command_what_may_be_a_secret_is_masked_as_a_whole(words: list[str], clean: list[str]) -> None:
    assert words_without_secrets(words) == clean
    assert words_without_secrets(clean) == clean
