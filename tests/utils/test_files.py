"""JSON from strangers: whatever is wrong with a file is one line that names it."""

import errno
import json
import os

import pytest

from lattok.utils import files
from lattok.utils.output import Output
from tests.errors import refused

DEEP = 100_000


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[" * DEEP, "is not valid JSON (nested too deeply)"),
        ('{"a":' * DEEP + "1" + "}" * DEEP, "is not valid JSON (nested too deeply)"),
        ('{"a":' * 500 + "1" + "}" * 500, "is not valid JSON (nested too deeply)"),  # the reader itself takes this
        ('{"a": "\\ud800"}', r"a text with NUL or half a character: '\ud800'"),
        ('{"\\udfff": 1}', r"a text with NUL or half a character: '\udfff'"),
        ('{"a": ["b\\u0000c"]}', r"a text with NUL or half a character: 'b\x00c'"),
        ('{"a": ' + "9" * 5000 + "}", "(a whole number beyond 64 bits)"),
        ('{"a": 9223372036854775808}', "(a whole number beyond 64 bits)"),
        ('{"a": NaN}', "(nan where a finite number is expected)"),
        ('{"a": [-Infinity]}', "(-inf where a finite number is expected)"),
        ('{"a": 1e999}', "(inf where a finite number is expected)"),
        ('{"a": 1, "a": 2}', "('a' comes twice in one object)"),
        (b'{"a": "\xff"}', "is not valid JSON"),
        ("", "is empty. Copy the file again."),
        ("[1]", "expected a JSON object, got list"),
        ("7", "expected a JSON object, got int"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_odd_json_is_one_line_that_names_the_file(tmp_path, content, text):
    path = tmp_path / "info.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused(None, files.read_json, path)
    assert str(path) in message
    assert text in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_file_that_is_too_large_or_never_ends_is_not_read(tmp_path):
    huge, pipe, folder = tmp_path / "huge.json", tmp_path / "pipe.json", tmp_path / "folder.json"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(pipe)
    folder.mkdir()
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    refused("huge.json: expected at most 32 MB of JSON", files.read_json, huge)
    for path in (pipe, folder, tmp_path / "zero.json"):
        refused(f"cannot read .*{path.name}: it is not a file", files.read_json, path)
    refused("cannot read .*: it is not a path", files.read_json, tmp_path / "a\0b")
    refused("cannot read .*: No such file", files.read_json, tmp_path / "missing.json")


def test_what_we_write_reads_as_it_was_and_nan_where_it_is_asked_for(tmp_path):
    path = tmp_path / "a.json"
    value = {"größe": [1, 2.5, None, True, {"x": -(2**63)}], "emoji": "🤖", "tab": "\t\n"}
    files.write_json(path, value)
    assert files.read_json(path) == value
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as Windows does
    assert files.read_json(path) == value
    path.write_text('{"std": NaN, "max": Infinity}')
    assert json.dumps(files.read_json(path, nan=True)) == '{"std": NaN, "max": Infinity}'


def test_a_repeated_name_at_the_end_of_many_is_found_at_once():
    pairs = ",".join(f'"{i}": 0' for i in range(200_000))
    refused("'199999' comes twice", files.parse_json, f'{{{pairs}, "199999": 1}}', "x.json")


def test_what_cannot_be_written_goes_by_the_name_that_was_asked_for(tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OSError, match="page.html") as caught:
        files.write_text(tmp_path / "page.html", "text")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "page.html"), None)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_way_out_fits_what_was_refused(tmp_path):
    said = {code: files.make_room(OSError(code, "")) for code in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EFBIG)}
    assert said == {
        errno.ENOSPC: "Free space",
        errno.EACCES: "Correct the permissions",
        errno.EROFS: "Correct the permissions",
        errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
    }
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        Output(tmp_path / "file" / "out").hold()
    assert caught.value.filename == str(tmp_path / "file" / "out")
