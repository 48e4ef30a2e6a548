"""Speed of tokenizers against the code that was published with their papers, with the same weights.

git clone https://github.com/pairlab/QueST
git clone https://github.com/jayLEE0301/vq_bet_official
pip install positional-encodings
python -m benchmarks.speed.published quest QueST --out benchmarks/results/published_speed.json
python -m benchmarks.speed.published vqbet vq_bet_official --out benchmarks/results/published_speed.json

Their code runs as it is, from a clone of yours: QueST at cc25a83, VQ-BeT at 09d4851 (both MIT). Published sizes, random
weights, smooth synthetic chunks, one thread; ratios are of the least CPU time of interleaved rounds (medians in
brackets). Of the other families, OAT's code may not be used commercially, the splines of BEAST's are in a library that
is not public, and P2T's has no licence: `benchmarks.speed.action_tokenizer` has straightforward modules of these.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.common import Case, commit_of, environment, interleaved, write_results
from benchmarks.speed.action_tokenizer import BATCHES, KINDS, MOST_OTHER, SETTINGS, row, show, smooth_chunks
from lattok import convert

WANTED = 2.0  # times as fast as published, everywhere


class Published(NamedTuple):
    """A published model: its tensors by their names in its file, and how it encodes and decodes."""

    tensors: dict[str, Tensor]
    encode: Any
    decode: Any


def quest() -> Published:
    """QueST's skill autoencoder, whose policy asks for `get_indices` and `decode_actions`."""
    from quest.algos.quest_modules.skill_vae import SkillVAE  # type: ignore[import-not-found]

    rest = {"decoder_dim": SETTINGS["quest"]["encoder_dim"], "vq_type": "fsq", "codebook_dim": None}
    model = SkillVAE(**SETTINGS["quest"], **rest).eval()
    return Published(dict(model.state_dict()), model.get_indices, model.decode_actions)


def vqbet() -> Published:
    """VQ-BeT's residual VQ-VAE, whose policy asks for `get_code` and decodes what it draws by `draw_code_forward`."""
    from vqvae.vqvae import VqVae  # type: ignore[import-not-found]

    model = VqVae(**SETTINGS["vqbet"], device="cpu")
    parts = {"encoder": model.encoder, "decoder": model.decoder, "vq_embedding": model.vq_layer}
    tensors = {f"{part}.{name}": tensor for part, net in parts.items() for name, tensor in net.state_dict().items()}
    return Published(
        tensors,
        lambda chunks: model.get_code(chunks)[1],
        lambda codes: model.get_action_from_latent(model.draw_code_forward(codes)),
    )


@torch.no_grad()
def run(name: str, rounds: int) -> dict[str, Any]:
    """Return the tables of a family, once its codes and chunks are those of the published code."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    theirs = {"quest": quest, "vqbet": vqbet}[name]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "published.safetensors"
        save_file({key: value.contiguous() for key, value in theirs.tensors.items()}, path)
        model = getattr(convert, name)(path, SETTINGS[name])
    ways: dict[str, Any] = {"published": theirs, "lattok": model}
    tables: dict[str, Any] = {}
    for batch in BATCHES:
        chunks = smooth_chunks(batch, 2, model.horizon, model.action_dim)
        codes = model.encode(chunks)
        if (other := float((theirs.encode(chunks) != codes).float().mean())) > MOST_OTHER:
            raise SystemExit(f"{name}: {other:.2%} of codes differ from the published code's")
        torch.testing.assert_close(model.decode(codes), theirs.decode(codes), rtol=0, atol=2e-5)
        for kind, given in zip(KINDS, (chunks, codes), strict=True):
            cases = {way: Case(getattr(each, kind), given) for way, each in ways.items()}
            rows = tables[f"{kind}, batch {batch}"] = row(interleaved(cases, rounds), batch)
            show(f"{name}: {kind}, batch {batch}", rows, {"lattok": WANTED})
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("family", choices=["quest", "vqbet"])
    parser.add_argument("clone", type=Path, help="folder of the published code")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="JSON file to write: its other families stay")
    args = parser.parse_args()
    sys.path.insert(0, str(args.clone))  # before the packages installed: VQ-BeT brings a quantizer of its own
    tables = {"published_commit": commit_of(args.clone), "tables": run(args.family, args.rounds)}
    if args.out is not None:
        there = json.loads(args.out.read_text()) if args.out.exists() else {}
        write_results(args.out, {**there, "environment": environment(), args.family: tables})


if __name__ == "__main__":
    main()
