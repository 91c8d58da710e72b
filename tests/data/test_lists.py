"""Lists of file names: each name that a file system can hold is read back as it was written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recviz.data.lists import list_text, read_list
from recviz.errors import InputError

NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name)
STRANGE = [b" a", b"a ", b"a\nb", b"\n", b"\t", b'"a"', b'"', b"a\\nb", b"#a", b"a\xff", b"a\x85b", b"\xef\xbb\xbfa"]
STRANGE += ["a\u2028b".encode(), "\u00a0a".encode(), b"a\rb", b"a\r", b"\x0ba", b"'a'", b"a\x1bb", b"\\", b"a b"]


@given(st.lists(NAMES, max_size=5))
def test_any_names_are_read_back(tmp_path_factory: pytest.TempPathFactory, names: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "names.txt"
    path.write_bytes(list_text([os.fsdecode(name) for name in names]))
    assert [os.fsencode(name) for name in read_list(path)] == names


@pytest.mark.parametrize("name", STRANGE)
def test_strange_names_are_read_back(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(list_text(["before", os.fsdecode(name), "after"]))
    assert [os.fsencode(each) for each in read_list(tmp_path / "list.txt")] == [b"before", name, b"after"]
    assert len((tmp_path / "list.txt").read_bytes().split(b"\n")) == 4


def test_lists_by_hand(tmp_path: Path) -> None:
    """With a byte order mark, line ends of Windows, spaces around and empty lines; a lone quote is itself."""
    (tmp_path / "list.txt").write_bytes(b'\xef\xbb\xbfa.png\r\n\r\n  cat/b c.png \n"d\n#e\nf\\g')
    assert read_list(tmp_path / "list.txt") == ["a.png", "cat/b c.png", '"d', "#e", "f\\g"]


def test_a_quoted_name_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b'a\n"b\\q"\n')
    with pytest.raises(InputError, match=r"list .*list\.txt: line 2 is no JSON string"):
        read_list(tmp_path / "list.txt")
