from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest

from streamseg.errors import SourceError
from streamseg.runtime.sources import (
    RedactingFilter,
    SourceOptions,
    open_source,
    parse_source,
    redact,
)

hypothesis = pytest.importorskip("hypothesis", reason="the addresses are fuzzed with hypothesis")
st = hypothesis.strategies

PASSWORD = "Hunter2"


@pytest.mark.parametrize(
    ("text", "scheme", "target", "name"),
    [
        ("clip.mp4", "file", "clip.mp4", "clip.mp4"),
        ("file:///a/b.mp4", "file", "/a/b.mp4", "file:///a/b.mp4"),
        ("0", "camera", "0", "camera 0"),
        ("camera:/dev/video3", "camera", "3", "camera 3"),
        ("/dev/video12", "camera", "12", "camera 12"),
        ("./0", "file", "./0", "./0"),
        ("rtsp://cam/live?ch=1", "rtsp", "rtsp://cam/live?ch=1", "rtsp://cam/live?ch=1"),
        ("RTSP://a:b@cam/live", "rtsp", "rtsp://a:b@cam/live", "RTSP://***@cam/live"),
        ("udp://@:5000", "udp", "udp://@:5000", "udp://***@:5000"),
        ("synthetic:clean?seed=1", "synthetic", "clean?seed=1", "synthetic:clean?seed=1"),
        ("gst:videotestsrc ! identity", "gst", "videotestsrc ! identity", None),
        ("odd:name.mp4", "file", "odd:name.mp4", "odd:name.mp4"),
        ("pictures #1/clip.mp4", "file", "pictures #1/clip.mp4", "pictures #1/clip.mp4"),
    ],
)
def test_address_is_split(text: str, scheme: str, target: str, name: str | None) -> None:
    address = parse_source(text)
    assert (address.scheme, address.target) == (scheme, target)
    assert address.name == (name or text)
    assert address.options == SourceOptions()


def test_options_of_an_address_win_over_the_given_ones() -> None:
    given = SourceOptions(timeout=9, fps=3)
    address = parse_source("rtsp://cam/live?a=1#fps=5&loop&await-source=no&reconnect=4", given)
    assert address.target == "rtsp://cam/live?a=1"
    assert address.options == SourceOptions(timeout=9, fps=5, loop=True, reconnect=4)


def test_digits_are_a_camera_even_beside_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").write_bytes(b"")
    assert parse_source("0").scheme == "camera"
    assert parse_source("./0").scheme == "file"


def test_existing_file_needs_no_escape(tmp_path: Path) -> None:
    for name in ("a#loop", "7", "rtsp:", "x:y@z#fps=1"):
        (tmp_path / name).write_bytes(b"")
        address = parse_source(str(tmp_path / name))
        assert (address.scheme, address.target) == ("file", str(tmp_path / name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a\0b", "zero byte"),
        ("clip.mp4#lop", "unknown option after '#'.*start, loop, fps"),
        ("clip.mp4#await_source", "unknown option"),
        ("clip.mp4#fps=many", "option fps expects a number"),
        ("clip.mp4#fps=0", "fps of a source is 0.0, expected 0.001 to 1000"),
        ("clip.mp4#start=nan", "start of a source is nan"),
        ("clip.mp4#loop=maybe", "option loop expects yes or no"),
        ("clip.mp4#reconnect=1.5", "option reconnect expects a whole number"),
        ("clip.mp4#fps=1&fps=2", "given twice"),
        ("rtsp://cam/live#transport=pigeon", "transport expects one of tcp, udp"),
        ("rtsp://cam/live#what is this?", r"is not a list of options such as #fps=5"),
        ("rtsp:cam", "names no host"),
        ("http:///x", "names no host"),
        ("camera:x", "camera:NUMBER"),
        ("gopher://cam/x", "scheme 'gopher:' is not known"),
    ],
)
def test_wrong_address_is_reported(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        parse_source(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://joe:pw@cam:554/live?fps=1", "rtsp://***@cam:554/live?fps=1"),
        ("rtsp://joe:p@w/o#r?d@cam/live", "rtsp://***@cam/live"),
        ("https://cam/live?password=abc&width=1", "https://cam/live?password=***&width=1"),
        ("https://cam/live?Access_Token=abc", "https://cam/live?Access_Token=***"),
        ("rtsp://cam/user=admin&password=abc&channel=1", None),
        ("joe:pw@cam/live", "***@cam/live"),
        ("gst:rtspsrc location=rtsp://a:b@cam user-pw='x y' ! fakesink", None),
        ("gst:rtspsrc location=rtsp://cam user-pw=abc ! d", "gst:rtspsrc location=rtsp://cam "
         "user-pw=*** ! d"),
        ("lost rtsp://a:b@cam, then rtsp://c:d@cam", "lost rtsp://***@cam, then rtsp://***@cam"),
        ("clip.mp4", "clip.mp4"),
        ("frame 3: see you @ noon", "frame 3: see you @ noon"),
    ],
)  # fmt: skip
def test_passwords_are_hidden(text: str, shown: str | None) -> None:
    hidden = redact(text)
    assert hidden == (shown or hidden)
    for secret in (":pw@", "p@w", "=abc", ":b@", "x y", ":d@"):
        assert secret not in hidden
    assert redact(hidden) == hidden


def test_log_lines_are_redacted_whoever_writes_them() -> None:
    record = logging.LogRecord(
        "libav.rtsp", logging.ERROR, "", 0, "cannot open %s", ("rtsp://joe:pw@cam",), None
    )
    assert RedactingFilter().filter(record)
    assert record.getMessage() == "cannot open rtsp://***@cam"


SCHEME = st.sampled_from(["rtsp", "http", "https", "udp", "RTSP", "file", "gopher", "x"])
ODD = st.text(alphabet=st.sampled_from("@:/?#[]%&=+ !$'\"\\\n\tÿ0a."), max_size=8)


@hypothesis.settings(max_examples=600)
@hypothesis.given(SCHEME, ODD, ODD, ODD, ODD)
def test_no_password_of_an_address_is_ever_shown(
    scheme: str, before: str, after: str, path: str, tail: str
) -> None:
    uri = f"{scheme}://joe:{before}{PASSWORD}{after}@cam/{path}#{tail}"
    assert PASSWORD not in redact(uri)
    try:
        shown = parse_source(uri).name
    except SourceError as error:
        shown = str(error)
    assert PASSWORD not in shown


@hypothesis.settings(max_examples=600)
@hypothesis.given(st.one_of(st.text(max_size=60), st.builds("".join, st.lists(ODD, max_size=4))))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    hypothesis.assume(not text.startswith("gst:"))
    with contextlib.suppress(SourceError):
        open_source(text).close()


ADDRESS = st.text(alphabet=st.sampled_from("abcXYZ019.-_~%!$&'()*+,;=: \\\"<>|"), max_size=12)


@hypothesis.settings(max_examples=150)
@hypothesis.given(st.sampled_from(["rtsp", "http"]), ADDRESS, ADDRESS, ADDRESS)
def test_connection_that_fails_shows_no_password(
    scheme: str, before: str, after: str, path: str
) -> None:
    # Nothing listens on port 1 of loopback: FFmpeg itself reads the address and is refused.
    uri = f"{scheme}://joe:{before}{PASSWORD}{after}@127.0.0.1:1/{path}"
    with pytest.raises(SourceError) as caught:
        open_source(uri, SourceOptions(timeout=2))
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None
