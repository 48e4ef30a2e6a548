"""mkdocs hook: the tables of models, from the registry, the importers and what neither of them says (`SYSTEMS`)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, NamedTuple, get_type_hints

import lattok
from lattok.cli import CONVERT
from lattok.hub import FAMILIES
from lattok.recipes import kinds


class System(NamedTuple):
    """What the authors of a published system say of it, and what differs here: (published code, lattok)."""

    name: str
    paper: str
    licence: str
    weights: str
    parameters: str = ""
    reads: str = ""  # where the class here has other defaults
    gives: str = ""
    page: str = "howto/zoo.md"
    differs: tuple[tuple[str, str], ...] = ()
    mind: str = ""


# By the word that follows `lattok convert`. Licences and places are those that the authors name.
SYSTEMS = {
    "univla-lam": System(
        "UniVLA",
        "Bu et al., 2025, [arXiv 2505.06111](https://arxiv.org/abs/2505.06111)",
        "Apache-2.0 (code)",
        "Hub: `qwbu/univla-latent-action-model`, `lam-stage-2.ckpt`",
        reads="features of DINOv2, 224 pixels",
        gives="4 codes of 16, and 4 of the environment",
        page="howto/train_a_lam.md#from-a-model-that-is-there",
        mind="Stage 1 reads instructions and cannot annotate. The published names of stage 2 are crossed: `vq` and "
        "`action_latent` are the environment's.",
    ),
    "p2t-image-lam": System(
        "P2T, image model",
        "Lin et al., 2026, [arXiv 2605.04678](https://arxiv.org/abs/2605.04678)",
        "see the authors",
        "what P2T's code saves, `last.ckpt`",
        reads="features of DINOv2, 224 pixels",
        gives="4 codes of 16, and 4 of the environment",
        page="howto/train_a_lam.md#from-a-model-that-is-there",
        mind="UniVLA's architecture with an action head, which is checked and left out.",
    ),
    "moto-lam": System(
        "Moto, LARA",
        "Chen et al., 2025, [arXiv 2412.04445](https://arxiv.org/abs/2412.04445); LARA, 2026, "
        "[arXiv 2606.07100](https://arxiv.org/abs/2606.07100)",
        "Apache-2.0 (Moto; LARA: code)",
        (
            "Moto's `pytorch_model.bin` (Hub: `TencentARC/Moto`); Hub: `MengyaLiu/LARA_full`, folder "
            "`latent_motion_tokenizer`"
        ),
        "121.2 M without ViT-MAE-L",
        "features of ViT-MAE-L, 224 pixels",
        "8 codes of 128",
        "howto/train_a_lam.md#pixels-instead-of-features",
        (
            (
                "the order of the patches is drawn anew at each call",
                "their own order: labels are the same at every call",
            ),
        ),
        (
            "LARA's first stage was trained on pixels from 0 to 1 (`--pixels unit`), everything after it and Moto on "
            "ImageNet's normalisation."
        ),
    ),
    "lapa-laq": System(
        "LAPA",
        "Ye et al., 2025, [arXiv 2410.11758](https://arxiv.org/abs/2410.11758)",
        "MIT",
        "Hub: `latent-action-pretraining/LAPA-7B-openx`, `laq_openx.pt`",
        "343.9 M",
        differs=(
            (
                "the second frame of the last pairs is the last frame of the episode",
                "the same; those rows are not `valid`",
            ),
            (
                "draws noise next to the codes; its decoder was trained on codes with that noise",
                "no noise: `quantized` are rows of the codebook",
            ),
            ("reads JPEG files that PIL resized", "resizes decoded frames, antialiased, rounded to whole pixel values"),
        ),
        mind="The default gap of 30 frames is that of its training script; no public file says that of `laq_openx.pt`. "
        "What looks odd and stays, since the weights were trained with it: the convolution before attention "
        "over time mixes neighbouring places, and the decoder mixes the channels of all codes of a pair, so "
        "that a code position has no place of its own.",
    ),
    "lary-laq": System(
        "LARYBench",
        "Nie et al., 2026, [arXiv 2604.11689](https://arxiv.org/abs/2604.11689)",
        "MIT (code) and that of the DINO",
        "Hub: `AGI-Eval/LAPA-DINOv3`, `AGI-Eval/LAPA-DINOv2`",
        "169.4 M without DINO",
        "features of DINOv3-L or DINOv2-L, 224 pixels",
        differs=(
            (
                "saves vectors with new noise at every call, as long as the quantization error",
                "none: codes are the same, `quantized` are rows of the codebook",
            ),
            ("features by transformers", "by timm, which no test compares with those"),
            (
                "labels frames that OpenCV resized, bicubic without antialiasing; was trained on PIL's, bilinear",
                "as its labels, less than .3 % of the values 1 of 255 away; `--interpolation bilinear` as in training",
            ),
        ),
        mind="It is LAPA on features, with LAPA's oddities. No single gap was published, so `--stride` has no default: "
        "labels have 5 frames on calvin and vlabench, 45 on agibotbeta, 10 on robocoin (these names will do), training "
        "drew one for each pair, from n to 1.5 n frames with n from 1 to 30 by dataset.",
    ),
    "lawam-lam": System(
        "LaWAM",
        "Chen et al., 2026, [arXiv 2606.15768](https://arxiv.org/abs/2606.15768)",
        "Apache-2.0 (LeRobot), MIT (authors), and DINOv3's",
        "a LeRobot policy of type lawam, or the authors' `lam.ckpt`",
        "725.1 M with DINOv3-B",
        "pixels, 256, through the DINOv3 in the file",
        differs=(
            ("bfloat16 inside the policy", "float32"),
            (
                "LeRobot resizes pixels as real numbers, the authors to whole values",
                "resizes to whole pixel values, then scales",
            ),
            (
                "training cuts frames wider than 4:3 to that in the middle; LeRobot squeezes them",
                "cuts them; `--wide-frames squeeze` as LeRobot",
            ),
        ),
        mind="The default gap of 1.6 s is that of robots; videos of people had .4 s. Heads, image size, "
        "layer of DINOv3, norm and mask are in its settings alone: `--config`, or the file "
        "next to the checkpoint. Its tables of time, rows and columns are added onto the same channels. Latents "
        "have no unit size: look at their range before you regress or quantize them.",
    ),
    "villax-lam": System(
        "villa-X",
        "Chen et al., 2025, [arXiv 2507.23682](https://arxiv.org/abs/2507.23682)",
        "MIT",
        "Hub: `microsoft/villa-x`, the folder with `model_config.json`",
        "201.3 M by the defaults of its class; its README gives 955 M for the published folder",
        differs=(
            (
                (
                    "labels clips in windows: a latent depends on the frames before its pair, and on its place in the "
                    "window"
                ),
                "the pair alone, as the first one of a clip",
            ),
            (
                "resizes pixels as real numbers and rounds once",
                "rounds as torchvision does bytes: 13 % of the values are 1 of 255 away",
            ),
        ),
        mind="It names no gap: the default is consecutive frames, as its published call takes them; choose one that "
        "shows a visible movement. Its attention over time reads tokens that are not normalised.",
    ),
    "adaworld-lam": System(
        "AdaWorld",
        "Gao et al., 2025, [arXiv 2503.18938](https://arxiv.org/abs/2503.18938)",
        "Apache-2.0",
        "Hub: `Little-Podi/AdaWorld`, `lam.ckpt`",
        "474.7 M",
        "pixels, 256, the square in the middle",
        differs=(
            ("in a clip of more than two frames every latent sees all of them", "pairs, as in published training"),
            (
                "in training mode latents are drawn; in evaluation mode the class keeps every latent that it computed",
                "the mean in either mode, nothing is kept",
            ),
            (
                "pixels may overshoot [0, 1] after resizing",
                "clamped, as in published training, and rounded to whole values",
            ),
        ),
        mind="The default gap of 2 frames is that of robots; videos of people had 1. "
        "Latents have no unit size: look at their range before you regress or quantize them.",
    ),
    "p2t-action-vq": System(
        "P2T, action tokenizer",
        "Lin et al., 2026, [arXiv 2605.04678](https://arxiv.org/abs/2605.04678)",
        "see the authors",
        "what P2T's code saves, `tokenizer_step_50000.pt`",
        reads="action chunks",
        gives="a code for each step",
        page="howto/action_tokenizers.md#published-tokenizers",
        mind="The file does not say which statistics actions were normalised with: `--statistics`.",
    ),
}


def families() -> Iterator[str]:
    """Yield the families of artefacts."""
    rows = ["| type | class | what it is | train it |", "|---|---|---|---|"]
    for name in FAMILIES:
        family = FAMILIES[name]
        said = (inspect.getdoc(family) or "").partition("\n")[0]
        how = {"latent-vla": "`lattok train vla`"}.get(name, f"`lattok train {name}`" if name in kinds() else "")
        rows.append(f"| `{name}` | {_link(family)} | {said} | {how} |")
    yield "\n".join(rows)


def _link(family: type) -> str:
    public = family.__name__ in lattok.__all__ or family.__module__.startswith("lattok.image_lam.published")
    parts = family.__module__.split(".")
    package = ".".join(parts[: 3 if parts[:2] == ["lattok", "image_lam"] and parts[2] in ("clips", "published") else 2])
    return f"[`{family.__name__}`][{package}.{family.__name__}]" if public else f"`{family.__name__}`"


def table() -> str:
    """Return one row for each importer."""
    rows = ["| system | paper | licence | parameters | reads | gives | command |", "|---|---|---|---|---|---|---|"]
    for kind in CONVERT:
        system = SYSTEMS.get(kind, System(kind, "", "", ""))
        reads, gives = system.reads or sizes(kind)[0], system.gives or sizes(kind)[1]
        anchor = f"[{system.name}](#{kind})"
        rows.append(
            f"| {anchor} | {system.paper} | {system.licence} | {system.parameters} | {reads} | {gives} | `{kind}` |"
        )
    return "\n".join(rows)


def sections() -> Iterator[str]:
    """Yield a section for each importer."""
    for kind, verb in CONVERT.items():
        system = SYSTEMS.get(kind, System(kind, "", "", ""))
        example = (inspect.getdoc(verb) or "").partition("Example: ")[2].partition("\n")[0]
        yield f"### {system.name} {{ #{kind} }}"
        yield f"Weights: {system.weights}. [More about it]({system.page})." if system.weights else ""
        yield f"```bash\n{example}\n```"
        yield facts(kind)
        if system.differs:
            rows = [f"| {theirs} | {ours} |" for theirs, ours in system.differs]
            yield "\n".join(["| published code | here |", "|---|---|", *rows])
        if system.mind:
            yield system.mind


def config_of(kind: str) -> Any:
    """Return the configuration that an importer makes; nothing where the published system has none of its own."""
    made = get_type_hints(getattr(lattok.convert, kind.replace("-", "_"))).get("return")
    return getattr(made, "config_class", None)


def sizes(kind: str) -> tuple[str, str]:
    """Say what a system reads and gives, by the defaults of its class, which are the published ones."""
    default = {f.name: f.default for f in fields(config)} if (config := config_of(kind)) is not None else {}
    if "latent_dim" not in default or "image_size" not in default:
        return "", ""
    gives = f"{default['tokens']} codes of {default['codebook_size']}"
    if config is not None and config.quantizer == "none":
        gives = f"a latent of {default['latent_dim']} numbers, no codes"
    return f"pixels, {default['image_size']}", gives


def facts(kind: str) -> str:
    """List the options of an importer with their defaults."""
    options = inspect.signature(getattr(lattok.convert, kind.replace("-", "_"))).parameters.values()
    given = [f"`{option.name}={option.default!r}`" for option in options if option.default is not option.empty]
    return f"In Python `lattok.convert.{kind.replace('-', '_')}(path)`" + (
        f", with {', '.join(given)}." if given else "."
    )


MARKS = {
    "<!-- families -->": lambda: "\n\n".join(families()),
    "<!-- systems -->": lambda: "\n\n".join([table(), *sections()]),
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put families and published systems in their places."""
    for mark, write in MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, write())
    return markdown
