"""mkdocs hook: drawings of strategies, made from their `Strategy` objects, in place of `<!-- drawing: NAME -->`.

A drawing is SVG within the page, in the colour of its text, so that it is readable in light and dark. What guides a
policy in training and is gone when it acts has the class `guides`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any, NamedTuple

from lattok.image_lam.clips import ClipLAMConfig
from lattok.recipes.lara import LARAOptions
from lattok.vla import STRATEGIES, LatentLoss, Span, Strategy, VLAConfig
from lattok.vla.latbot import taught_by
from lattok.vla.supervision import LOSSES

MARK = re.compile(r"^<!-- drawing: ([\w-]+) -->$", re.MULTILINE)
EACH = re.compile(r"^<!-- every strategy -->$", re.MULTILINE)
SAYS = {"codes": "cross-entropy", "align": "1 - cosine", "regress": "squared error", "distill": "squared error + KL"}
OF = {"steps": "latent actions of video", "chunk": "tokens of the action chunk", None: ""}
LEFT, TOP, BOTTOM, TOKENS = 2, 112, 236, 262  # of the backbone; where its inputs stand
HEAD = 67  # the middle of the action head
BETWEEN = 30  # columns
SQUARE, GAP = 13, 4
CARD, CARD_HEIGHT = 236, 84


class Column(NamedTuple):
    """Inputs of the backbone that belong together."""

    name: str
    count: str  # how many, as a formula
    squares: int
    group: int  # squares that stand close together
    kind: str  # class of its squares
    read: bool = True  # by the action head

    @property
    def width(self) -> int:
        """Of its squares, or of what is written below them."""
        return max(self.squares * (SQUARE + GAP) + (self.squares // self.group - 1) * GAP, 7 * len(self.name), 52)


class Guide(NamedTuple):
    """Something that acts on hidden states in training: lines of text, where it taps, and whether it learns too."""

    lines: tuple[str, ...]
    column: str
    layer: int | float
    both: bool = False
    head: bool = False  # it taps the action head, not the backbone


def draw(strategy: Strategy, guides: tuple[Guide, ...] = (), title: str = "", labels: str = "") -> str:
    """Draw a policy with the placeholders and losses of a strategy, and with further `guides`.

    `labels` says what is compared with, where the strategy's kind of labels does not.
    """
    labels = labels or OF[strategy.labels]
    guided = {loss.span for loss in strategy.losses}
    columns = [Column("images", "each camera", 5, 5, "given"), Column("instruction", "text", 3, 3, "given", read=False)]
    for span in strategy.spans:
        several = span.per_step != 1
        kind = "guides" if span.name in guided else "placeholder"
        columns.append(Column(span.name, formula(span), 6 if several else 3, 2 if several else 1, kind))
    told = (*(guide_of(loss, labels) for loss in strategy.losses), *guides)
    title = title or f"{strategy.title or strategy.name}: {sentence(strategy, labels)}"
    height = max(TOKENS + 52, TOP - 40 + len(told) * (CARD_HEIGHT + 10))
    return figure(list(_policy(columns, told)), _right(columns) + (CARD + 24 if told else 2), height, title)


def formula(span: Span) -> str:
    """Count the placeholders of a span."""
    each = {"codes": "P"}.get(str(span.per_step), str(span.per_step))
    steps = {"horizon": "H", "labels": "S"}.get(str(span.steps), str(span.steps))
    return steps if each == "1" else f"{each} · {steps}"


def guide_of(loss: LatentLoss, labels: str) -> Guide:
    """Say what a loss compares, how, and where."""
    parts = " and ".join(LOSSES[loss.loss].parts)
    how = f"{loss.loss}: {SAYS[loss.loss]}" if loss.loss in SAYS else loss.loss
    where = "" if loss.name == "latent" else f" ({loss.name})"
    lines = (f"{how}{where}", f"to {parts} of", labels, f"λ {loss.weight:g}, {layer(loss.layer)}")
    return Guide(lines, loss.span, loss.layer)


def layer(value: int | float) -> str:
    """Name a hidden state."""
    if isinstance(value, int):
        return f"layer {value}"
    return "last layer" if value == 1 else f"layer ⌈{value:g} N⌉"


def sentence(strategy: Strategy, labels: str = "") -> str:
    """Say in words what the drawing shows."""
    spans = ", then ".join(f"{formula(span)} placeholders `{span.name}`" for span in strategy.spans)
    if not strategy.losses:
        return f"{spans}; nothing but the actions is learned."
    losses = [
        f"`{loss.loss}` on `{loss.span}` at the {layer(loss.layer)}, weight {loss.weight:g}" for loss in strategy.losses
    ]
    return f"{spans}; {' and '.join(losses)}, from {labels or OF[strategy.labels]}."


def _right(columns: list[Column]) -> int:
    return LEFT + sum(column.width for column in columns) + BETWEEN * (len(columns) - 1) + 20


def _policy(columns: list[Column], guides: tuple[Guide, ...]) -> Iterator[str]:
    right = _right(columns)
    yield box(LEFT, TOP, right - LEFT, BOTTOM - TOP)
    yield text(LEFT + 10, TOP + 20, "vision-language model")
    yield text(LEFT + 10, TOP + 37, "N layers", "small")
    yield box(LEFT, 52, right - LEFT, 30)
    yield text((LEFT + right) / 2, 71, "action head", anchor="middle")
    yield arrow((LEFT + right) / 2, 52, (LEFT + right) / 2, 26)
    yield text((LEFT + right) / 2, 18, "action chunk: H actions", anchor="middle")
    x, middles = LEFT + 10.0, {}
    for column in columns:
        middle = middles[column.name] = x + column.width / 2
        left = middle - (column.squares * (SQUARE + GAP) + (column.squares // column.group - 1) * GAP - GAP) / 2
        for i in range(column.squares):
            place = left + i * (SQUARE + GAP) + i // column.group * GAP
            yield f'<rect class="token {column.kind}" x="{place:g}" y="{TOKENS}" width="{SQUARE}" height="{SQUARE}"/>'
        yield arrow(middle, TOKENS - 3, middle, BOTTOM + 3)
        if column.read:
            yield arrow(middle, TOP, middle, 85)
        yield text(middle, TOKENS + 30, column.name, anchor="middle")
        yield text(middle, TOKENS + 46, column.count, "small", "middle")
        x += column.width + BETWEEN
    for i, guide in enumerate(guides):
        y = TOP - 40 + i * (CARD_HEIGHT + 10)
        depth = guide.layer if isinstance(guide.layer, float) else 0.6
        tap, across = HEAD if guide.head else BOTTOM - 8 - depth * (BOTTOM - TOP - 16), middles[guide.column]
        side = right + 24
        yield f'<circle class="guides" cx="{across:g}" cy="{tap:g}" r="5"/>'
        way = f"M{across + 6:g} {tap:g} H{right + 12:g} V{y + CARD_HEIGHT / 2:g} H{side - 2:g}"
        yield f'<path class="guides line" d="{way}"/>'
        if guide.both:
            yield arrow(across + 20, tap, across + 7, tap, "guides")
            yield arrow(side - 14, y + CARD_HEIGHT / 2, side - 1, y + CARD_HEIGHT / 2, "guides")
        yield box(side, y, CARD - 4, CARD_HEIGHT, "guides")
        for j, line in enumerate(guide.lines):
            yield text(side + 12, y + 20 + 18 * j, line, "" if j == 0 else "small")


def lara() -> str:
    """Draw LARA over the Baseline: two models that learn together, by the defaults of its recipe."""
    option = LARAOptions()
    lines = ("latent action model, learning too", "e: latents of frames now and later")
    terms = (f"1 - cos(W h, e), λ {option.align_weight:g}", f"its own loss, λ {option.lam_weight:g}")
    guide = Guide((*lines, *terms), "action", option.align_layer, both=True, head=option.align_on == "head")
    title = "LARA: a state h of noised actions and the latents e of a latent action model are drawn together"
    return draw(STRATEGIES["baseline"], (guide,), title)


def latbot() -> str:
    """Draw the student of LatBot as its recipe makes it, by the defaults of the teacher."""
    teacher = ClipLAMConfig(cameras=("front",), action_dim=7)
    config = VLAConfig(action_dim=7, cameras=("front",), camera_sizes=((224, 224),))
    return draw(taught_by(config, teacher).strategy, labels="latents of the teacher's clip")


def video() -> str:
    """Draw a latent action model of video."""
    parts = [
        *_stage(2, 30, "frame now", "o(t)"), *_stage(2, 130, "frame later", "o(t + δ)"),
        *_stage(190, 80, "encoder", "what changed?"), *_stage(360, 80, "quantizer", "nearest codes"),
        *_stage(360, 175, "latent action", "codes: 3 14 0 7", "guides"), *_stage(530, 80, "decoder", "sees o(t), too"),
        text(672, 76, "predicted", "small"), text(672, 93, "frame later"),
        arrow(128, 55, 188, 92), arrow(128, 155, 188, 118), arrow(316, 105, 358, 105), arrow(486, 105, 528, 105),
        arrow(423, 130, 423, 173, "guides"), arrow(656, 105, 692, 105),
        '<path class="line" d="M128 42 H593 V76"/>', arrow(593, 64, 593, 78),
    ]  # fmt: skip
    title = "A latent action model of video: encoder of two frames, quantizer, decoder that also sees the first frame"
    return figure(parts, 780, 240, title)


def chunk() -> str:
    """Draw an action tokenizer."""
    parts = [
        *_stage(2, 30, "action chunk", "H × m numbers"), *_stage(190, 30, "encoder", "or a transform"),
        *_stage(360, 30, "quantizer", "nearest codes"), *_stage(360, 125, "tokens", "codes: 5 9 9 2", "guides"),
        *_stage(530, 30, "decoder", "never fails"), text(672, 26, "actions", "small"), text(672, 43, "again"),
        arrow(128, 55, 188, 55), arrow(316, 55, 358, 55), arrow(486, 55, 528, 55), arrow(656, 55, 692, 55),
        arrow(423, 80, 423, 123, "guides"),
    ]  # fmt: skip
    return figure(parts, 780, 190, "An action tokenizer: an encoder of a chunk of actions, a quantizer, a decoder")


def _stage(x: int, y: int, name: str, said: str, kind: str = "") -> Iterator[str]:
    yield box(x, y, 126, 50, kind)
    yield text(x + 63, y + 21, name, anchor="middle")
    yield text(x + 63, y + 39, said, "small", "middle")


def box(x: float, y: float, width: float, height: float, kind: str = "") -> str:
    """Draw a rectangle with round corners."""
    return f'<rect class="box {kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'


def text(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> str:
    """Write one line."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(said)}</text>'


def arrow(x: float, y: float, to_x: float, to_y: float, kind: str = "") -> str:
    """Draw an arrow."""
    length = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
    dx, dy = (to_x - x) / length, (to_y - y) / length
    base_x, base_y = to_x - 7 * dx, to_y - 7 * dy
    head = f"{to_x:g},{to_y:g} {base_x - 3 * dy:g},{base_y + 3 * dx:g} {base_x + 3 * dy:g},{base_y - 3 * dx:g}"
    return (
        f'<path class="line {kind}" d="M{x:g} {y:g} L{base_x:g} {base_y:g}"/>'
        f'<polygon class="head {kind}" points="{head}"/>'
    )


def figure(parts: list[str], width: int, height: int, title: str) -> str:
    """Put parts into a figure that a screen reader reads as its title."""
    said = escape(title.replace("`", ""))
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    svg = f'<svg {size} role="img" aria-label="{said}" xmlns="http://www.w3.org/2000/svg">'
    return f'<figure class="drawing">{svg}<title>{said}</title>{"".join(parts)}</svg></figure>'


DRAWINGS: Mapping[str, Callable[[], str]] = {"video": video, "chunk": chunk, "lara": lara, "latbot": latbot}


def drawing(name: str) -> str:
    """Return a drawing by its name: a strategy, or one of `DRAWINGS`."""
    return DRAWINGS[name]() if name in DRAWINGS else draw(STRATEGIES[name])


def every_strategy() -> str:
    """Return a section for each registered strategy."""
    return "\n\n".join(
        f"### {strategy.title or name}\n\n`{name}`: {sentence(strategy)}\n\n{draw(strategy)}"
        for name, strategy in STRATEGIES.items()
    )


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put drawings in their places."""
    markdown = EACH.sub(lambda _: every_strategy(), markdown)
    return MARK.sub(lambda found: drawing(found[1]), markdown)
