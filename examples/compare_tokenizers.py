"""Which tokenizer for my actions? Fit every family, compare rate and error on held-out episodes, save the best one.

python examples/compare_tokenizers.py --dataset path/to/lerobot_v3 --out my-codec
"""

import argparse
import math
from pathlib import Path

import lattok
from lattok.samples import ActionWindows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default=str(lattok.sample_dataset_path()), help="folder or Hub id")
    parser.add_argument("--out", type=Path, default=Path("my-codec"))
    parser.add_argument("--horizon", type=int, default=8)
    parser.add_argument("--steps", type=int, help="of the trained families (default: each one's own)")
    args = parser.parse_args()

    # 1. Chunks in the robot's units. "test" is the last episode of every task.
    dataset = lattok.open_dataset(args.dataset)
    windows = ActionWindows(dataset, args.horizon, episodes="train")
    train, test = windows.all(), ActionWindows(dataset, args.horizon, episodes="test").all()
    steps = {} if args.steps is None else {"steps": args.steps}
    common = {"action_names": tuple(windows.action_names)}

    # 2. One interface for all families.
    tokenizers = {
        "P2T, one code per step": lattok.P2TActionVQ.fit(*train, **steps, **common),
        "residual VQ": lattok.ResidualVQ.fit(*train, **steps, **common),
        "FSQ": lattok.FSQ.fit(*train, **steps, **common),
        "FAST": lattok.FAST.fit(*train, scale=4.0, **common),
        "uniform bins": lattok.UniformBins.fit(*train, bins=4, **common),
    }

    # 3. Rate, and error in the robot's units with the worst case.
    print(f"{'tokenizer':24}{'bits per chunk':>15}{'rms error':>11}{'worst':>8}")
    errors = {}
    for name, tokenizer in tokenizers.items():
        report = tokenizer.error_report(*test)
        tokens = float((tokenizer.encode(*test) >= 0).sum()) / len(test.chunks)
        errors[name] = float(report.mse.mean().sqrt())
        bits = tokens * math.log2(tokenizer.vocab_size)
        print(f"{name:24}{bits:15.1f}{errors[name]:11.4f}{float(report.worst.max()):8.3f}")

    # 4. Every family loads the same way, and decodes anything that a policy emits.
    best = min(errors, key=errors.__getitem__)
    tokenizers[best].save_pretrained(args.out)
    loaded = lattok.load(args.out)
    chunks, info = loaded.decode([[1, 2, 10**6], []], return_info=True)
    print(f"{best}: saved in {args.out}; two broken rows decode to {tuple(chunks.shape)}, repaired: {info.notes}")


if __name__ == "__main__":
    main()
