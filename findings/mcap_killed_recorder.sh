#!/usr/bin/env bash
# mcap: of a recording that was killed the reader gives no message, not even those in the file
#
# Versions: mcap 1.6.0
# Guess: A file whose writer was killed, flushed before, holds all messages but the last few, and NonSeekingReader
#   gives them.
# Fact: Messages wait in memory until a chunk of 1 MiB is full: 6,000 joint states of 100 bytes, a minute at 100 Hz,
#   are a file of 42 bytes. Of 20,000 a whole chunk is on disk, and still none comes: NonSeekingReader sorts, so it
#   reads to the end first and raises EndOfFile. log_time_order=False gives those of the chunk before it raises.
# Output: 6,000 messages: 42 bytes, 0 read, EndOfFile; 20,000: 0 read, EndOfFile; log_time_order=False: 16,009, then
#   EndOfFile
# Needs: Python 3.12 or newer (PYTHON=), 20 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    lz4==4.4.5 mcap==1.6.0 zstandard==0.25.0
venv/bin/python - <<'PY'
import os

from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader
from mcap.writer import Writer


def record(messages, finish=False):
    with open("run.mcap", "wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("joints", "jsonschema", b"{}")
        channel = writer.register_channel("/joints", "json", schema)
        for k in range(messages):
            writer.add_message(channel, k * 10_000_000, bytes(100), k * 10_000_000)
        file.flush()
        if finish:
            writer.finish()
    return os.path.getsize("run.mcap")


def read(**options):
    count = 0
    with open("run.mcap", "rb") as file:
        try:
            for _ in NonSeekingReader(file).iter_messages(**options):
                count += 1
        except EndOfFile:
            return count, "EndOfFile"
    return count, "whole"


size = record(6_000)
print("6,000 messages killed:", size, "bytes,", *read(), "| unsorted", *read(log_time_order=False))
assert size < 100 and read() == (0, "EndOfFile") == read(log_time_order=False)
size = record(20_000)
print("20,000 messages killed:", size, "bytes,", *read(), "| unsorted", *read(log_time_order=False))
assert read() == (0, "EndOfFile")
count, end = read(log_time_order=False)
assert 5_000 < count < 20_000 and end == "EndOfFile"
record(6_000, finish=True)
assert read() == (6_000, "whole")
PY
