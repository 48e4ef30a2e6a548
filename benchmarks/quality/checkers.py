"""What `lattok inspect` and other checkers of LeRobot datasets find of planted flaws, and what they say of sound data.

    python -m benchmarks.quality.checkers --tools VENVS --out benchmarks/results/checkers.json

VENVS has one virtual environment for each checker, called by its package (`PINS`), with what it needs to read LeRobot
(calibra-robotics: pyarrow, pandas and av; deepen-grade[lerobot]; adduct[video]). Each runs as its documentation says.
What is stored of the checkers in `--only` is kept: a run that was cut off goes on.
lerobot-quality-gates wants meta/episodes.json, which LeRobot does not write, and says so of every dataset.
Sound data of other formats than LeRobot v3 are written by their own libraries (`tests/data/sound.py`); the others read
LeRobot only.
A flaw counts as found where a line that the report of the sound dataset lacks names it (`NAMES`), by whatever word. Of
sound data a report should hold no warning: counted are lines of a warning or worse.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import environment, write_results

PINS = {
    "lerobot-doctor": ("0.2.0", ["lerobot-doctor", "check", "{dataset}"]),
    "lerobot-lint": ("0.1.1", ["lelint", "check", "{dataset}"]),
    "lerobot-quality-gates": ("0.1.7", ["lerobot-quality-gates", "check", "{dataset}"]),
    "adduct": ("0.2.2", ["adduct", "scan", "--full", "{dataset}"]),
    "calibra-robotics": ("0.13.1", ["calibra", "{dataset}"]),
    "deepen-grade": ("0.4.1", ["deepen", "grade", "{dataset}"]),
}
SHIFT = r"lag|late|shift|offset|delay|misalign|latency|sync|before|after"
FILE = r"video|mp4|decod|corrupt|truncat|missing|unreadable|cannot|file"
NAMES = {  # words, one of which names a flaw
    "blank": r"blank|black|dark|bright|exposure|empty",
    "frozen": r"frozen|freez|static|identical frame|stuck|same picture",
    "swapped-cameras": r"swap|viewpoint|camera.*(change|shift|mov)",
    "copies": r"duplicat|identical|copies|equal each other|same actions",
    "late-actions": SHIFT,
    "shifted-actions": SHIFT,
    "late-pictures": SHIFT,
    "early-pictures": SHIFT,
    "inverted": r"invert|sign|flip|opposite|polarity|gripper",
    "clipped": r"clip|satur|limit|bound|\bat (min|max)",
    "constant": r"constant|dead|never change|zero.variance|no variance|unused|degenerate",
    "angle-wraps": r"wrap|angle|discontinu|jump|2\s?pi|full turn|whole turn",
    "quaternion-flips": r"quat|sign|flip|discontinu|jump",
    "times-go-back": r"monoton|backward|go back|non-increas|decreas|timestamp",
    "times-jump": r"gap|jump|drop|jitter|irregular|timestamp",
    "other-rate": r"fps|rate|frequency|timestamp",
    "still": r"idle|still|static|stationary|no motion|pause|nothing moves",
    "state-jumps": r"discontinu|jump|teleport|spike|lost",
    "action-in-state": r"leak|identical|equal|copy|copies|action.*state.*same|holds",
    "stuck-state": r"stuck|frozen|constant|never changes|dead|static",
    "not-finite": r"nan|not finite|non-finite|inf\b",
    "outliers": r"outlier|spike|wild|extreme|range|jump",
    "no-instruction": r"instruction|task|language|prompt",
    "other-statistics": r"stat",
    "git-lfs-pointer": r"lfs|pointer|" + FILE,
    "unreadable": FILE,
    "empty-file": FILE,
    "counted-otherwise": r"frame_index|index",
    "video-rate": r"fps|rate",
    "short-video": r"to_timestamp|duration|short|shows|truncat|video.*(length|frames|mismatch)",
}
BAD = re.compile(r"\b(warn(ing)?|error|fail(ed|ure)?|critical|high|medium)\b|[✗✘⚠❌]", re.IGNORECASE)
TOLD = re.compile(r"Summary: (\d+) errors?, (\d+) warnings?")  # where a report counts them itself
SECONDS = 300


def run(words: list[str]) -> tuple[int, list[str]]:
    """Run a checker; return its exit code (-1: too slow) and the lines that it printed."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": tempfile.gettempdir(), "NO_COLOR": "1", "COLUMNS": "400"}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return -1, []
    lines = (done.stdout + "\n" + done.stderr).replace(words[-1], "DATASET").splitlines()
    return done.returncode, [" ".join(line.split()) for line in lines if line.strip()]


def alarms(lines: list[str]) -> int:
    """Count the warnings of a report, and what is worse."""
    told = next(filter(None, map(TOLD.search, lines)), None)
    return sum(bool(BAD.search(line)) for line in lines) if told is None else sum(map(int, told.groups()))


def named(kind: str, episodes: list[int], sound: list[str], flawed: list[str]) -> str:
    """Return the line by which a report names a flaw, or ""."""
    plain = {re.sub(r"\d+", "#", line) for line in sound}
    for line in flawed:
        told = {int(number) for number in re.findall(r"\b\d+\b", line)}
        new = re.sub(r"\d+", "#", line) not in plain or (line not in sound and bool(told & {*episodes}))
        if new and re.search(NAMES[kind], line, re.IGNORECASE) and not line.startswith(("Traceback", "File ")):
            return re.sub(r"(/[\w.-]+){2,}", "PATH", line)[:200]
    return ""


def main() -> None:
    """Write datasets, run all checkers on all of them, and store what they said."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="CHECKER", help="run these, as far as nothing is stored")
    given = parser.parse_args()
    import lattok
    from tests.data import planted
    from tests.data import sound as in_formats

    work = Path(tempfile.mkdtemp())
    sound = {"arm": planted.write(work / "arm", planted.clean())}
    sound |= {"arm, stored images": planted.write(work / "images", planted.clean(1), "image")}
    sound |= {"arm, 50 frames a second": planted.write(work / "fast", planted.clean(2, 50), fps=50)}
    sound |= {"bundled sample": Path(lattok.sample_dataset_path())}
    (work / "formats").mkdir()
    others = in_formats.written(work / "formats")
    flawed = {}
    for number, plant in enumerate((*planted.IN_ARRAYS, *planted.IN_FILES)):
        root = work / str(number) / "arm"  # a checker may print the name, which must not name the flaw
        root.parent.mkdir()
        kind, episodes = planted.planted(plant, root, sound["arm"])
        flawed[kind] = root, episodes
    checkers = {"lattok": [sys.executable, "-m", "lattok", "inspect", "{dataset}"]}
    checkers |= {name: [str(given.tools / name / "bin" / words[0]), *words[1:]] for name, (_, words) in PINS.items()}
    known = json.loads(given.out.read_text())["checkers"] if given.only and given.out.exists() else {}
    results: dict[str, Any] = {"environment": environment(), "checkers": known}
    for name, words in checkers.items():
        if given.only and name not in given.only:
            continue
        version = lattok.__version__ if name == "lattok" else PINS[name][0]
        entry = known.setdefault(name, {"version": version, "sound": {}, "found": {}})
        usual: list[str] = []
        for of, root in (sound | (others if name == "lattok" else {})).items():
            if of not in entry["sound"] or of == "arm":
                code, lines = run([*words[:-1], str(root)])
                usual = lines if of == "arm" else usual
                entry["sound"][of] = [code, alarms(lines)]
        for kind, (root, episodes) in flawed.items():
            if kind not in entry["found"]:
                code, lines = run([*words[:-1], str(root)])
                entry["found"][kind] = [code, named(kind, episodes, usual, lines)]
                write_results(given.out, results)
        results["checkers"] = {each: known[each] for each in checkers if each in known}
        write_results(given.out, results)
    done = {name: entry for name, entry in results["checkers"].items() if len(entry["found"]) == len(NAMES)}
    if done:
        given.out.with_suffix(".md").write_text(table(done))


def table(results: dict[str, Any]) -> str:
    """Return who finds what, and of sound data the number of lines with a warning or worse."""
    names = list(results)
    rows = [["planted", *(f"{name} {results[name]['version']}" for name in names)], ["---"] * (1 + len(names))]
    rows += [[kind, *("yes" if results[n]["found"][kind][1] else "" for n in names)] for kind in NAMES]
    counts = [sum(bool(line) for _, line in results[name]["found"].values()) for name in names]
    rows.append([f"**found of {len(NAMES)}**", *(f"**{count}**" for count in counts)])
    for of in results[names[0]]["sound"]:
        told = [results[name]["sound"].get(of) for name in names]
        rows.append(
            [f"warnings of sound data: {of}", *(f"{each[1]} (exit {each[0]})" if each else "" for each in told)]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main()
