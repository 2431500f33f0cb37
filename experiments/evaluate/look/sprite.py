"""All pictures of a page in one image, which the page shows piece by piece."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 25
LARGEST = 64  # pixels of a piece; larger pictures are shrunk
LOSSLESS = 32  # up to so many pixels PNG is small, too


class Sprite:
    """`add` a picture and get its number; `address` is the whole image as a data address."""

    def __init__(self) -> None:
        self._pictures: list[Tensor] = []  # uint8 (3, P, P)
        self.side = 0  # P, of all of them

    def add(self, picture_3SS: Tensor) -> int:
        """uint8 (3, S, S). The first picture decides the size of all."""
        import torch
        from torch.nn.functional import interpolate

        self.side = self.side or min(LARGEST, picture_3SS.shape[-1])
        if picture_3SS.shape[-1] != self.side:
            shrunk = interpolate(
                picture_3SS[None].float(), size=(self.side, self.side), mode="bilinear", antialias=True
            )
            picture_3SS = shrunk[0].round().clamp(0, 255).to(torch.uint8)
        self._pictures.append(picture_3SS)
        return len(self._pictures) - 1

    def place(self, number: int) -> tuple[int, int]:
        """Left and top of the piece, in pieces."""
        return number % COLUMNS, number // COLUMNS

    @property
    def rows(self) -> int:
        return -(-len(self._pictures) // COLUMNS)

    def address(self) -> str:
        import torch
        from PIL import Image

        whole_3HW = torch.zeros(
            3, max(1, self.rows) * max(1, self.side), COLUMNS * max(1, self.side), dtype=torch.uint8
        )
        for number, picture in enumerate(self._pictures):
            left, top = (self.side * at for at in self.place(number))
            whole_3HW[:, top : top + self.side, left : left + self.side] = picture
        file, kind = io.BytesIO(), "PNG" if self.side <= LOSSLESS else "JPEG"
        Image.fromarray(whole_3HW.permute(1, 2, 0).numpy()).save(file, kind, quality=85, optimize=True)
        return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
