"""The floor by the clock, over weekends and changes of the clock, and zero to one and back."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from warmswap_loadtests.scaling.cron import CronTrigger, CronWindow
from warmswap_loadtests.scaling.errors import PolicyError
from warmswap_loadtests.scaling.keda import Activation, KedaOptions

BERLIN = "Europe/Berlin"


def is_active(start: str, end: str, moment: datetime, timezone: str = BERLIN) -> bool:
    window = CronWindow(CronTrigger(timezone, start, end, 3), datetime(2026, 1, 1, tzinfo=UTC), moment)
    return window.active(moment)


def berlin(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=ZoneInfo(BERLIN))  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("moment", "active"),
    [
        (berlin(2026, 1, 7, 7, 59, 59), False),
        (berlin(2026, 1, 7, 8, 0, 0), True),
        (berlin(2026, 1, 7, 17, 59, 59), True),
        (berlin(2026, 1, 7, 18, 0, 0), False),
        (berlin(2026, 1, 9, 12, 0), True),  # Friday
        (berlin(2026, 1, 10, 12, 0), False),  # Saturday
        (berlin(2026, 1, 11, 12, 0), False),  # Sunday
        (berlin(2026, 1, 12, 8, 0), True),  # Monday
        (berlin(2026, 3, 27, 8, 0), True),  # Friday before the clocks go forward
        (berlin(2026, 3, 30, 7, 59), False),
        (berlin(2026, 3, 30, 8, 0), True),  # Monday after
        (berlin(2026, 10, 26, 8, 0), True),  # Monday after they went back
        (berlin(2026, 10, 26, 17, 59), True),
        (berlin(2026, 10, 26, 18, 0), False),
    ],
)
def test_weekdays_by_local_time(moment: datetime, active: bool) -> None:
    assert is_active("0 8 * * 1-5", "0 18 * * 1-5", moment) is active


def test_the_same_local_hour_is_another_hour_of_utc_after_the_clocks_change() -> None:
    for moment in (datetime(2026, 3, 28, 7, 0, tzinfo=UTC), datetime(2026, 3, 29, 6, 0, tzinfo=UTC)):
        assert is_active("0 8 * * *", "0 18 * * *", moment)
    assert not is_active("0 8 * * *", "0 18 * * *", datetime(2026, 3, 28, 6, 59, tzinfo=UTC))


def test_a_night_window_spans_midnight() -> None:
    assert is_active("0 22 * * *", "0 6 * * *", berlin(2026, 1, 7, 23, 30))
    assert is_active("0 22 * * *", "0 6 * * *", berlin(2026, 1, 7, 3, 0))
    assert not is_active("0 22 * * *", "0 6 * * *", berlin(2026, 1, 7, 12, 0))


def test_what_falls_into_the_hour_that_is_left_out_happens_at_its_end() -> None:
    assert is_active("30 2 * * *", "0 5 * * *", berlin(2026, 3, 29, 3, 0))
    assert not is_active("30 2 * * *", "0 5 * * *", datetime(2026, 3, 29, 0, 59, tzinfo=UTC))


def test_a_date_that_never_comes_is_never_active() -> None:
    assert not is_active("0 0 30 2 *", "0 0 31 2 *", berlin(2026, 3, 2, 12, 0))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (("Europe/Berlim", "0 8 * * *", "0 9 * * *", 1), "'Europe/Berlim' is no time zone"),
        ((BERLIN, "0 25 * * *", "0 9 * * *", 1), "start = '0 25"),
        ((BERLIN, "0 8 * * *", "0 9 * *", 1), "end = '0 9 * *' is no cron expression of five fields"),
        ((BERLIN, "0 8 * * * *", "0 9 * * *", 1), "five fields"),
        ((BERLIN, "0 8 * * *", "0 8 * * *", 1), "must differ"),
        ((BERLIN, "0 8 * * *", "0 9 * * *", 0), "1 or more, got 0"),
    ],
)
def test_wrong_triggers(fields: tuple[str, str, str, int], named: str) -> None:
    with pytest.raises(PolicyError, match=r".") as caught:
        CronTrigger(*fields)
    assert named in str(caught.value)


def test_activation_wakes_one_replica_and_cools_down() -> None:
    activation = Activation(KedaOptions(30.0, 300.0), min_replicas=0)
    assert activation.poll(0.0, 0, active=False) == 0
    assert activation.poll(30.0, 0, active=True) == 1
    assert activation.poll(60.0, 4, active=False) == 4
    assert activation.poll(330.0, 4, active=False) == 4  # 300 s after the last activity is not yet more than that
    assert activation.poll(360.0, 4, active=False) == 0


def test_activity_begins_the_cooldown_anew() -> None:
    activation = Activation(KedaOptions(30.0, 300.0), min_replicas=0)
    activation.poll(0.0, 0, active=True)
    activation.poll(300.0, 1, active=True)
    assert activation.poll(390.0, 1, active=False) == 1


def test_replicas_nobody_was_seen_to_need_go_at_once() -> None:
    assert Activation(KedaOptions(), min_replicas=0).poll(0.0, 3, active=False) == 0


def test_with_a_least_number_nothing_goes_to_zero() -> None:
    activation = Activation(KedaOptions(), min_replicas=2)
    assert activation.poll(0.0, 3, active=False) == 3
    assert activation.poll(1000.0, 1, active=False) == 2
    assert activation.poll(1000.0, 0, active=True) == 2
