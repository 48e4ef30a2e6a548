#!/usr/bin/env bash
# tensorboard: of a curve of 20,000 steps its EventAccumulator gives 10,000, drawn by chance, without the first
#
# Versions: tensorboard 2.21.0
# Guess: EventAccumulator(folder).Scalars(tag) is each value that was written.
# Fact: It keeps 10,000 of a tag in a reservoir, and says nothing: of the others a random part is missing (the last one is always
#   there). Curves, their best step and steps above a threshold come from half of the values. size_guidance={"scalars": 0} gives all.
# Output: written 20,000; read 10,000, from step 2 to 19,999, in gaps of up to 13 steps; with size_guidance 20,000
# Needs: Python 3.12 or newer (PYTHON=)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv tensorboard==2.21.0
venv/bin/python -W ignore - <<'PY'
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

writer = EventFileWriter("run")
for step in range(20_000):
    summary = Summary(value=[Summary.Value(tag="success", simple_value=step % 2)])
    writer.add_event(Event(step=step, wall_time=step, summary=summary))
writer.close()


def steps(**options):
    accumulator = EventAccumulator("run", **options)
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars("success")]


some, all_of_them = steps(), steps(size_guidance={"scalars": 0})
gaps = [after - before for before, after in zip(some, some[1:])]
print(len(some), "from", some[0], "to", some[-1], "largest gap", max(gaps), "- asked for all:", len(all_of_them))
assert len(some) == 10_000 and some[-1] == 19_999 and max(gaps) > 5
assert all_of_them == list(range(20_000))
PY
