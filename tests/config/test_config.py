"""Configuration: what is refused, and that a section survives the way through KFP."""

import json

import pytest

from calrec.config import (
    SECTIONS,
    Config,
    DataConfig,
    EvaluateConfig,
    GateConfig,
    RetrieveConfig,
    Source,
    StageConfig,
    TextConfig,
    runs,
)
from calrec.config.checks import instant
from calrec.config.data import event_filter
from calrec.config.overrides import from_dict, override, to_dict


def test_named_runs_build_and_have_every_section():
    for name in runs.RUNS:
        run = runs.get_run(name)
        assert {section for section in SECTIONS if getattr(run, section) is not None} == set(SECTIONS)


def test_a_section_survives_json_with_doubles():
    section = StageConfig(steps=200, domains=("a", "b"))
    doubles = {k: float(v) if type(v) is int else v for k, v in json.loads(json.dumps(to_dict(section))).items()}
    assert from_dict(StageConfig, doubles) == section


def test_override_sets_values_of_every_kind():
    changed = override(
        runs.sample(),
        ["stage2.steps=7", "retrieve.exclude_seen=true", "stage1.lr=1e-4", "text.attributes=title,brand",
         "model.name=a/b"],
    )  # fmt: skip
    assert (changed.stage2.steps, changed.retrieve.exclude_seen, changed.stage1.lr) == (7, True, 1e-4)
    assert (changed.text.attributes, changed.model.name) == (("title", "brand"), "a/b")
    data = override(runs.sample(), ["data.columns.user=CustomerID", "data.filters=n>0,kind=buy|cart"]).data
    assert (data.columns.user, data.filters) == ("CustomerID", ("n>0", "kind=buy|cart"))
    assert from_dict(type(data), json.loads(json.dumps(to_dict(data)))) == data


def test_settings_that_need_each_other_come_in_any_order():
    needed = ["retrieve.k=5", "evaluate.recall_at=1, 5", "evaluate.ndcg_at=[5]", "gate.metric=mrr"]
    forwards, backwards = override(runs.sample(), needed), override(runs.sample(), needed[::-1])
    assert forwards == backwards
    assert (forwards.retrieve.k, forwards.evaluate.recall_at, forwards.evaluate.ndcg_at) == (5, (1, 5), (5,))
    message = r"evaluate looks at rank 20 but retrieve.k is 5"
    with pytest.raises(ValueError, match=message):
        override(runs.sample(), [needed[0], needed[3]]).whole()
    assert override(runs.sample(), []) == runs.sample()


def test_a_filter_is_a_column_an_operator_and_a_value():
    texts = ("quantity > 0", "type=cart|buy", "CustomerID!=", "stars>=4.5")
    assert [event_filter(text) for text in texts] == [
        ("quantity", ">", "0"), ("type", "=", "cart|buy"), ("CustomerID", "!=", ""), ("stars", ">=", "4.5"),
    ]  # fmt: skip


def test_instants_are_utc_unless_they_say_otherwise():
    assert instant("x", "1970-01-02") == 86_400_000
    assert instant("x", "1970-01-01T01:00:00+01:00") == 0
    assert instant("x", "") is None


def test_since_comes_before_until():
    with pytest.raises(ValueError, match="data.since must be before data.until, got 2020-02-01 and 2020-01-01"):
        DataConfig(since="2020-02-01", until="2020-01-01")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stage2.step=7", r"unknown key of stage2 'step'; did you mean steps\?"),
        ("stge2.steps=7", r"unknown section 'stge2'; did you mean stage2\?"),
        ("stage2.steps", r"--set takes section.key=value"),
        ("stage2.steps=many", r"stage2.steps must be of type int, got 'many'"),
        ("evaluate.recall_at=1,ten", r"evaluate.recall_at must be of type int, got 'ten'"),
        ("stage2.steps=1.5", r"stage2.steps must be of type int, got 1.5"),
        ("retrieve.exclude_seen=1", r"must be of type bool"),
        ("stage2.batch_size=1", r"--set stage2.batch_size=1: batch_size must be >= 2, got 1: .* raise batch_size"),
        ("stage1.alpha=0.99", r"alpha \+ \|beta\| < 1, got 0.99 \+ 0.025; lower alpha or beta"),
        ("stage1.beta=-0.9", r"got 0.125 \+ 0.9"),
        (
            "stage1.mix=most",
            r"mix must be proportional, sqrt, uniform, or weights such as nutrition=2,deli=1; got 'most'",
        ),
        ("stage1.mix=deli=0,pastry=0", r"mix: weights must be >= 0 and one of them > 0"),
        ("stage1.negatives=all", r"negatives must be one of batch, ranks, micro; got 'all'"),
        ("stage1.ema=1", r"ema is a decay, 0 <= ema < 1 \(0: none\); got 1.0"),
        ("stage2.precision=fp16", r"precision must be one of auto, fp32, bf16; got 'fp16'"),
        ("model.lora_dropout=1", r"model.lora_dropout must be >= 0 and < 1, got 1.0"),
        ("launch.nodes=2", r"launch.nodes = 2 needs launch.launcher = trainjob, got auto"),
        ("launch.sharding=zero", r"launch.sharding must be one of ddp, fsdp; got 'zero'"),
        ("data.dedup=all", r"data.dedup must be one of consecutive, first, none; got 'all'"),
        ("text.attributes=title,colour", r"text.attributes must be one of .*; got 'colour'"),
        ("retrieve.k=5", r"evaluate looks at rank 20 but retrieve.k is 5; raise retrieve.k"),
        ("gate.metric=recall_at_7", r"gate.metric 'recall_at_7' is not computed"),
        ("stage1.domains=nowhere", r"stage1.domains 'nowhere' is not a category of this run; sources: nutrition"),
        ("stage2.domains=deli", r"stage2.domains is set by the pipeline"),
        ("refit.domains=deli", r"refit.domains is set by the pipeline"),
        ("refit.patience=2", r"until = test leaves nothing to validate, so patience = 2 .* set it to 0"),
        ("data.columns.usr=x", r"unknown key of data.columns 'usr'; did you mean user\?"),
        ("data.columns=x", r"data.columns is not a setting; valid: data.columns.user, data.columns.item"),
        ("data.dedup.user=x", r"data.dedup.user is not a setting; valid: data.dedup"),
        ("data.filters=quantity", r"data.filters takes COLUMN OPERATOR VALUE such as quantity>0, got 'quantity'"),
        ("data.filters=quantity>many", r"data.filters: > needs a number, got 'quantity>many'"),
        ("data.filters=code~^.{3,5}$", r"is no regular expression|a value with a comma needs a JSON list"),
        ("data.filters=code~(a", r"'\(a' of 'code~\(a' is no regular expression"),
        ("data.filters=n==5", r"one operator of = != > >= < <= ~ !~, got 'n==5'"),
        ("data.filters=code=~^5", r"one operator of = .*, got 'code=~\^5'"),
        ('data.filters=["code~^\\d"]', r"no JSON list, .* double each backslash"),
        ("data.weight=stars", r"data.weight must be one of auto, quantity, rating; got 'stars'"),
        ("data.returns=refund", r"data.returns must be one of drop, cancel, keep; got 'refund'"),
        ("data.time_format=iso8601", r"data.time_format must be auto, s, ms, us, ns or a pattern"),
        ("data.since=May", r"data.since must be an ISO date or time such as 2026-05-01, got 'May'"),
        ("data.min_length=2", r"data.min_length must be >= 3, got 2"),
        ("data.format=amazon", r"data.format must be one of auto, sample, amazon2014, .*; got 'amazon'"),
        ("split.kind=random", r"split.kind must be one of leave_last_out, time; got 'random'"),
        ("split.unit=invoice", r"split.unit must be one of event, basket; got 'invoice'"),
        ("split.valid_from=2020-01-01", r"split.valid_from and split.test_from go together"),
        ("cluster.train_gpus=one", r"cluster.train_gpus must be a whole number, 0 for none; got 'one'"),
        ("cluster.data_memory=8GB", r"cluster.data_memory must be an amount of memory with its unit.*; got '8GB'"),
        ("cluster.train_cpu=0", r"cluster.train_cpu must be a number of CPUs above 0"),
        ("launch.cpu=4Gi", r"launch.cpu must be a number of CPUs above 0, such as 4, 0.5 or 500m; got '4Gi'"),
        ("launch.memory=16", r"launch.memory must be an amount of memory with its unit, such as 16Gi .*; got '16'"),
        ("launch.runtime=Runtime/ours", r"launch.runtime is NAME, or TrainingRuntime/NAME .*; got 'Runtime/ours'"),
        ("launch.runtime=Our_Torch", r"launch.runtime must be a name of Kubernetes: small letters.*; got 'Our_Torch'"),
        ("launch.accelerator=gpu", r"launch.accelerator must be the name of a resource with its domain.*; got 'gpu'"),
        ("cluster.node_selector=pool", r"cluster.node_selector must be JSON such as .*; got 'pool'"),
        ('cluster.node_selector={"a": 1}', r"cluster.node_selector must hold labels, such as .*; got 'a': 1"),
        ('cluster.tolerations=[{"taint": "gpu"}]', r"cluster.tolerations holds objects with some of key, operator"),
        ("cluster.accelerator=", r"cluster.accelerator must be the name of a resource with its domain.*; got ''"),
        ("batch.max_unknown=2", r"batch.max_unknown is a share, 0 to 1; got 2"),
        ("batch.k=-1", r"batch.k must be >= 0, got -1"),
        ("split.test_share=0.95", r"split.valid_share \+ split.test_share must be < 1, got 0.1 \+ 0.95"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_remedy(setting: str, message: str):
    with pytest.raises(ValueError, match=message):
        override(runs.sample(), [setting]).whole()


def test_a_negative_beta_is_an_ablation_and_allowed():
    assert StageConfig(beta=-0.025).beta == -0.025


def test_a_target_must_be_a_source():
    with pytest.raises(ValueError, match="target 'pets' is not a category of this run; sources: books"):
        Config(sources=(Source("books", "data/books"),), targets=("pets",)).whole()


def test_one_step_needs_no_settings_that_only_a_whole_run_needs():
    """`calrec recommend --set retrieve.k=3` has nothing to do with the rank at which an evaluation looks."""
    given = ["retrieve.k=3", "data.min_length=1", "stage1.domains=mine", "gate.metric=recall_at_7"]
    assert override(runs.sample(), given).retrieve.k == 3


@pytest.mark.parametrize("domain", ["../x", ".git", "a/b", "", "a\nb", "a,b", "a=b", "x" * 101])
def test_a_category_whose_name_leads_elsewhere_is_refused(domain):
    with pytest.raises(ValueError, match="cannot be a name; use at most 100 characters"):
        Source(domain, "data/books")


def test_two_sources_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two sources have one domain name"):
        Config(sources=(Source("a", "x"), Source("a", "y")), targets=("a",))


def test_sections_refuse_values_out_of_range():
    for make in (
        lambda: TextConfig(max_tokens=10, max_item_tokens=10),
        lambda: RetrieveConfig(b=1.5),
        lambda: EvaluateConfig(recall_at=(0,)),
        lambda: Config(sources=(Source("a", "x"),), targets=("a",), gate=GateConfig(beat=("oracle",))).whole(),
    ):
        with pytest.raises(ValueError, match=r"must|is not among"):
            make()


def test_an_unknown_run_lists_the_known():
    with pytest.raises(ValueError, match="unknown run 'smple'; did you mean sample"):
        runs.get_run("smple")
