"""The eighth plan's tables, against scipy."""

import numpy as np
from scipy import stats

from studies.elsewhere import ACTED, INFERRED, KNOWN, RECORDINGS, page


def runs() -> dict[str, dict]:
    rng, found = np.random.default_rng(0), {}
    for seed in range(5):
        for name in RECORDINGS:
            figures = dict(zip(("r2_xyz", "r2_executed_xyz", "systematic"), rng.random(3).tolist(), strict=True))
            found[f"labels.{name}.{seed}"] = {"commit": "c", "all": figures}
        for name in ACTED:
            for source in (KNOWN, INFERRED):
                own = {task: [int(rng.integers(41)), 0, 40] for task in "ab"}
                found[f"{name}.{source}.{seed}"] = {"commit": "c", "own": own}
    return found


def test_each_planned_comparison_is_paired_by_seed_and_corrected_in_its_family():
    found = runs()
    text = page(found)

    def share(name: str, seed: int) -> float:
        own = found[f"{name}.{seed}"]["own"]
        return (own["a"][0] + own["b"][0]) / 80

    gains = [[share(f"{name}.{INFERRED}", s) - share(f"{name}.{KNOWN}", s) for s in range(5)] for name in ACTED]
    p = [stats.ttest_1samp(gain, 0).pvalue for gain in gains]
    for name, gain, own in zip(ACTED, gains, p, strict=True):
        after = min(1, 2 * own) if own == min(p) else min(1, max(max(p), 2 * min(p)))
        line = f"| {name}.{INFERRED} | {name}.{KNOWN} | success | {np.mean(gain):+.3f} ± "
        assert line in text
        assert text.partition(line)[2].splitlines()[0].endswith(f"| p {own:.3f} | p {after:.3f} |")
    first = [found[f"labels.same.{s}"]["all"]["r2_xyz"] for s in range(5)]
    assert f"| same | 5 | {np.mean(first):.3f} ± " in text
    assert sum(line.startswith("| labels.") for line in text.splitlines()) == 3


def test_what_has_not_run_has_no_line():
    found = {key: run for key, run in runs().items() if key.startswith("labels.same")}
    text = page(found)
    assert "| same | 5 |" in text
    assert "labels." not in text
    assert "success |\n|---|---|---|\n\n" in text
