"""The model that MLflow logs and serves: code that opens a version's folder and answers; a script, run by MLflow."""

import gc
import json
import logging
import os
import time
from pathlib import Path
from threading import Thread
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from calrec.recommend.champion import open_version
from calrec.recommend.recommender import Recommender
from calrec.serve.answers import Answer, Answers, QueryError
from calrec.serve.query import Query, Sent

_QUERIES = 256  # of a request
_SERVED = "__pyfunc_model_path__"  # set where MLflow's server loads a model
_COLLECTED_EVERY = 0.5  # seconds
_log = logging.getLogger("calrec.serve")


class Refused(MlflowException):
    """An error whose answer is its reason alone; MLflow's server would put all that was sent before it."""

    def serialize_as_json(self) -> str:
        """The body of the answer."""
        return json.dumps({"error_code": self.error_code, "message": str(self)})


class Model(PythonModel):
    """Recommends with a version of the registry."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the version, and answer once, since the first answer is slow."""
        champion = open_version(Path(context.artifacts["version"]))
        recommender = Recommender(champion.model, champion.index, champion.generate, champion.retrieve)
        self._answers = Answers(recommender)
        self._answers([Query(titles=["warm up"])])
        if _SERVED in os.environ:
            gc.freeze()  # what is loaded stays, so that to collect takes milliseconds
            Thread(target=_collect, name="collect", daemon=True).start()

    def predict(  # type: ignore[override]  # MLflow takes both forms
        self, model_input: list[Sent], params: dict[str, Any] | None = None
    ) -> list[Answer]:
        """The answer to each query.

        Raises:
            Refused: what is wrong with the request, or that the model failed; why it did is logged.
        """
        if len(model_input) > _QUERIES:
            sent = f"the request has {len(model_input):,} queries; send at most {_QUERIES} at once"
            raise Refused(sent, INVALID_PARAMETER_VALUE)
        for place, one in enumerate(model_input):
            if one.refused:
                raise Refused(f"inputs[{place}]: {one.refused}", INVALID_PARAMETER_VALUE)
        try:
            found = self._answers(model_input)
            return [one.model_dump() for one in found]  # type: ignore[misc]  # the server writes plain values
        except QueryError as error:
            raise Refused(str(error), INVALID_PARAMETER_VALUE) from None
        except Exception:
            _log.exception("a request was not answered")
            raise Refused("the model failed; the server's log says why", INTERNAL_ERROR) from None


def _collect() -> None:
    """Free what failed requests leave behind.

    MLflow's server keeps the body of a request that it fails on in a reference cycle, 10 MB of it perhaps, and Python
    looks for old cycles the more seldom the more objects live.
    """
    while True:
        time.sleep(_COLLECTED_EVERY)
        gc.collect()


set_model(Model())
