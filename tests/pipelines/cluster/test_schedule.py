"""Cron expressions, and `macrec schedule` against a server that speaks KFP's REST API."""

from datetime import UTC, datetime

import pytest

from macrec.core.errors import UserError
from pipelines.cluster import cron
from tests.kfp_server import Refused

WHEN = "0 0 3 * * MON"
DATA = [
    *("--items", "gs://shop/items", "--interactions", "gs://shop/log"),
    *("--encoder-text", "gs://shop/model", "--store", "gs://shop/store"),
]
API = "/apis/v2beta1"
NOW = datetime(2026, 1, 5, 12, 30, tzinfo=UTC)  # a Monday


@pytest.mark.parametrize(
    ("text", "words", "following"),
    [
        ("0 0 3 * * *", ["03:00", "every day"], ["01-06 03:00:00", "01-07 03:00:00"]),
        ("0 0 3 ? * MON", ["03:00", "Monday"], ["01-12 03:00:00", "01-19 03:00:00"]),
        ("0 0 3 * * sun,1", ["Sunday and Monday"], ["01-11 03:00:00", "01-12 03:00:00"]),
        ("0 30 2 1 * ?", ["02:30", "first day"], ["02-01 02:30:00"]),
        ("5 0 */12 * * *", ["second 5"], ["01-06 00:00:05", "01-06 12:00:05"]),
        ("0 0 9-17 * * 1-5", ["Monday through Friday"], ["01-05 13:00:00", "01-05 14:00:00"]),
        ("0 */10 * * * *", ["10th minute"], ["01-05 12:40:00", "01-05 12:50:00"]),
        (
            "0 50/5 13 * JAN,mar *",
            ["January and March"],
            ["01-05 13:50:00", "01-05 13:55:00", "01-06 13:50:00"],
        ),
        # Weekdays end with Saturday: a step does not reach Sunday as day 7.
        ("0 0 0 * * 3/2", ["Wednesday"], ["01-07 00:00:00", "01-09 00:00:00", "01-14 00:00:00"]),
        ("0 0 0 * * SAT/1", ["Saturday"], ["01-10 00:00:00", "01-17 00:00:00"]),
        ("0 0 0 5-5/7 * *", ["fifth day"], ["02-05 00:00:00", "03-05 00:00:00"]),
        # Both days restricted: one of them is enough. A star in one of them: both must match.
        ("0 0 0 7 * FRI", ["seventh", "and on Friday"], ["01-07 00:00:00", "01-09 00:00:00"]),
        ("0 0 0 */10 * FRI", ["10th day", "Friday"], ["05-01 00:00:00"]),
        ("0 0 0 1,* * FRI", ["Friday"], ["01-09 00:00:00", "01-16 00:00:00"]),
    ],
)
def test_a_cron_expression_in_words_and_its_next_times(text, words, following):
    parsed = cron.parse(text)
    assert all(part in cron.in_words(parsed) for part in words)
    times = parsed.next_times(NOW, len(following))
    assert [f"{t:%m-%d %H:%M:%S}" for t in times] == following
    assert all(t.tzinfo is UTC for t in times)


def test_next_times_include_a_leap_day():
    (leap_day,) = cron.parse("0 0 3 29 2 *").next_times(NOW, 1)
    assert leap_day == datetime(2028, 2, 29, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0 3 * * *", ["5 fields", "expected 6", 'seconds first: "0 0 3 * * *"']),
        ("0 0 3 * *  * *", ["7 fields", "expected 6"]),
        ("@daily", ["1 fields", "expected 6"]),
        ("60 x 3 * * *", ["second '60'", "0 to 59", "minute 'x'"]),
        ("0 0 24 * * *", ["hour '24'", "0 to 23"]),
        ("0 0 3 0 * *", ["day '0'", "1 to 31"]),
        ("0 0 3 * 13 *", ["month '13'", "1 to 12, or JAN"]),
        ("0 0 3 * * 7", ["weekday '7'", "0 (Sunday)"]),
        ("0 0 3 * * 5-7", ["weekday '5-7'", "0 (Sunday)"]),
        ("0 0 3 * * MOON", ["weekday 'MOON'", "SUN to SAT"]),
        # cronsim accepts these, the backend does not.
        ("0 0 3 L * *", ["day 'L'"]),
        ("0 0 3 * * MON#2", ["weekday 'MON#2'"]),
        ("0 0 3 * * 5L", ["weekday '5L'"]),
        ("0 0 9-3 * * *", ["hour '9-3'", "a range 1-5"]),
        ("0 */0 * * * *", ["minute '*/0'", "a step */10"]),
        ("0 */-5 * * * *", ["minute '*/-5'"]),
        ("0 0 3 *-5 * *", ["day '*-5'"]),
        ("0 0 3, * * *", ["hour '3,'"]),
        ("0 0 3 30 2 *", ["no year has such a day"]),
    ],
)
def test_an_invalid_cron_expression_is_refused(text, parts):
    with pytest.raises(UserError, match="cron") as refused:
        cron.parse(text)
    assert all(part in str(refused.value) for part in parts), refused.value


def test_explaining_needs_no_backend(here, kfp):
    called = here("schedule", WHEN, "--explain")
    assert called.code == 0
    assert "At 03:00 on Monday (UTC)" in called.out and "next: Mon " in called.out
    assert not kfp.requests


def test_a_schedule_is_made_once(here, kfp):
    first = here("schedule", WHEN, *DATA, "--service-account", "trainer")
    assert first.code == 0, first.err
    ((schedule_id, made),) = kfp.schedules.items()
    assert made.display_name == "macrec retraining" and made.status == "ENABLED"
    assert made.trigger.cron_schedule.cron == WHEN
    assert (made.max_concurrency, made.no_catchup) == ("1", True)
    assert made.service_account == "trainer"
    assert made.pipeline_version_reference.pipeline_version_id in kfp.versions
    assert made.runtime_config.parameters["catalog_items"] == "gs://shop/items"
    assert f"made ({schedule_id})" in first.out
    kfp.clear()
    again = here("schedule", WHEN.replace(" ", "  "), *DATA, "--service-account", "trainer")
    assert again.code == 0 and "unchanged" in again.out
    assert list(kfp.schedules) == [schedule_id]
    assert not kfp.asked("POST") and not kfp.asked("DELETE")


@pytest.mark.parametrize(
    ("cron_text", "flags", "said"),
    [
        ("0 0 4 * * MON", [], "cron_expression"),
        (WHEN, ["--set", "quantize.levels=3"], "quantize.levels"),
        (WHEN, ["--service-account", "other"], "service_account"),
        (WHEN, ["--experiment", "nightly"], "experiment_id"),
    ],
)
def test_what_changed_replaces_the_schedule(here, kfp, cron_text, flags, said):
    here("schedule", WHEN, *DATA)
    (old,) = kfp.schedules
    kfp.clear()
    called = here("schedule", cron_text, *DATA, *flags)
    assert called.code == 0, called.err
    assert f"changed: {said}" in called.err and "replaced" in called.out
    (new,) = kfp.schedules
    assert new != old and kfp.schedules[new].status == "ENABLED"
    changes = [r for r in kfp.requests if not r.startswith("GET") and "experiments" not in r]
    assert changes == [
        f"POST {API}/recurringruns/{old}:disable",
        f"POST {API}/recurringruns",
        f"DELETE {API}/recurringruns/{old}",
    ]


def test_new_code_replaces_the_schedule(here, kfp, tmp_path):
    from pipelines.local.pipeline_runner import PIPELINE_YAML

    here("schedule", WHEN, *DATA)
    package = tmp_path / "new.yaml"
    package.write_text(PIPELINE_YAML.read_text() + "\n# another image\n")
    called = here("schedule", WHEN, *DATA, "--package", package)
    assert "changed: version_id" in called.err and len(kfp.schedules) == 1


def test_schedules_of_other_names_are_left_alone(here, kfp):
    here("schedule", WHEN, *DATA)
    here("schedule", WHEN, *DATA, "--name", "other")
    assert len(kfp.schedules) == 2


def running(kfp, schedule_id):
    """A run that the schedule has started."""
    import kfp_server_api

    run = kfp_server_api.V2beta1Run(
        run_id="at-work",
        display_name="scheduled",
        experiment_id=kfp.schedules[schedule_id].experiment_id,
        recurring_run_id=schedule_id,
        state="RUNNING",
    )
    ended = kfp_server_api.V2beta1Run(**{**run.to_dict(), "run_id": "x", "state": "SUCCEEDED"})
    # The one at work is not among the first that the backend lists.
    kfp.runs.update({f"ended-{n}": ended for n in range(120)})
    kfp.runs["at-work"] = run
    return run


def test_a_running_run_is_never_killed(here, kfp):
    here("schedule", WHEN, *DATA)
    (old,) = kfp.schedules
    run = running(kfp, old)
    called = here("schedule", "0 0 4 * * *", *DATA)
    assert called.code == 0
    assert "at-work" in called.out and "disabled, not deleted" in called.out
    assert run.state == "RUNNING"
    assert [s.status for s in kfp.schedules.values()] == ["DISABLED", "ENABLED"]
    run.state = "SUCCEEDED"
    later = here("schedule", "0 0 4 * * *", *DATA)
    assert "unchanged" in later.out
    assert old not in kfp.schedules and len(kfp.schedules) == 1


def test_the_old_schedule_goes_on_when_the_new_one_is_refused(here, kfp):
    here("schedule", WHEN, *DATA)

    def refuses():
        raise Refused(500, "database is down")

    kfp.faults[f"POST {API}/recurringruns"] = refuses
    called = here("schedule", "0 0 4 * * *", *DATA)
    assert called.code == 75 and "database is down" in called.err
    (standing,) = kfp.schedules.values()
    assert standing.status == "ENABLED" and standing.trigger.cron_schedule.cron == WHEN


def test_a_schedule_that_was_disabled_by_hand_is_made_anew(here, kfp):
    here("schedule", WHEN, *DATA)
    (old,) = kfp.schedules
    kfp.schedules[old].status = "DISABLED"
    called = here("schedule", WHEN, *DATA)
    assert "it was disabled" in called.err
    (new,) = kfp.schedules
    assert new != old and kfp.schedules[new].status == "ENABLED"


def test_of_two_schedules_of_one_name_one_stays(here, kfp):
    here("schedule", WHEN, *DATA)
    here("schedule", "0 0 4 * * *", *DATA, "--name", "other")
    first, second = kfp.schedules.values()
    second.display_name = first.display_name
    run = running(kfp, second.recurring_run_id)
    called = here("schedule", WHEN, *DATA)
    assert "unchanged" in called.out and "disabled, not deleted" in called.out
    assert (first.status, second.status, run.state) == ("ENABLED", "DISABLED", "RUNNING")


def test_schedules_of_a_namespace(here, kfp):
    kfp.multi_user = True
    for namespace in ("a", "b", "a"):
        assert here("schedule", WHEN, *DATA, "--namespace", namespace).code == 0
    assert [s.namespace for s in kfp.schedules.values()] == ["a", "b"]


@pytest.mark.parametrize("wrong", [["0 3 * * *", *DATA], [WHEN, *DATA, "--items", "items.parquet"]])
def test_what_is_wrong_is_said_before_anything_is_sent(here, kfp, wrong):
    assert here("schedule", *wrong).code == 2
    assert not kfp.requests
