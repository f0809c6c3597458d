"""The built-in data set: drawn scenes of coloured objects in spatial relations, each with five captions from a grammar.

Deterministic: the picture and captions of scene `i` depend on (seed, i) alone. No two scenes are alike, so that no
picture is in two splits.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from showtell.errors import DataError

COLOURS = {
    "red": (214, 48, 49), "green": (46, 160, 67), "blue": (52, 101, 218), "yellow": (245, 200, 40),
    "purple": (142, 68, 173), "black": (35, 35, 40),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "house")
RELATIONS = {
    "left of": "right of", "right of": "left of", "above": "below", "below": "above",
}  # fmt: skip
_GROUNDS = {"white": (244, 244, 240), "grey": (168, 172, 178), "pink": (246, 205, 214), "brown": (160, 125, 95)}
_FINE = 3  # drawn three times as large and scaled down, for smooth edges


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene; `x`, `y` and `radius` are fractions of the picture's side."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        """The long name, as in "small red circle"."""
        return f"{self.size} {self.colour} {self.shape}"

    @property
    def short(self) -> str:
        """The short name, as in "red circle"."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Scene:
    """Two objects and the relation of the first to the second, or one alone (`relation` is empty)."""

    things: tuple[Thing, ...]
    relation: str
    ground: str


def draw_scenes(root: Path, *, images: int = 1200, seed: int = 0, size: int = 96) -> Path:
    """Draws `images` scenes of `size` pixels into root/images and writes their captions to root/captions.jsonl.

    Five in six are for training, half of the rest for validation and half for testing. Returns `root`; `DataError` for
    fewer than 6 images.
    """
    if images < 6:
        raise DataError(f"{images} scenes cannot be split into train, val and test; expected at least 6")
    (root / "images").mkdir(parents=True, exist_ok=True)
    held_out = max(1, images // 12)
    seen: set[Scene] = set()
    with (root / "captions.jsonl").open("w", encoding="utf-8") as file:
        for index in range(images):
            draw = random.Random(f"scene {seed} {index}")
            scene = make_scene(draw)
            while scene in seen:
                scene = make_scene(draw)
            seen.add(scene)
            name = f"images/{index:05d}.png"
            draw_scene(scene, size=size).save(root / name)
            split = "test" if index < held_out else "val" if index < 2 * held_out else "train"
            row = {"image": name, "captions": captions_of(scene, draw), "split": split}
            file.write(json.dumps(row) + "\n")
    return root


def make_scene(draw: random.Random) -> Scene:
    """A random scene: a single object in one of five scenes, else two that differ in colour and shape."""
    ground = draw.choice(sorted(_GROUNDS))
    shapes, colours = draw.sample(SHAPES, 2), draw.sample(sorted(COLOURS), 2)
    if draw.random() < 0.2:
        return Scene((_thing(draw, shapes[0], colours[0], 0.5, 0.5),), "", ground)
    relation = draw.choice(sorted(RELATIONS))
    across = relation in ("left of", "right of")
    near, far = (0.27, 0.73) if relation in ("left of", "above") else (0.73, 0.27)
    places = [(near, 0.5), (far, 0.5)] if across else [(0.5, near), (0.5, far)]
    things = tuple(_thing(draw, s, c, *place) for s, c, place in zip(shapes, colours, places, strict=True))
    return Scene(things, relation, ground)


def _thing(draw: random.Random, shape: str, colour: str, x: float, y: float) -> Thing:
    size = draw.choice(("small", "large"))
    radius = draw.uniform(0.10, 0.12) if size == "small" else draw.uniform(0.19, 0.21)
    return Thing(shape, colour, size, x + draw.uniform(-0.05, 0.05), y + draw.uniform(-0.05, 0.05), radius)


def draw_scene(scene: Scene, *, size: int) -> Image.Image:
    """The picture of a scene, RGB, `size` pixels wide and high."""
    side = size * _FINE
    picture = Image.new("RGB", (side, side), _GROUNDS[scene.ground])
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        _DRAW[thing.shape](pen, thing.x * side, thing.y * side, thing.radius * side, COLOURS[thing.colour])
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def captions_of(scene: Scene, draw: random.Random) -> list[str]:
    """Five captions, each worded differently; all of them true."""
    if not scene.relation:
        (thing,) = scene.things
        said = [
            f"A {thing.name} on a {scene.ground} background.",
            f"a {thing.short} alone in the middle",
            f"There is one {thing.name}.",
            f"A single {thing.short} on {scene.ground} ground.",
            f"The picture shows a {thing.name}.",
        ]
    else:
        first, second = scene.things
        back = RELATIONS[scene.relation]
        said = [
            f"A {first.name} {scene.relation} a {second.name}.",
            f"a {second.short} {back} a {first.short}",
            f"There is a {first.short} {scene.relation} a {second.short}.",
            f"A {first.short} and a {second.short} on a {scene.ground} background.",
            f"The {first.name} is {scene.relation} the {second.name}.",
        ]
    draw.shuffle(said)
    return said


_Colour = tuple[int, int, int]


def _circle(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: _Colour) -> None:
    pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _square(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: _Colour) -> None:
    r *= 0.88
    pen.rectangle((x - r, y - r, x + r, y + r), fill=colour)


def _triangle(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: _Colour) -> None:
    pen.polygon(_ring(x, y + 0.2 * r, [1.15 * r] * 3), fill=colour)


def _star(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: _Colour) -> None:
    pen.polygon(_ring(x, y, [1.15 * r, 0.45 * r] * 5), fill=colour)


def _house(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: _Colour) -> None:
    pen.polygon([(x - r, y - 0.1 * r), (x, y - r), (x + r, y - 0.1 * r)], fill=colour)
    pen.rectangle((x - 0.75 * r, y - 0.1 * r, x + 0.75 * r, y + r), fill=colour)
    pen.rectangle((x - 0.22 * r, y + 0.35 * r, x + 0.22 * r, y + r), fill=(250, 250, 250))


def _ring(x: float, y: float, radii: list[float]) -> list[tuple[float, float]]:
    """Corners around a point, the first one at the top."""
    turn = 2 * math.pi / len(radii)
    return [(x + r * math.sin(i * turn), y - r * math.cos(i * turn)) for i, r in enumerate(radii)]


_DRAW: dict[str, Callable[[ImageDraw.ImageDraw, float, float, float, _Colour], None]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "house": _house,
}  # fmt: skip
