"""Answers to many clients, and what a failure of the model is to each of them."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from calrec.recommend.champion import open_version
from calrec.recommend.recommender import Recommender
from calrec.recommend.rows import History
from calrec.serve.answers import Answers
from calrec.serve.model import Model, Refused
from calrec.serve.query import Query, Sent
from tests.versions import judged


class Poisoned(Recommender):
    """Fails as a model does whose logits for one user are not finite."""

    sizes: list[int]

    def queries(self, users: Sequence[History]) -> Any:
        self.sizes.append(len(users))
        if any(one.user_id == "poison" for one in users):
            raise FloatingPointError("/a/path: user poison")
        return super().queries(users)


@pytest.fixture(scope="module")
def answers(small: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    root = tmp_path_factory.mktemp("answers")
    champion = open_version(judged(root, small).version(root / "version"))
    recommender = Poisoned(champion.model, champion.index, champion.generate, champion.retrieve)
    recommender.sizes = []
    return Answers(recommender)


def test_what_waits_is_answered_together_and_a_failure_is_one_clients_own(answers: Answers):
    queries = [Query(user_id="poison" if n == 5 else f"u{n}", items=["i0"]) for n in range(20)]
    expected = [answers([query])[0] for query in queries if query.user_id != "poison"]

    def ask(query: Query) -> Any:
        try:
            return answers([query])[0]
        except FloatingPointError as error:
            return str(error)

    sizes = answers._recommender.sizes  # type: ignore[attr-defined]
    sizes.clear()
    with ThreadPoolExecutor(20) as clients:
        found = list(clients.map(ask, queries))
    assert found.pop(5) == "/a/path: user poison"
    assert [one.user_id for one in found] == [one.user_id for one in expected]
    assert [[p.item_id for p in one.items] for one in found] == [[p.item_id for p in one.items] for one in expected]
    assert max(sizes) > 1
    assert answers([]) == []


def test_a_request_of_many_is_answered_in_bounded_batches(answers: Answers):
    sizes = answers._recommender.sizes  # type: ignore[attr-defined]
    sizes.clear()
    assert len(answers([Query()] * 150)) == 150 and sizes == [64, 64, 22]


def test_a_failure_of_the_model_is_logged_and_not_told(answers: Answers, caplog: pytest.LogCaptureFixture):
    model = Model()
    model._answers = answers
    with pytest.raises(Refused) as caught:
        model.predict([Sent(user_id="poison")])
    caught.value.message = f"Failed to predict data '…'. {caught.value.message}"  # as MLflow's server does
    assert caught.value.get_http_status_code() == 500
    assert json.loads(caught.value.serialize_as_json()) == {
        "error_code": "INTERNAL_ERROR",
        "message": "the model failed; the server's log says why",
    }
    assert "FloatingPointError: /a/path: user poison" in caplog.text


def test_a_query_is_checked_where_no_server_does_it():
    assert Sent(items=["i0"], k=3).refused == "" and Sent(**{"k": 0}).refused.startswith("k: Input should be greater")
    assert Query(user_id="u", attributes=[{"title": "lamp", "brand": None}]).history().attributes[0].brand == ""  # type: ignore[list-item]
