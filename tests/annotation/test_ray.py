"""The Ray engine: the same bytes as the local one, whatever the number of workers and whoever dies."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from lattok.action_vq import UniformBins
from lattok.annotation import RayEngine, annotate, engines, label
from lattok.annotation.labels import Work
from lattok.cli import main
from lattok.labels.spec import Options
from tests.annotation.fakes import MODELS, FakeLAM, FakeTokenizer, tree
from tests.errors import refused

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.ci
CAPTURED = {"capture_output": True, "text": True, "timeout": 300}


@pytest.fixture(scope="module")
def cluster():
    """Ray with room for four workers, started once."""
    engines._ray().init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_ray_is_started_for_one_annotation(source, tmp_path):
    expected = tree(annotate(source, {"tok": FakeTokenizer()}, tmp_path / "local"))
    annotate(source, {"tok": FakeTokenizer()}, tmp_path / "ray", engine=RayEngine(workers=1))
    assert tree(tmp_path / "ray") == expected
    assert not ray.is_initialized()


JOINS = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='CRITICAL'); print('joined')"


def test_a_ray_that_is_started_here_asks_callers_for_a_token(source, tmp_path, monkeypatch):
    """By Ray's own client; without a token, with another one, and with the right one."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:1")  # of a cluster that only --address auto joins
    said = {}

    def call(done, total):
        if said:
            return
        address, token = ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"]
        tokens = {"none": {}, "another": {"RAY_AUTH_TOKEN": "f" * 64}, "right": {"RAY_AUTH_TOKEN": token}}
        for name, own in tokens.items():
            mode = {"RAY_AUTH_MODE": "token" if own else "disabled"}
            plain = {key: value for key, value in os.environ.items() if not key.startswith("RAY_A")}
            run = subprocess.run([sys.executable, "-c", JOINS, address], env={**plain, **mode, **own}, **CAPTURED)
            said[name] = (run.returncode == 0, "joined" in run.stdout)

    annotate(source, {"tok": FakeTokenizer()}, tmp_path / "ray", engine=RayEngine(workers=1), progress=call)
    assert said == {"none": (False, False), "another": (False, False), "right": (True, True)}
    assert os.environ["RAY_AUTH_MODE"] == "disabled"  # what the user had set, for a cluster of his own
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_the_output_is_the_local_one(source, tmp_path, cluster, workers):
    expected = tree(annotate(source, MODELS, tmp_path / "local"))
    seen = []
    engine = RayEngine(workers=workers)
    annotate(source, MODELS, tmp_path / "ray", engine=engine, progress=lambda done, total: seen.append((done, total)))
    assert tree(tmp_path / "ray") == expected
    assert seen[-1] == (70, 70)


class Deadly(FakeTokenizer):
    """Kills its own process at some episodes: each time, or where a mark is not yet there."""

    def __init__(self, lengths, mark=None):
        self.lengths, self.mark = lengths, mark

    def latent_actions(self, chunks, valid=None):
        if len(chunks) in self.lengths and not (self.mark and self.mark.exists()):
            if self.mark:
                self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().latent_actions(chunks, valid)


def test_a_worker_that_is_killed_changes_nothing(source, tmp_path, cluster):
    expected = tree(annotate(source, {"tok": FakeTokenizer()}, tmp_path / "local"))
    annotate(source, {"tok": Deadly([9], tmp_path / "mark")}, tmp_path / "ray", engine=RayEngine(workers=2))
    assert (tmp_path / "mark").exists()
    assert tree(tmp_path / "ray") == expected


@pytest.mark.slow
def test_a_unit_that_kills_its_workers_is_left_out(source, tmp_path, cluster):
    result = label(Work(source, {"tok": Deadly([25])}, Options()), tmp_path / "ray", engine=RayEngine(workers=2))
    assert list(result.unlabelled["tok"]) == [3]
    assert "the worker died" in result.report()
    assert "3 times" in result.report()


@pytest.mark.slow
def test_an_episode_that_cannot_be_read(source, tmp_path, cluster):
    source.video_span(6, source.cameras[1])[0].unlink()
    local = label(Work(source, MODELS, Options()), tmp_path / "local")
    over_ray = label(Work(source, MODELS, Options()), tmp_path / "ray", engine=RayEngine(workers=2))
    assert over_ray.unlabelled == local.unlabelled != {}
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


@pytest.mark.slow
def test_ctrl_c_stops_the_workers(source, tmp_path, cluster):
    class Slow(FakeTokenizer):
        def latent_actions(self, chunks, valid=None):
            time.sleep(0.2)
            return super().latent_actions(chunks, valid)

    def stop(done, total):
        raise KeyboardInterrupt

    engine = RayEngine(workers=2)
    with pytest.raises(KeyboardInterrupt, match="Run the same command to continue"):
        annotate(source, {"tok": Slow()}, tmp_path / "out", engine=engine, progress=stop)
    expected = tree(annotate(source, {"tok": FakeTokenizer()}, tmp_path / "local"))
    assert tree(annotate(source, {"tok": Slow()}, tmp_path / "out", engine=engine)) == expected


STOPPED = """
import os, signal, sys, threading
from lattok.annotation import engines
from lattok.cli import main

spawn = engines._Pool._spawn
def stop(self, number):  # while this process waits in C for the worker
    spawn(self, number)
    threading.Timer(0.3, os.kill, (os.getppid(), signal.SIGTERM)).start()
engines._Pool._spawn = stop
sys.exit(main())
"""
# Ray starts for as long as one likes, with a handler in C that ends the process with a stack, as Ray's own does
STARTING = """
import ctypes, faulthandler, os, resource, signal, sys, time, types
from lattok.annotation import engines
from lattok.cli import main

def init(**_):
    if "fails" in sys.argv[-1]:
        raise OSError("no room")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGTERM, ctypes.cast(libc.abort, ctypes.c_void_p))
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)

engines._ray = lambda: types.SimpleNamespace(is_initialized=lambda: False, init=init)
sys.exit(main())
"""


@pytest.fixture
def words(source, tmp_path):
    """A command that labels over Ray, but for --out."""
    tokenizer = UniformBins.fit(np.stack([source.columns(0, ["action"])["action"][:4]]))
    tokenizer.save_pretrained(tmp_path / "tok")
    return ["annotate", str(source.root), "--model", str(tmp_path / "tok"), "--workers", "1", "--engine", "ray"]


def test_sigterm_ends_with_143_and_one_line_and_the_same_command_goes_on(words, tmp_path, cluster):
    """A time limit of SLURM ends jobs so; Ray's own handlers, one of them in C, end with a stack."""
    run = subprocess.run([sys.executable, "-c", STOPPED, *words, "--out", str(tmp_path / "out")], **CAPTURED)
    assert run.returncode == 128 + signal.SIGTERM, run.stderr
    assert re.findall("interrupted.*Run the same command to continue", run.stderr)
    assert "***" not in run.stderr
    assert "Traceback" not in run.stderr
    for out, rest in (("out", words), ("local", words[:4])):
        assert main([*rest, "--out", str(tmp_path / out)]) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "local")


@pytest.mark.skipif(sys.platform != "linux", reason="commands are watched on Linux")
def test_sigterm_while_ray_starts(words, tmp_path):
    run = subprocess.run([sys.executable, "-c", STARTING, *words, "--out", str(tmp_path / "out")], **CAPTURED)
    assert run.returncode == 128 + signal.SIGTERM
    assert re.fullmatch("(note: .*\n)*\nlattok: interrupted; run the same command again\n", run.stderr)
    assert not (tmp_path / "out").exists()


def test_a_ray_that_cannot_start_here(words, tmp_path):
    run = subprocess.run([sys.executable, "-c", STARTING, *words, "--out", str(tmp_path / "fails")], **CAPTURED)
    assert run.returncode == 2
    assert run.stderr.endswith("\nlattok: `engine`: Ray cannot start here: no room.\n")


def test_without_work_ray_is_not_looked_for(source):
    assert not [*RayEngine("no address").label(Work(source, MODELS, Options()), ())]


def test_what_ray_cannot_do(source, tmp_path, cluster):
    class Unpicklable(FakeLAM):
        def __init__(self):
            self.lock = threading.Lock()

    refused(
        "`models`: expected models that other processes can be given, got: .*lock",
        lambda: annotate(source, {"latent": Unpicklable()}, tmp_path / "out", engine=RayEngine(workers=1)),
    )
    refused("`workers`: expected room", lambda: annotate(source, MODELS, tmp_path / "out", engine=RayEngine(workers=9)))
    refused("`workers`: expected a whole number of at least 1", RayEngine, workers=0)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.slow
def test_a_real_model_gives_the_same_codes(make_dataset, tmp_path, cluster):
    from lattok.action_vq import ActionVQConfig, P2TActionVQ

    torch.manual_seed(0)
    dataset = make_dataset([12, 30, 9], cameras=False)
    model = P2TActionVQ(ActionVQConfig(action_dim=3, horizon=4)).eval()
    local = annotate(dataset, {"tok": model}, tmp_path / "local")
    assert tree(annotate(dataset, {"tok": model}, tmp_path / "ray", engine=RayEngine(workers=2))) == tree(local)
    assert np.isfinite(dataset.columns(0, ["action"])["action"]).all()
