"""What a service can be installed from, as it is written; pip's notation for repositories."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcm_processor.errors import UsageError
from dcm_processor.sources.source import Local, Repository, parse

HERE = Path("/here")


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("lung", Local(Path("/here/lung"))),
        ("../a b/lung#1@2.zip", Local(Path("/here/../a b/lung#1@2.zip"))),
        ("/srv/lung.tar.gz", Local(Path("/srv/lung.tar.gz"))),
        ("file:///srv/a%20b", Local(Path("/srv/a b"))),
        ("file://localhost/srv/x.zip#subdirectory=a/b%20c/", Local(Path("/srv/x.zip"), "a/b c")),
        ("file:///srv/r.git@v1", Repository("file:///srv/r.git", "v1")),
        ("git+file:///srv/r", Repository("file:///srv/r")),
        ("git+https://host.example/o/r.git", Repository("https://host.example/o/r.git")),
        (
            "git+https://host.example:8443/o/r.git@v1.2#subdirectory=services/lung",
            Repository("https://host.example:8443/o/r.git", "v1.2", "services/lung"),
        ),
        ("git+ssh://git@host/o/r.git@feature/x", Repository("ssh://git@host/o/r.git", "feature/x")),
        ("git+ssh://git@host:2222/~me/r@0a1b2c", Repository("ssh://git@host:2222/~me/r", "0a1b2c")),
        ("git+https://[::1]/r.git", Repository("https://[::1]/r.git")),
    ],
)
def test_a_source_is_a_folder_an_archive_or_a_repository(text: str, means: Local | Repository) -> None:
    assert parse(text, HERE) == means
    assert parse(str(means), Path("/elsewhere")) == means


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\nb",
        "\x1b[31m",
        "git+",
        "git+https://",
        "git+https:///r.git",
        "git+https://host",
        "git+https://host/",
        "git+ext::sh -c id",
        "git+ext://sh/-c/id",
        "git+--upload-pack=/bin/sh://x/y",
        "git+ssh://-oProxyCommand=id/r.git",
        "git+ssh://-oProxyCommand=id@host/r.git",
        "git+ssh://host:org/r.git",
        "git+https://ho st/r.git",
        "git+https://host/r r.git",
        "git+https://host/r.git@",
        "git+https://host/r.git@--upload-pack=x",
        "git+https://host/r.git@-x",
        "git+https://host/r.git@+x",
        "git+https://host/r.git@a:b",
        "git+https://host/r.git@a..b",
        "git+https://host/r.git@a b",
        "git+https://host/r.git@HEAD^",
        "git+https://host/r.git@x.lock",
        "git+https://host/r.git@" + "x" * 256,
        "git+https://host/r.git#egg=lung",
        "git+https://host/r.git#subdirectory=../x",
        "git+https://host/r.git#subdirectory=/etc",
        "git+https://host/r.git#subdirectory=a//b",
        "git+https://host/r.git#subdirectory=%2e%2e/x",
        "git+https://host/r.git#subdirectory=",
        "git+file://elsewhere/srv/r.git",
        "file://elsewhere/srv/lung",
        "https://[::1",
        "ftp://host/x.zip",
        "hg+https://host/r",
    ],
)
def test_what_is_no_source_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text, HERE)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("https://host/o/r.git@v1", r"begins with git\+"),
        ("git@host:o/r.git", r"git\+ssh://git@host/o/r\.git"),
        ("https://host/x.tar.gz", "download it"),
    ],
)
def test_what_was_probably_meant_is_said(text: str, advice: str) -> None:
    with pytest.raises(UsageError, match=advice):
        parse(text, HERE)


@pytest.mark.parametrize(
    "text",
    [
        "git+https://me:S3cret@host/r.git",
        "git+https://S3cret@host/r.git",
        "git+ssh://git:S3cret@host/r.git",
        "git+https://host/r.git?private_token=S3cret",
        "git+http://me:S3cret@host/r.git@v1#subdirectory=x",
    ],
)
def test_credentials_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="a credential helper, or ssh") as caught:
        parse(text, HERE)
    assert "S3cret" not in str(caught.value)


@given(st.text() | st.text(alphabet="git+htpsfile:/@#.-=ab%2\\", max_size=40).map(lambda text: f"git+https://{text}"))
def test_any_text_is_refused_or_means_the_same_written_out(text: str) -> None:
    try:
        source = parse(text, HERE)
    except UsageError:
        return
    assert parse(str(source), Path("/elsewhere")) == source
    if isinstance(source, Repository):
        assert not (source.ref or "").startswith("-")
        assert ".." not in (source.subdirectory or "").split("/")
