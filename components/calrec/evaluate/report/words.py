"""Names and sentences of the report: what its figures support, and nothing beyond."""

import re
from collections.abc import Mapping, Sequence

from calrec.evaluate.results import CHAMPION, METHOD, Difference, Evaluation, Figure
from calrec.report.document import shorten

NAMES: Mapping[str, str] = {
    METHOD: "CALRec",
    CHAMPION: "Champion",
    "popularity": "Popularity",
    "recent_popularity": "Recent popularity",
    "repeat_last": "History, newest first",
    "markov": "Markov (last item)",
    "item_knn": "Item neighbours",
    "matrix_factorisation": "Matrix factorisation",
    "bm25_last": "BM25 on the last item",
    "bm25_history": "BM25 on the history",
}
LEVEL = 0.05
_LONGEST = 60  # characters of a name that somebody else gave
FEW = 30  # users below which a slice says next to nothing
PLUS_MINUS = "± is half the width of the 95 % bootstrap interval over users."
MARKS = (
    "Marks beside a method: ▲ CALRec is better than it, ▼ CALRec is worse; * p < 0.05, ** p < 0.01, *** p < 0.001, "
    "two-sided over the same users (exact McNemar test for Recall, paired bootstrap for the rest) after Holm's "
    "correction over all comparisons of the table. Without a mark no difference is shown, which does not say that "
    "there is none. Bold: the best of a column."
)
EXPLANATIONS: Mapping[str, tuple[str, str]] = {
    "distinct_texts_per_sample": (
        "Distinct texts per sample",
        "100 %: every sample of a user is another text. Near 0 the model repeats itself: few texts search for items.",
    ),
    "generations_that_are_an_item_text": (
        "Samples that are an item's text",
        "Word for word the text of an item of the catalogue; the others are matched to the items that read most alike.",
    ),
    "targets_in_the_history": (
        "Targets that are in the history",
        "For so many users the held-out item is one that they had before; repeating the history can find it.",
    ),
    "bm25_margin": (
        "Margin of the best BM25 match",
        "By what part of its score the best item text is ahead of the next one; near 0 words cannot tell them apart.",
    ),
}


TERMS: Mapping[str, str] = {
    "loss": "loss",
    "nig": "next item, nats per token",
    "tt": "target–target",
    "ut": "user–target",
    "ndcg": "NDCG@10 by cosine",
}
UNDRAWN = frozenset({"step", "lr", "grad_norm", "tokens_per_second", "mfu", "memory_gib"})
"""What a stage logs and is no learning curve."""
PAIRWISE = (
    "Over the same users, CALRec less the method: mean difference with its paired bootstrap interval; p of the exact "
    "McNemar test for Recall and of the paired bootstrap for the rest, without and with Holm's correction; effect d: "
    "the mean difference by its standard deviation over users; wins and losses: users for whom CALRec is better, and "
    "worse."
)
BEYOND = (
    "Coverage: share of the catalogue in some user's list. Novelty: mean of −log2 of an item's share of the training "
    "events; higher is less popular. On texts: items with the same text count as one. Ties: what the metric would be "
    "if items of equal score were ordered for the target, or against it; –: the method has no scores."
)
CURVES = (
    "The loss is a weighted sum of the next item's cross-entropy and of two contrastive terms. Validation reads "
    "held-out users; its NDCG ranks their targets by cosine and stands for the metric at a small part of its price. "
    "Points that are too many to be drawn are means of neighbours."
)
EXAMPLES = (
    "Users whose target is in the list and users whose target is not, in turns: chosen to show both, so their number "
    "says nothing about how often CALRec is right."
)
DRIFT: Mapping[str, tuple[str, str]] = {
    "new_items_share": ("New items in the catalogue", "The champion's index lacks them, so it cannot recommend them."),
    "new_items_event_share": ("Events with new items", "So many of all events are with such items."),
    "new_items_target_share": (
        "Held-out items that are new",
        "For so many users the champion cannot find what is next.",
    ),
    "new_words_share": (
        "New words",
        "So many of the words in the events' item texts are in no text of the champion's.",
    ),
    "category_shift": (
        "Category mix",
        "So many of the events lie in other categories than before (total variation distance); 0 %: the same mix.",
    ),
    "length_shift": (
        "History length",
        "The largest difference of the shares of users with at most so many events (Kolmogorov–Smirnov distance).",
    ),
}
COST = (
    "Time without loading of models. Tokens: read in training by all processes, or written in generation. Memory: of "
    "the GPU when one is used, else of the process; of the first process when there are several."
)


def name(method: str) -> str:
    """What a method is called; others' rankings keep their names."""
    return NAMES.get(method, shorten(method, _LONGEST))


def metric_title(metric: str) -> str:
    """recall_at_10 → Recall@10."""
    kind, _, k = metric.partition("_at_")
    title = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR"}.get(kind, kind)
    return f"{title}@{k}" if k else title


def main_metrics(evaluation: Evaluation) -> list[str]:
    """The metrics that the report speaks of, see :func:`main_of`."""
    return main_of(evaluation.metrics)


def main_of(metrics: Sequence[str]) -> list[str]:
    """Recall@10 and NDCG@10, or the deepest of a kind where 10 is not among the cut-offs."""
    found = []
    for kind in ("recall", "ndcg"):
        cuts = [int(m.group(1)) for m in (re.fullmatch(rf"{kind}_at_(\d+)", one) for one in metrics) if m]
        if cuts:
            found.append(f"{kind}_at_{10 if 10 in cuts else max(cuts)}")
    return found or list(metrics[:1])


def rival(evaluation: Evaluation) -> str | None:
    """The best of the other methods over all users, in the first main metric; None without others."""
    metric = main_metrics(evaluation)[0]
    others = [method for method in evaluation.methods if method != METHOD]
    return max(others, key=lambda method: evaluation.methods[method].figures[metric].mean, default=None)


def slicing(rival: str | None, metric: str, few: bool) -> str:
    """What the tables of slices show."""
    beside = f"CALRec beside {name(rival)}, the best other method over all users" if rival else "CALRec"
    grey = f" Grey rows have fewer than {FEW} users: their figures are hardly more than chance." if few else ""
    bars = " Of the two bars the upper is CALRec's." if rival else ""
    return f"{beside}, in {metric_title(metric)}.{bars} No test is made within a slice; look at the intervals.{grey}"


def share(value: float) -> str:
    """0.125 → 12.5 %."""
    return f"{100 * value:.1f} %"


def step(name: str) -> str:
    """stage1 → Stage 1."""
    return re.sub(r"(\d)", r" \1", shorten(name, _LONGEST)).capitalize()


def term(name: str) -> str:
    """What a curve is called."""
    plain = name.removeprefix("valid_")
    return f"{'validation: ' if plain != name else ''}{TERMS.get(plain, shorten(plain, _LONGEST))}"


def verdict(evaluation: Evaluation) -> str:
    """What was found, in one sentence; only differences that Holm's correction leaves are called better or worse."""
    metric = main_metrics(evaluation)[0]
    figure = evaluation.methods[METHOD].figures[metric]
    better, worse, open_ = compare_methods(evaluation, metric)
    parts = [f"better than {join_words(better)}"] if better else []
    parts += [f"worse than {join_words(worse)}"] if worse else []
    parts += [f"no difference shown to {join_words(open_)}"] if open_ else []
    return f"{_finding(metric, figure)}; {'; '.join(parts) or 'it was compared with nothing'}."


def compare_methods(evaluation: Evaluation, metric: str) -> tuple[list[str], list[str], list[str]]:
    """Methods that the model is better than, worse than, and not shown to differ from, with the differences."""
    better: list[str] = []
    worse: list[str] = []
    open_: list[str] = []
    for method, its in evaluation.methods.items():
        difference = its.against.get(metric)
        if difference is None:
            continue
        if difference.p_holm >= LEVEL:
            open_.append(name(method))
        else:
            (better if difference.mean > 0 else worse).append(f"{name(method)} ({_points(metric, difference)})")
    return better, worse, open_


def mark(difference: Difference | None) -> str:
    """▲ where the model is better, ▼ where it is worse, and as many stars as the corrected p-value earns."""
    if difference is None or difference.p_holm >= LEVEL:
        return ""
    stars = 1 + (difference.p_holm < 0.01) + (difference.p_holm < 0.001)
    return ("▲" if difference.mean > 0 else "▼") + "*" * stars


def outcome(difference: Difference) -> str:
    """The mark in words; – when no difference is shown."""
    sign = mark(difference)
    return f"{sign[0]} {'better' if sign[0] == '▲' else 'worse'} {sign[1:]}" if sign else "–"


def protocol(evaluation: Evaluation) -> str:
    """Who was asked, among how many items, and what may be recommended."""
    of = evaluation
    users = many(of.users, "user")
    if of.users < of.eligible:
        users = f"a random sample of {users} out of {of.eligible:,} with a held-out {of.split} item"
    else:
        users = f"{users}, all with a held-out {of.split} item"
    seen = "items already in the history are left out" if of.exclude_seen else "items of the history may come again"
    return (
        f"{users[0].upper()}{users[1:]}. Each user's held-out item is sought among all {many(of.items, 'item')} of the "
        f"category, none sampled, in a list of {of.k}; {seen}, for every method alike. {PLUS_MINUS}"
    )


def half(figure: Figure) -> str:
    """± half of the interval."""
    return f"± {(figure.high - figure.low) / 2:.4f}"


def format_signed(value: float, digits: int = 4) -> str:
    """With a sign, unless it is shown as zero; a minus as wide as the plus."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def p_value(p: float) -> str:
    """Small ones are said to be small."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def many(number: int, thing: str) -> str:
    """1 user, 1,200 users."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _finding(metric: str, figure: Figure) -> str:
    kind, _, k = metric.partition("_at_")
    if kind != "recall":
        return (
            f"CALRec has {metric_title(metric)} {figure.mean:.4f} (95 % interval {figure.low:.4f} to {figure.high:.4f})"
        )
    where = "first" if k == "1" else f"among its first {k}"
    low, high = (f"{100 * value:.1f}" for value in (figure.low, figure.high))
    share = f"{100 * figure.mean:.1f} % of the users (95 % interval {low} to {high} %)"
    return f"CALRec puts the next item {where} for {share}"


def _points(metric: str, difference: Difference) -> str:
    """The difference with its interval: in percentage points for shares of users."""
    share = metric.startswith("recall")
    low, mean, high = (
        format_signed(100 * value, 1) if share else format_signed(value)
        for value in (difference.low, difference.mean, difference.high)
    )
    return f"{mean}{' points' if share else ''}, {low} to {high}"


def join_words(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
