"""docs/howto/simulation.md as typed: commands and blocks in their order, with fewer episodes; its table of experts."""

import re
import shlex
from importlib.util import find_spec
from statistics import median

import pytest

if find_spec("metaworld") is None or find_spec("ogbench") is None:
    pytest.skip("the sim extra is not installed", allow_module_level=True)

from lattok.cli import main
from lattok.sim import make
from lattok.sim.collect import TAIL, demonstrate
from tests.recipes.test_howto import BLOCK, ROOT

PAGE = (ROOT / "docs/howto/simulation.md").read_text(encoding="utf-8")
SHORT = {
    "collect": ["--episodes", "2", "--size", "32", "--codec", "h264", "--workers", "1"],
    "train": ["--steps", "2", "--batch-size", "4", "--log-every", "1", "--backbone-width", "16", "--head-dim", "16"],
    "rollout": ["--episodes", "1"],
    "evaluate": ["--env-episodes", "1"],
}
FEWER = {  # by the verb that takes a whole world
    "collect": "metaworld-pairs/drawer-open metaworld-pairs/drawer-close",
    "rollout": "metaworld-pairs/drawer-open",
    "evaluate": "metaworld-pairs/drawer-open",
}
WORLD = re.compile(r"metaworld-pairs(?=[\s\"]|$)")
ROW = re.compile(r"^\| `([\w-]+)`, `([\w-]+)` \|[^|]*\| (\d+), (\d+) \| (\d+), (\d+) \| (\d+), (\d+) \|$", re.MULTILINE)


@pytest.mark.slow
def test_the_page_can_be_typed(images: None, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    done, names = [], {}
    for kind, text in BLOCK.findall(PAGE):
        if kind == "python":
            text = text.replace('"metaworld-pairs", episodes=2, workers=2', '"metaworld-pairs/drawer-open", episodes=1')
            exec(text, names)
            continue
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words[0] == "lattok" and words[1] in SHORT:
                verb = words[1]
                words = shlex.split(WORLD.sub(FEWER.get(verb, ""), line), comments=True)
                assert main([*words[1:], *SHORT[verb]]) == 0, (line, capsys.readouterr().err)
                done.append(verb)
    assert done == ["collect", "collect", "train", "rollout", "rollout", "evaluate"]
    assert {path.name for path in tmp_path.iterdir()} == {"demonstrations", "varied", "my-policy", "swapped", "lowered"}
    assert (tmp_path / "my-policy/report/report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("row", ROW.findall(PAGE), ids=lambda row: row[0])
def test_experts_are_as_good_as_the_table_says(row: tuple[str, ...]) -> None:
    for task, quiet, noisy, decisions in zip(row[:2], row[2:4], row[4:6], row[6:], strict=True):
        env = make(f"ogbench/{task}")
        episodes = {noise: [demonstrate(env, seed, noise)[1] for seed in range(20)] for noise in (0.0, 0.3)}
        won = {noise: [each["next.success"][-1] for each in played] for noise, played in episodes.items()}
        assert (sum(won[0.0]), sum(won[0.3])) == (int(quiet), int(noisy)), task
        lengths = [len(each["action"]) - TAIL for each in episodes[0.0]]
        assert abs(median(lengths) - int(decisions)) <= 0.5, task
    assert len(ROW.findall(PAGE)) == 8
