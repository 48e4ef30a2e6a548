"""Tokenise my actions: train an action tokenizer, turn chunks into codes and back, judge it.

python examples/tokenise_actions.py --dataset path/to/lerobot_v3 --out my-tokenizer
"""

import argparse
from pathlib import Path

import lattok
from lattok.samples import ActionWindows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default=str(lattok.sample_dataset_path()), help="folder or Hub id")
    parser.add_argument("--out", type=Path, default=Path("my-tokenizer"))
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()

    # 1. Train: chunks of 8 actions, 256 codes, one code per step. The normaliser travels inside the tokenizer.
    recipe = lattok.ActionVQRecipe.from_preset(args.dataset, args.out, "quick", steps=args.steps)
    lattok.train(recipe)

    # 2. Use: physical units outside, codes inside. "test" is the last episode of every task.
    tokenizer = lattok.load(args.out)
    dataset = lattok.open_dataset(args.dataset)
    windows = ActionWindows(dataset, tokenizer.horizon, episodes="test").all()
    codes = tokenizer.encode(windows.chunks, windows.valid)  # [N, 8] int64
    chunks = tokenizer.decode(codes)  # [N, 8, m]
    print("first chunk's codes:", codes[0].tolist())
    print("first action:", windows.chunks[0, 0].tolist(), "->", [round(v, 3) for v in chunks[0, 0].tolist()])

    # 3. Judge: error in physical units, with k-means and uniform bins at equal bits.
    report = lattok.evaluate(tokenizer, dataset, out=args.out / "report")
    print(report.to_text())
    print("Report:", args.out / "report" / "report.html")


if __name__ == "__main__":
    main()
