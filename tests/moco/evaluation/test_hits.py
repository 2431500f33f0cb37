"""Hits of single images. Oracle: argmax, image by image, and hashlib over the labels as they are written down by hand."""

from __future__ import annotations

import hashlib
import json
import struct
from base64 import b64decode

import pytest
import torch

from moco.evaluation.hits import TopOne, hits_of
from moco.evaluation.scores import score
from moco.randomness import generator


@pytest.mark.parametrize("images", [1, 7, 8, 9, 360])
def test_each_bit_says_whether_argmax_is_the_label(images: int) -> None:
    g = generator("cpu", images, "hits")
    scores_NC, labels_N = torch.randn(images, 4, generator=g), torch.randint(0, 4, (images,), generator=g)
    top1 = score(scores_NC, labels_N).top1
    assert isinstance(top1, TopOne)
    packed = b64decode(top1.bits)
    assert len(packed) == (images + 7) // 8
    written = "".join(f"{byte:08b}" for byte in packed)
    expected = [int(row.argmax()) == int(label) for row, label in zip(scores_NC, labels_N, strict=True)]
    assert written == "".join("01"[hit] for hit in expected).ljust(len(written), "0")
    assert top1 == pytest.approx(100 * sum(expected) / images, abs=1e-12)
    assert top1.labels == hashlib.sha256(b"".join(struct.pack("<q", int(v)) for v in labels_N)).hexdigest()[:16]


def test_it_is_a_number_like_any_other_and_only_hits_of_the_test_split_are_kept() -> None:
    top1 = score(torch.eye(3), torch.tensor([0, 1, 1])).top1
    assert top1 is not None
    assert json.dumps({"a": top1}) == json.dumps({"a": float(top1)})
    values = {"test/knn20_top1": top1, "validation/knn20_top1": top1, "test/retrieval_map": 50.0, "test/none": None}
    assert hits_of(values) == {"knn20_top1": {"images": 3, "labels": top1.labels, "bits": "wA=="}}
