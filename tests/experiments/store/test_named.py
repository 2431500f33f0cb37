"""A label before a name, in the order given; near misses."""

from __future__ import annotations

from experiments.store.named import named, names, nearest

KNOWN = [
    {"label": "momentum@v2", "name": "momentum"},
    {"label": "momentum", "name": "other"},
    {"label": "queue_size@digits,train.epochs=5", "name": "queue_size"},
    {"label": "queue_size@digits", "name": "queue_size"},
]


def test_a_label_goes_before_a_name_and_variants_keep_their_order() -> None:
    assert named(KNOWN, "momentum") == [KNOWN[1]]
    assert named(KNOWN, "queue_size") == KNOWN[2:]
    assert named(KNOWN, "queue_size@digits") == [KNOWN[3]]
    assert named(KNOWN, "queue") == named([], "queue_size") == []
    assert named(["ab", "cb"], "b", label=lambda text: text[0], name=lambda text: text[1]) == ["ab", "cb"]


def test_names_come_once_before_the_labels() -> None:
    labels = ["momentum@v2", "queue_size@digits,train.epochs=5", "queue_size@digits"]
    assert names(KNOWN) == ["momentum", "other", "queue_size", *labels]
    assert nearest("queue_sise", names(KNOWN)) == "queue_size"
    assert nearest("xyz", names(KNOWN)) is None
