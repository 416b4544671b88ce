"""Names and lengths on both databases: SQLite takes what PostgreSQL refuses."""

from pathlib import Path

import pytest

from calrec.evaluate.report.history import Version, history
from calrec.tracking import limits, mlflow_client, parent_run, promotion, registry, runs
from calrec.tracking.registry import Version as Registered
from tests.tracking.registry.world import Versions, numbers

NAMES = ["men's", 'say "hi" to men\'s #1?', "книги и журналы", "本 100%", "x" * 100, "a@b", "50 % off"]


@pytest.fixture(params=["mlflow_server", "mlflow_on_postgres"])
def both(request: pytest.FixtureRequest, server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = str(request.getfixturevalue(request.param))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.mark.long
def test_every_name_works_from_the_first_version_to_a_rollback(versions: Versions, both: str, tmp_path: Path):
    for at, target in enumerate(NAMES):
        one = Versions(versions.made, target, tmp_path / str(at))
        assert numbers(target) == (None, None)
        assert one.settle().endswith("is the champion, the first one")
        first = registry.champion(target)
        assert first and first.uri == f"models:/calrec-{target}/1"
        if at == 1:  # files are the same whatever the name
            assert registry.download_version(first.uri) is not None
        registered(target, first, 2)
        promotion.set_champion(target, 2, 'it\'s "better"')
        assert registry.resolve_version(f"models:/calrec-{target}@champion").number == 2
        assert [each.number for each in registry.versions(target)] == [2, 1]
        assert 'by hand, in the place of version 1: it\'s "better"' in registry.table(target)
        promotion.rollback(target, "no")
        assert numbers(target) == (1, 2)
    assert set(NAMES) <= set(registry.targets())


def registered(target: str, like: Registered, number: int) -> None:
    """One more version of the same files."""
    model = like.source.removeprefix("models:/")
    runs.client().create_model_version(f"calrec-{target}", like.source, model_id=model, tags=dict(like.tags))
    assert registry.newest(target).number == number


@pytest.mark.long
def test_sixty_versions_are_described_and_the_next_one_is_promoted(versions: Versions, target: str, both: str):
    versions.settle()
    champion = registry.champion(target)
    for number in range(2, 61):
        registered(target, champion, number)
    assert versions.settle(4, rival=champion.uri).endswith("version 61 is the champion, in the place of version 1")
    past = registry.past(target)
    assert [one["number"] for one in past] == list(range(61, 11, -1))
    _, words = history(target, [Version(**one) for one in past])
    assert len(words) > limits.DESCRIPTION
    promotion.describe(target, words)
    said = runs.client().get_registered_model(f"calrec-{target}").description
    assert len(said) <= limits.DESCRIPTION
    assert said.endswith("\n\n… the rest is in history.html, at the run of the promote step")
    assert words.startswith(said.partition("\n\n… the rest")[0])


def test_thirty_targets_fit_into_the_first_step(both: str, target: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KFP_RUN_ID", f"run of '{target}'")
    targets = [f"a category with a long name, number {at}" for at in range(30)]
    sources = [{"domain": name, "uri": f"gs://shop/{name}", "snapshot": "7" * 40} for name in targets]
    with runs.step("watch") as run:
        run.log_request(targets, sources, {}, "\n".join(f"- {one}" for one in sources))
        own = runs.active()
        for name in targets:
            run.headline(name, {"recall": 0.5}, f"| target | said |\n| --- | --- |\n| {name} | {'x' * 400} |")
    client = runs.client()
    parent = client.get_run(client.get_run(own).data.tags["mlflow.parentRunId"])
    assert len(parent.info.run_name) <= limits.NAME and parent.info.run_name.endswith("…")
    assert parent.data.params["run.targets"] == ",".join(targets)
    assert len(parent.data.metrics) == 30
    note = parent.data.tags[parent_run.NOTE]
    assert len(note) <= limits.TAG and "… the rest is in " in note and all(note.splitlines()[:10])
    assert parent.info.status == "FINISHED"


def test_what_is_too_long_is_cut_at_lines_or_characters():
    assert limits.cut("a" * 10, 10) == "a" * 10
    assert limits.cut("a" * 11, 10) == "a" * 9 + "…"
    assert limits.cut("one\ntwo\nthree", 12) == "one\ntwo\n\n…"
    assert limits.cut("line\n" * 20, 50, "a file") == "line\n" * 4 + "line\n\n… the rest is in a file"
    for most in range(30, 120):
        assert len(limits.cut("word " * 50, most, "a file")) <= most >= len(limits.cut("line\n" * 50, most, "a file"))
    assert limits.cut("a\0b\ud800", 10) == "a�b?"


def test_the_lengths_are_those_of_mlflows_tables():
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModel
    from mlflow.store.tracking.dbmodels.models import SqlParam, SqlRun, SqlTag
    from mlflow.utils import validation

    def length(column) -> int:
        return column.property.columns[0].type.length

    assert limits.NAME == length(SqlRun.name) == length(SqlTag.key)
    assert limits.DESCRIPTION == length(SqlRegisteredModel.description) == length(SqlModelVersion.description)
    assert limits.TAG == length(SqlTag.value) == validation.MAX_TAG_VAL_LENGTH
    assert limits.PARAMETER == validation.MAX_PARAM_VAL_LENGTH <= length(SqlParam.value)


def test_an_error_that_may_pass_is_told_from_an_answer():
    from mlflow.exceptions import MlflowException, RestException

    assert mlflow_client.may_pass(MlflowException("no connection"))
    assert mlflow_client.may_pass(RestException({"error_code": "TEMPORARILY_UNAVAILABLE"}))
    assert not mlflow_client.may_pass(RestException({"error_code": "PERMISSION_DENIED"}))
    assert not mlflow_client.may_pass(FileNotFoundError()) and mlflow_client.may_pass(ConnectionResetError())
