"""mkdocs hook: the tables of models, from the registry of families and the importers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, NamedTuple, get_type_hints

from lattok.hub import FAMILIES
from lattok.hub.checkpoint import IMPORTERS
from lattok.recipes import kinds


class System(NamedTuple):
    """What the page says of a published system, besides what its importer and the class of its models say."""

    title: str  # what people call it
    paper: str = ""  # authors and where to read about it
    licence: str = ""  # of code and weights, as the authors name it
    weights: str = ""  # where they are
    parameters: str = ""  # how many there are
    reads: str = ""  # what it sees, where the class has other defaults
    gives: str = ""  # what a label is, where the class has other defaults
    page: str = "howto/zoo.md"  # of the documentation, that says more
    differs: tuple[tuple[str, str], ...] = ()  # (published code, lattok)


SYSTEMS = {  # by importer
    "adaworld-lam": System(
        title="AdaWorld",
        paper="Gao et al., 2025, [arXiv 2503.18938](https://arxiv.org/abs/2503.18938)",
        licence="Apache-2.0",
        weights="Hub: `Little-Podi/AdaWorld`, `lam.ckpt`",
        parameters="474.7 M",
        reads="pixels, 256, the square in the middle",
        differs=(
            ("in a clip of more than two frames every latent sees all of them", "pairs, as in published training"),
            ("training mode draws latents, evaluation mode keeps all of them", "the mean in either mode, none is kept"),
            ("resized pixels may overshoot [0, 1]", "clamped, as in published training, and rounded to whole values"),
        ),
    ),
    "beast": System(
        title="BEAST",
        paper="Zhou et al., 2025, [arXiv 2506.06072](https://arxiv.org/abs/2506.06072)",
        licence="code: MIT",
        weights="`w_min` and `w_max` in the checkpoints of BEAST-F",
        parameters="140 bounds",
        reads="action chunks",
        gives="70 codes of 256 for 20 steps of 7 dimensions",
        page="howto/action_tokenizers.md#published-tokenizers",
    ),
    "lapa-laq": System(
        title="LAPA",
        paper="Ye et al., 2025, [arXiv 2410.11758](https://arxiv.org/abs/2410.11758)",
        licence="MIT",
        weights="Hub: `latent-action-pretraining/LAPA-7B-openx`, `laq_openx.pt`",
        parameters="343.9 M",
        differs=(
            ("the last pairs end with the last frame of the episode", "the same; those rows are not `valid`"),
            ("draws noise, with which its decoder was trained", "none: `quantized` are rows of the codebook"),
            ("reads JPEG files that PIL resized", "resizes decoded frames, antialiased, rounded to whole pixel values"),
        ),
    ),
    "lary-laq": System(
        title="LARYBench",
        paper="Nie et al., 2026, [arXiv 2604.11689](https://arxiv.org/abs/2604.11689)",
        licence="MIT (code) and that of the DINO",
        weights="Hub: `AGI-Eval/LAPA-DINOv3`, `AGI-Eval/LAPA-DINOv2`",
        parameters="169.4 M without DINO",
        reads="features of DINOv3-L or DINOv2-L, 224 pixels",
        differs=(
            ("vectors with new noise at every call", "none: the same codes, `quantized` are rows of the codebook"),
            ("features by transformers", "by timm; no test compares the two"),
            (
                "labels frames resized by OpenCV, bicubic without antialiasing; was trained on PIL's, bilinear",
                "as its labels, less than .3 % of the values 1 of 255 away; `--interpolation bilinear` as in training",
            ),
        ),
    ),
    "lawam-lam": System(
        title="LaWAM",
        paper="Chen et al., 2026, [arXiv 2606.15768](https://arxiv.org/abs/2606.15768)",
        licence="Apache-2.0 (LeRobot), MIT (authors), and DINOv3's",
        weights="a LeRobot policy of type lawam, or the authors' `lam.ckpt`",
        parameters="725.1 M with DINOv3-B, of which labels need 616.3 M",
        reads="pixels, 256, through the DINOv3 in the file",
        differs=(
            ("bfloat16 inside the policy", "float32"),
            ("LeRobot resizes pixels as real numbers, the authors to whole values", "resizes to whole values"),
            ("cuts frames wider than 4:3; LeRobot squeezes them", "cuts them; `--wide-frames squeeze` as LeRobot"),
        ),
    ),
    "moto-lam": System(
        title="Moto, LARA",
        paper="Chen et al., 2025, [arXiv 2412.04445](https://arxiv.org/abs/2412.04445); LARA, 2026, "
        "[arXiv 2606.07100](https://arxiv.org/abs/2606.07100)",
        licence="Apache-2.0 (Moto; LARA: code)",
        weights="Moto's `pytorch_model.bin` (Hub: `TencentARC/Moto`); Hub: `MengyaLiu/LARA_full`, folder "
        "`latent_motion_tokenizer`",
        parameters="121.2 M without ViT-MAE-L",
        reads="features of ViT-MAE-L, 224 pixels",
        gives="8 codes of 128",
        page="howto/train_a_lam.md#pixels-instead-of-features",
        differs=(
            (
                "the order of the patches is drawn anew at each call",
                "their own order: labels are the same at every call",
            ),
        ),
    ),
    "oat": System(
        title="OAT",
        paper="Liu et al., 2026, [arXiv 2602.04215](https://arxiv.org/abs/2602.04215)",
        licence="MIT; parts of the model's code EPFL-Apple, non-commercial (nothing of it is here)",
        weights="what OAT's code saves",
        parameters="5.8 M",
        reads="action chunks, 32 steps",
        gives="8 codes of 1,000, coarse to fine",
        page="howto/action_tokenizers.md#published-tokenizers",
        differs=(("An id beyond the codebook wraps around.", "The row decodes from the codes before it."),),
    ),
    "p2t-action-vq": System(
        title="P2T, action tokenizer",
        paper="Lin et al., 2026, [arXiv 2605.04678](https://arxiv.org/abs/2605.04678)",
        licence="see the authors",
        weights="what P2T's code saves, `tokenizer_step_50000.pt`",
        reads="action chunks",
        gives="a code for each step",
        page="howto/action_tokenizers.md#published-tokenizers",
    ),
    "p2t-image-lam": System(
        title="P2T, image model",
        paper="Lin et al., 2026, [arXiv 2605.04678](https://arxiv.org/abs/2605.04678)",
        licence="see the authors",
        weights="what P2T's code saves, `last.ckpt`",
        reads="features of DINOv2, 224 pixels",
        gives="4 codes of 16, and 4 of the environment",
        page="howto/train_a_lam.md#fine-tune-an-existing-model",
    ),
    "quest": System(
        title="QueST, skill tokenizer",
        paper="Mete et al., 2024, [arXiv 2407.15840](https://arxiv.org/abs/2407.15840)",
        licence="MIT",
        weights="what QueST's code saves",
        parameters="6.5 M",
        reads="action chunks, 32 steps",
        gives="8 codes of 1,000, in the order of time",
        page="howto/action_tokenizers.md#published-tokenizers",
        differs=(
            ("Ids are cut: some sizes of a level from 26 on give ids that are too small.", "Ids are rounded."),
            ("An id beyond the codebook wraps around.", "It repeats its neighbour; its steps repeat the last action."),
        ),
    ),
    "univla-lam": System(
        title="UniVLA",
        paper="Bu et al., 2025, [arXiv 2505.06111](https://arxiv.org/abs/2505.06111)",
        licence="Apache-2.0 (code)",
        weights="Hub: `qwbu/univla-latent-action-model`, `lam-stage-2.ckpt`",
        reads="features of DINOv2, 224 pixels",
        gives="4 codes of 16, and 4 of the environment",
        page="howto/train_a_lam.md#fine-tune-an-existing-model",
    ),
    "villax-lam": System(
        title="villa-X",
        paper="Chen et al., 2025, [arXiv 2507.23682](https://arxiv.org/abs/2507.23682)",
        licence="MIT",
        weights="Hub: `microsoft/villa-x`, the folder with `model_config.json`",
        parameters="201.3 M by the defaults of its class; its README gives 955 M for the published folder",
        differs=(
            ("labels windows: a latent depends on the frames before its pair", "the pair alone, the first of a clip"),
            (
                "resizes pixels as real numbers and rounds once",
                "rounds as torchvision does bytes: 13 % of the values are 1 of 255 away",
            ),
        ),
    ),
    "vqbet": System(
        title="VQ-BeT, residual VQ-VAE",
        paper="Lee et al., 2024, [arXiv 2403.03181](https://arxiv.org/abs/2403.03181)",
        licence="code: MIT",
        weights="what VQ-BeT's code saves, `trained_vqvae.pt`",
        parameters="0.2 M",
        reads="action chunks",
        gives="2 codes of 16",
        page="howto/action_tokenizers.md#published-tokenizers",
        differs=(("Codes are decoded only if all levels are given.", "The first ones alone decode, too."),),
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
    parts = family.__module__.split(".")
    packages = (".".join(parts[:end]) for end in range(2, len(parts) + 1))
    home = next(each for each in packages if hasattr(sys.modules[each], family.__name__))
    return f"[`{family.__name__}`][{home}.{family.__name__}]"


def table() -> str:
    """Return one row for each importer."""
    rows = ["| system | paper | licence | parameters | reads | gives | command |", "|---|---|---|---|---|---|---|"]
    for kind in IMPORTERS:
        system = SYSTEMS.get(kind, System(kind))
        reads, gives = system.reads or sizes(kind)[0], system.gives or sizes(kind)[1]
        anchor = f"[{system.title}](#{kind})"
        rows.append(
            f"| {anchor} | {system.paper} | {system.licence} | {system.parameters} | {reads} | {gives} | `{kind}` |"
        )
    return "\n".join(rows)


def sections() -> Iterator[str]:
    """Yield a section for each importer."""
    for kind in IMPORTERS:
        system, importer = SYSTEMS.get(kind, System(kind)), IMPORTERS[kind]
        yield f"### {system.title} {{ #{kind} }}"
        yield f"Weights: {system.weights}. [More about it]({system.page})." if system.weights else ""
        yield f"```bash\n{importer.example}\n```"
        yield facts(kind)
        if system.differs:
            rows = [f"| {theirs} | {ours} |" for theirs, ours in system.differs]
            yield "\n".join(["| published code | here |", "|---|---|", *rows])
        if importer.mind:
            yield importer.mind


def config_of(kind: str) -> Any:
    """Return the configuration that an importer makes; nothing where the published system has none of its own."""
    made = get_type_hints(IMPORTERS[kind].read).get("return")
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
    options = inspect.signature(IMPORTERS[kind].read).parameters.values()
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
