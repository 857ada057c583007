"""What git says where it fails: told in one line, with what to do."""

import pytest

from dcm_processor.sources.git_words import reason


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("error: cannot run ssh: No such file or directory\nfatal: unable to fork", "clone the repository yourself"),
        ("fatal: could not read Username for 'https://h': terminal prompts disabled", "asks for a user and password"),
        ("remote: HTTP Basic: Access denied\nfatal: Authentication failed for 'https://h/'", "credential helper"),
        ("git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.", "ssh is not let in"),
        ("No ED25519 host key is known\nHost key verification failed.\nfatal: Could not read", "known_hosts"),
        ("fatal: unable to access 'https://h/': Could not resolve host: h", "HTTPS_PROXY"),
        ("fatal: unable to access 'https://h/': SSL certificate problem: self-signed certificate", "EXTRA_CA_FILE"),
        ("fatal: unable to access: server certificate verification failed. CAfile: none", "EXTRA_CA_FILE"),
        ("fatal: couldn't find remote ref v9", "no such branch, tag or commit"),
        ("fatal: repository 'https://h/x.git/' not found", "no repository"),
        ("fatal: detected dubious ownership in repository at '/srv/r'", "safe.directory"),
        ("error: something new", "git failed: error: something new"),
        ("", "git failed: no word"),
    ],
)
def test_each_failure_says_what_to_do(said: str, means: str) -> None:
    found = reason(said)
    assert found is not None
    assert means in found
    assert "\n" not in found


def test_what_a_host_says_reaches_no_terminal_as_it_is_and_is_short() -> None:
    found = reason("fatal: \x1b[31mred\x07" + "x" * 10_000)
    assert found is not None
    assert found.isprintable()
    assert len(found) < 400


@pytest.mark.parametrize(
    "said", ["fatal: write error: File too large", "fatal: cannot create: No space left on device"]
)
def test_too_much_is_none(said: str) -> None:
    assert reason(said) is None
