"""`CALRec`: logs in, a model and its recommendations out, as data frames; for notebooks and scripts."""

import dataclasses
import hashlib
import json
import os
import tempfile
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from calrec.config import Config, Source
from calrec.config.checks import check
from calrec.config.overrides import override
from calrec.config.runs import apply_ablations, get_run

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from calrec.api.run import Target, Training
    from calrec.recommend.champion import Champion
    from calrec.recommend.recommender import Recommender

Log = Union["pd.DataFrame", "pa.Table", str, os.PathLike[str]]
Histories = Union["pd.DataFrame", Mapping[Any, Sequence[Any]]]


class CALRec:
    """A recommender of one category, trained on the logs of one or several.

    Every step's output lies below `root`, in a folder named after its code, settings and inputs: the same call again
    makes nothing anew, and a training that was stopped goes on.

    Args:
        run: named run whose settings apply, see calrec.config.runs.
        settings: `section.key=value` over those, such as `stage2.steps=200`.
        ablations: named changes of the run.
        root: folder of the outputs.
    """

    def __init__(
        self,
        run: str = "sample",
        settings: Sequence[str] = (),
        ablations: Sequence[str] = (),
        root: str | os.PathLike[str] = "build",
    ):
        self.config: Config = override(apply_ablations(get_run(run), ablations), settings)
        self.root = Path(root).absolute()
        self._training: Training | None = None
        self._made: Target | None = None
        self._used: Champion | None = None
        self._recommender: Recommender | None = None

    def fit(self, logs: Mapping[str, Log], target: str | None = None) -> "CALRec":
        """Train on the logs, and for the target last; returns itself.

        Args:
            logs: category → its log: a pandas DataFrame, an Arrow table, or a path or URI (folder, file, glob, gs://,
                s3://, https://, sample:DEPARTMENT). The columns of user, item, time and title are found by name and
                content.
            target: the category to recommend in; needed when there are several.

        Raises:
            ValueError: no such target, or a log that is none; with the remedy.
            FileNotFoundError: nothing lies behind a path.
        """
        from calrec.api.run import Training
        from calrec.launch.folders import Folders
        from calrec.recommend.champion import Champion
        from calrec.watch import current

        check(bool(logs), "fit needs at least one log: {name: DataFrame or path}")
        names = list(map(str, logs))
        check(target is not None or len(names) == 1, f"fit has {len(names)} logs; say which is the target={names[0]!r}")
        target = names[0] if target is None else target
        sources = [{"domain": name, "uri": self._uri(log), "snapshot": ""} for name, log in logs.items()]
        config = dataclasses.replace(self.config, sources=tuple(Source(**one) for one in sources), targets=(target,))
        config.whole()
        self.config = dataclasses.replace(config, sources=tuple(current.snapshots(sources)))
        self._training = Training(self.config, Folders(self.root / "artifacts"))
        models = self._training.models(target)
        index = self._training.index(target, models)
        self._made, self._recommender = None, None
        self._used = Champion(models[-1], index, self.config.generate, self.config.retrieve)
        return self

    def recommend(self, histories: Histories, k: int | None = None) -> "pd.DataFrame":
        """The best next items of each user.

        Args:
            histories: user → item ids or titles, oldest first; or a DataFrame of user_id and item_id in that order. A
                user without a history gets what is bought most.
            k: items for each user; None: as the settings say.

        Returns:
            user_id, rank (from 1), item_id, title, score, source, reason, logprob and match, as the recommend step
            writes them.
        """
        from calrec.recommend.recommender import Filters
        from calrec.recommend.rows import History
        from calrec.retrieve.step import table

        check(k is None or k >= 1, f"k must be >= 1, got {k}")
        recommender = self._opened()
        users = [History(str(user), titles=tuple(map(str, items))) for user, items in _by_user(histories).items()]
        asked, _ = recommender.queries(users)
        lists = list(recommender.ranker(Filters(), k)(asked))
        return table([one.user_id for one in users], lists, recommender.catalogue).to_pandas()

    def evaluate(self) -> "pd.DataFrame":
        """The metrics of the model and of the baselines on the held-out items: a row per method, a column per metric.

        Raises:
            ValueError: the model was loaded and not trained here.
        """
        import pandas as pd

        from calrec.evaluate.report.words import NAMES
        from calrec.evaluate.results import means

        found = means(json.loads((self._evaluated() / "metrics.json").read_text()))
        return pd.DataFrame({NAMES.get(method, method): of for method, of in found.items()}).T.rename_axis("method")

    @property
    def report(self) -> "Page":
        """The report of the evaluation; a notebook shows it, `report.open()` opens it in the browser."""
        return Page(self._evaluated() / "report.html")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model with its index, settings and card into one folder, which `CALRec.load` opens anywhere."""
        from calrec.promote.step import promote
        from calrec.promote.version import pack

        training, of, used = self._trained(), self._evaluated(), self._use()
        with tempfile.TemporaryDirectory(prefix="calrec-") as scratch:
            decision = Path(scratch) / "decision"
            promote(of, decision, training.config.gate)
            pack(Path(folder), used.model, used.index, of, decision, used.generate, used.retrieve)
        return Path(folder)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> "CALRec":
        """A model to recommend with: a folder of :meth:`save`, or `models:/calrec-TARGET@champion` of a registry.

        Raises:
            FileNotFoundError, ValueError: it is not there, or not whole; no registry (MLFLOW_TRACKING_URI) is set.
        """
        from calrec.recommend.champion import open_version

        folder = Path(source)
        if str(source).startswith("models:"):
            from calrec.tracking import registry

            found = registry.download_version(registry.resolve_version(str(source)).uri)
            assert found is not None, "a version has a folder"
            folder = found
        model = cls()
        model._used = open_version(folder)
        return model

    # --- inside -----------------------------------------------------------------------------------------------------

    def _uri(self, log: Log) -> str:
        """Where a log lies; one in memory is written below the root, under a name that is its content's."""
        if isinstance(log, str | os.PathLike):
            return os.fspath(log)
        import pyarrow as pa
        import pyarrow.parquet as pq

        frame = log if isinstance(log, pa.Table) else pa.Table.from_pandas(log, preserve_index=False)
        check(frame.num_rows > 0, f"a log has no rows; its columns are {', '.join(frame.column_names)}")
        sink = pa.BufferOutputStream()
        pq.write_table(frame.replace_schema_metadata(None), sink)
        content = sink.getvalue()
        path = self.root / "frames" / f"{hashlib.sha256(content).hexdigest()[:16]}.parquet"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
                part.write(content)
            Path(part.name).replace(path)
        return str(path)

    def _use(self) -> "Champion":
        check(self._used is not None, "there is no model yet: call fit, or CALRec.load")
        assert self._used is not None
        return self._used

    def _trained(self) -> "Training":
        check(self._training is not None, "this model was not trained here, so it has no held-out users: call fit")
        assert self._training is not None
        return self._training

    def _evaluated(self) -> Path:
        training = self._trained()
        target = training.config.targets[0]
        if self._made is None:
            self._made = training.rank(target)
        return training.evaluation(target, self._made)

    def _opened(self) -> "Recommender":
        from calrec.recommend.recommender import Recommender

        if self._recommender is None:
            used = self._use()
            self._recommender = Recommender(used.model, used.index, used.generate, used.retrieve)
        return self._recommender


@dataclasses.dataclass(frozen=True)
class Page:
    """A page on disk."""

    path: Path

    def open(self) -> None:
        """Show it in the browser."""
        webbrowser.open(self.path.as_uri())

    def _repr_html_(self) -> str:
        return self.path.read_text()

    def __str__(self) -> str:
        return str(self.path)


def _by_user(histories: Histories) -> Mapping[Any, Sequence[Any]]:
    """User → items, from a mapping or from rows."""
    if isinstance(histories, Mapping):
        for user, items in histories.items():
            check(not isinstance(items, str), f"the history of {user!r} is the text {items!r}; give a list of items")
        return histories
    missing = {"user_id", "item_id"} - set(map(str, histories.columns))
    check(not missing, f"histories lack the columns {', '.join(sorted(missing))}; they have {list(histories.columns)}")
    return {user: rows.tolist() for user, rows in histories.groupby("user_id", sort=False)["item_id"]}
