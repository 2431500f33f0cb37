"""`look`. Oracles: the trainer's own views, pieces read back from the page's image, brute force, what a browser shows."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch import Tensor

from experiments.__main__ import main
from experiments.commands import sweep
from experiments.evaluate.add import images
from experiments.evaluate.look import learned as look
from experiments.evaluate.look.learned import Learned, learned_by
from experiments.evaluate.look.sprite import COLUMNS, LARGEST, Sprite
from experiments.evaluate.look.views import as_pictures, view_rows
from experiments.plan.registry import baseline_config
from moco import checkpoint
from moco.augment.views import two_views
from moco.config import Config, ResNet
from moco.config.plain import to_plain
from moco.data.splits import Images, Split
from moco.model import build_query
from sweeps.head_and_augmentation import SWEEP
from tests.analysis.test_report import BROWSER, check_page
from tests.support.parts import require_part


def small() -> Config:
    return replace(baseline_config("digits"), encoder=ResNet(depth=8, stem="strided", width=8, batch_norm_splits=8))


def pieces(page: str) -> list[np.ndarray]:
    """Every picture of a page, in the order of its sprite."""
    found = re.search(r"url\(data:image/png;base64,([^)]+)\)", page)
    assert found
    whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))
    side = whole.shape[1] // COLUMNS
    rows = [whole[top : top + side] for top in range(0, whole.shape[0], side)]
    return [row[:, left : left + side] for row in rows for left in range(0, row.shape[1], side)]


def test_a_sprite_gives_back_its_pictures() -> None:
    sprite, generator = Sprite(), torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 256, (3, 9, 9), generator=generator, dtype=torch.uint8) for _ in range(COLUMNS + 3)]
    assert [sprite.add(picture) for picture in pictures] == list(range(COLUMNS + 3))
    shown = pieces(f"url({sprite.address()})")
    for number, picture in enumerate(pictures):
        left, top = sprite.place(number)
        np.testing.assert_array_equal(shown[top * COLUMNS + left], picture.permute(1, 2, 0).numpy())


def test_large_pictures_are_shrunk_and_kept_as_jpeg() -> None:
    sprite = Sprite()
    sprite.add(torch.full((3, 224, 224), 77, dtype=torch.uint8))
    assert sprite.side == LARGEST
    kind, _, data = sprite.address().partition(";base64,")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert kind == "data:image/jpeg"
    assert abs(int(picture[LARGEST // 2, LARGEST // 2, 0]) - 77) <= 2


def test_the_views_are_those_that_training_makes() -> None:
    config, sprite = small(), Sprite()
    (row,) = view_rows({"v1": config, "same": replace(config, head=replace(config.head, dim=7))}, sprite, 4)
    assert row.arms == ("v1", "same")
    shown = pieces(f"url({sprite.address()})")
    split = images(config.data).pretrain
    everything = split.images.take(torch.arange(len(split)))
    originals = {tuple(picture.flatten().tolist()): at for at, picture in enumerate(everything)}
    chosen = [originals[tuple(shown[n].transpose(2, 0, 1).flatten().tolist())] for n in row.originals]
    batch_u8 = split.images.take(torch.tensor(chosen))
    for numbers, view in zip(
        (row.queries, row.keys), two_views(batch_u8, config.augment, config.train.seed, 0), strict=True
    ):
        for number, picture in zip(numbers, as_pictures(view, config), strict=True):
            np.testing.assert_array_equal(shown[number], picture.permute(1, 2, 0).numpy())


def test_a_view_that_is_not_changed_looks_like_its_image() -> None:
    config = small()
    pixels = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.augment.mean, config.augment.std))
    assert torch.equal(as_pictures((pixels / 255 - mean) / std, config), pixels)


class Closed:
    """Images that nobody may take."""

    def __len__(self) -> int:
        return 360

    def take(self, indices_B: Tensor) -> Tensor:
        raise AssertionError("the test split was opened")


@pytest.fixture(scope="module")
def seen() -> tuple[Learned, Sprite]:
    """What an untrained network makes of the digits, whose test split is shut."""
    config, sprite = small(), Sprite()
    data = images(config.data)
    closed: Images = Closed()
    shut = replace(data, test=Split(closed, data.test.labels_N, data.test.ids_N))
    return learned_by(build_query(config, len(data.classes)).encoder, shut, config, sprite), sprite


def test_neighbours_and_votes_are_those_of_brute_force(seen: tuple[Learned, Sprite]) -> None:
    found, _ = seen
    bank, queries = (part.double().numpy() for part in (found.train_ND, found.validation_VD))
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (queries, bank)]
    cosines = unit[0] @ unit[1].T
    labels = found.train_labels_N.numpy()
    for at, row in zip(look.first_of_each_class(found.labels_V, look.QUERIES), found.neighbours, strict=True):
        order = np.argsort(-cosines[at])[: look.NEIGHBOURS]
        assert [n.picture.label for n in row.neighbours] == [found.classes[labels[n]] for n in order]
        np.testing.assert_allclose([n.cosine for n in row.neighbours], cosines[at][order], atol=1e-5)
        assert [n.same_class for n in row.neighbours] == [labels[n] == int(found.labels_V[at]) for n in order]
        votes = np.zeros(len(found.classes))
        for n in np.argsort(-cosines[at])[: look.VOTERS]:
            votes[labels[n]] += np.exp(cosines[at][n] / found.config.evaluation.knn_temperature)
        np.testing.assert_allclose(found.votes_VC[at].numpy(), votes / votes.sum(), atol=1e-4)


def test_one_query_of_each_class_comes_first() -> None:
    labels_N = torch.tensor([2, 2, 0, 1, 0, 2])
    assert look.first_of_each_class(labels_N, 5) == [2, 3, 0, 4, 1]


def test_rows_and_mistakes_add_up(seen: tuple[Learned, Sprite]) -> None:
    found, sprite = seen
    taken = found.votes_VC.argmax(1).tolist()
    labels = found.labels_V.tolist()
    rows = look.class_rows(found)
    assert {(r.name, found.classes[c]): n for r in rows for c, n in enumerate(r.taken_for) if n} == Counter(
        (found.classes[own], found.classes[other]) for own, other in zip(labels, taken, strict=True)
    )
    for place, row in enumerate(rows):
        own = [t for label, t in zip(labels, taken, strict=True) if label == place]
        assert row.recall == pytest.approx(100 * own.count(place) / len(own))
    shown = look.mistakes(found, sprite, most=1000)
    assert len(shown) == sum(own != other for own, other in zip(labels, taken, strict=True)) > 0
    margins = [m.vote - m.own_vote for m in shown]
    assert margins == sorted(margins, reverse=True)
    assert min(margins) >= 0
    assert all(m.taken_for != m.picture.label for m in shown)


@pytest.mark.parametrize("layout", ["pca", "tsne"])
def test_the_dots_fill_the_square_and_are_the_same_every_time(
    seen: tuple[Learned, Sprite], layout: look.Layout
) -> None:
    found, _ = seen
    dots, how = look.dots(found, layout, Sprite())
    again, _ = look.dots(found, layout, Sprite())
    assert dots == again
    assert len(dots) == min(look.DOTS, len(found.labels_V))
    assert max(abs(c) for dot in dots for c in (dot.x, dot.y)) == pytest.approx(1.0)
    assert [dot.kind for dot in dots] == found.labels_V.tolist()
    assert how.startswith("Principal components" if layout == "pca" else "t-SNE")


def weights(path: Path) -> Path:
    config = small()
    query = build_query(config, 10)
    checkpoint.save(
        {"encoder": query.encoder.state_dict(), "head": query.head.state_dict(), "config": to_plain(config)}, path
    )
    return path


def test_the_page_of_a_file_and_its_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page = weights(tmp_path / "encoder.pt"), tmp_path / "made" / "page.html"
    for name in ("features.parquet", "features.npy"):
        assert main(["look", str(file), "--out", str(page), "--features", str(tmp_path / name)]) == 0
    data = images(small().data)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == str(page)
    assert out[1].startswith(f"{tmp_path / 'features.parquet'}: {len(data.train) + len(data.validation):,} x ")
    table = parquet.read_table(tmp_path / "features.parquet").to_pydict()
    np.testing.assert_array_equal(np.array(table["features"], dtype=np.float32), np.load(tmp_path / "features.npy"))
    assert table["split"] == ["train"] * len(data.train) + ["validation"] * len(data.validation)
    assert table["label"] == [*data.train.labels_N.tolist(), *data.validation.labels_N.tolist()]
    text = page.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert "<script" not in text
    dots = re.findall(r'href="#(image-\d+)"', text)
    assert len(dots) == len(set(dots)) == len(data.validation)
    assert all(f'id="{dot}"' in text for dot in dots)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["look"], "look: name a run or a file of weights, or give --baseline NAME to see its views"),
        (["look", "--set", "augment.blur=1"], "--set: changes what --baseline NAME says, and there is none"),
        (["look", "--baseline", "digits", "--out", "x.png"], "--out x.png: the page is HTML; end it in .html"),
        (
            ["look", "--baseline", "digits", "--features", "x.npy"],
            "--features x.npy: of a finished network; name a run or a file of weights",
        ),
        (["look", "FILE", "--features", "x.csv"], "--features x.csv: end it in .parquet or .npy"),
    ],
)
def test_a_slip_is_one_line(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert capsys.readouterr() == ("", f"error: {sentence}\n")
    assert not list(tmp_path.iterdir())


def test_a_sweep_shows_each_augmentation_once_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    assert sweep.run(SWEEP, ["--look", str(tmp_path / "arms.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'arms.html'}\n"
    heads = re.findall(r"<h3>(.*?)</h3>", (tmp_path / "arms.html").read_text(encoding="utf-8"))
    assert heads == ["v1, mlp, cos, mlp+cos", "aug, mlp+aug, aug+cos, mlp+aug+cos"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.browser
def test_the_page_opens_without_a_network_on_each_screen(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = require_part("chromium")
    file, page_file = weights(tmp_path / "encoder.pt"), tmp_path / "page.html"
    assert main(["look", str(file), "--out", str(page_file)]) == 0
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER.split())
        for dark in (False, True):
            for width in (1400, 390):
                context = browser.new_context(
                    viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light", offline=True
                )
                page = context.new_page()
                page.on("console", lambda message: complaints.append(message.text))
                page.on("pageerror", lambda error: complaints.append(str(error)))
                page.goto(page_file.as_uri())
                check_page(page, f"{'dark' if dark else 'light'} {width}")
                context.close()
        page = browser.new_context(offline=True).new_page()
        page.goto(page_file.as_uri())
        page.keyboard.press("Tab")  # the first link is the first dot
        page.keyboard.press("Enter")
        assert page.url.endswith("#image-1")
        assert page.locator("#image-1:target").count() == 1
        browser.close()
    assert complaints == []
