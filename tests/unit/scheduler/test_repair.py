"""When an attempt counts as lost (DESIGN 1): 60 s without announcement during which Redis could be read throughout."""

from scheduler.repair import Announcements


def looks(
    announcements: Announcements, *, start: float, seconds: float, value: str = "a", step: float = 5
) -> list[str]:
    """Look every `step` seconds at one attempt that always says the same; what is lost by the end."""
    lost: list[str] = []
    now = start
    while now <= start + seconds:
        lost = announcements.look(["job-1"], {"job-1": value}, now)
        now += step
    return lost


def test_an_attempt_that_is_silent_for_a_minute_is_lost() -> None:
    assert looks(Announcements(60), start=0, seconds=55) == []
    assert looks(Announcements(60), start=0, seconds=60) == ["job-1"]


def test_an_attempt_that_keeps_announcing_is_never_lost() -> None:
    announcements = Announcements(60)
    for number in range(100):
        assert announcements.look(["job-1"], {"job-1": str(number)}, number * 10) == []


def test_one_that_never_announced_is_lost_too() -> None:
    announcements = Announcements(60)
    for now in range(0, 60, 5):
        assert announcements.look(["job-1"], {}, now) == []
    assert announcements.look(["job-1"], {}, 60) == ["job-1"]


def test_redis_away_restarts_the_clock() -> None:
    announcements = Announcements(60)
    assert looks(announcements, start=0, seconds=55) == []
    announcements.blind()
    assert looks(announcements, start=60, seconds=55) == []
    assert looks(announcements, start=120, seconds=0) == ["job-1"]


def test_a_controller_that_slept_restarts_the_clock() -> None:
    announcements = Announcements(60)
    assert looks(announcements, start=0, seconds=55) == []
    assert announcements.look(["job-1"], {"job-1": "a"}, 400) == []


def test_an_attempt_that_ended_is_forgotten() -> None:
    announcements = Announcements(60)
    looks(announcements, start=0, seconds=55)
    announcements.look([], {}, 58)
    assert announcements.look(["job-1"], {"job-1": "a"}, 62) == []
