"""The checks of features: that they pass where they should, fail where they should, and who is the judge."""

import hashlib
import json
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from opensci_lib import compat, kernels, project
from opensci_lib.compat.reference import check_reference
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import all_rules, hotfix
from opensci_lib.miniature import MODEL
from opensci_lib.reports import figures
from opensci_lib.runs import trace
from tests.hotfix.test_mlinter import findings

# ---------------------------------------------------------------- judging, on made-up features, folders and judges


class Folder:
    """A case that lacks some features: each of them raises what is given."""

    def __init__(self, **lacks: BaseException):
        self.lacks, self.freshened = lacks, 0

    @contextmanager
    def fresh(self):
        self.freshened += 1
        yield


def feature(name: str, group: str = "group", basic: bool = False, compiled: bool = False) -> compat.Feature:
    def check(case):
        if name in case.lacks:
            raise case.lacks[name]

    return compat.Feature(group, name, basic, compiled, check)


def judged(case: Folder, **judges: Folder) -> compat.Result:
    [result] = compat.judge([feature("x")], case, lambda: judges)
    return result


def test_a_feature_that_is_there_is_ok_and_no_judge_is_asked():
    def nobody():
        raise AssertionError("a judge was asked")

    case = Folder()
    [result] = compat.judge([feature("x", group="y")], case, nobody)
    assert (result.group, result.feature, result.result, result.error) == ("y", "x", "ok", "")
    assert case.freshened == 1


def test_what_all_judges_fail_is_unsupported():
    result = judged(Folder(x=ValueError("a")), Llama=Folder(x=KeyError("b")), Qwen3=Folder(x=TypeError("c")))
    assert result.result == "unsupported by this release"
    assert result.error == "ValueError: a | Llama: KeyError: 'b' | Qwen3: TypeError: c"


def test_what_one_judge_can_do_fails():
    result = judged(Folder(x=ValueError("a")), Llama=Folder(x=KeyError("b")), Qwen3=Folder())
    assert result.result == "fails"
    assert result.error == "ValueError: a | Llama: KeyError: 'b'"


def test_without_judges_nothing_is_excused():
    assert judged(Folder(x=ValueError("a"))).result == "fails"


def test_results_come_in_the_order_of_the_features():
    features = [feature("c", "z"), feature("a", "z"), feature("b", "a")]
    case = Folder(a=ValueError("no"))
    results = compat.judge(features, case, dict)
    assert [(row.group, row.feature, row.result) for row in results] == [
        ("z", "c", "ok"),
        ("z", "a", "fails"),
        ("a", "b", "ok"),
    ]
    assert case.freshened == 3


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n  first \n\nsecond"), "ValueError: first"),
        (KeyError("default"), "KeyError: 'default'"),
        (StopIteration(), "StopIteration: "),
        (ImportError(f"no x ({project.ROOT}/environments/a)"), "ImportError: no x (environments/a)"),
        (ValueError("x" * 400), "ValueError: " + "x" * 288),
    ],
)
def test_an_error_is_one_line_that_tells_nothing_of_this_machine(error, line):
    assert judged(Folder(x=error)).error == line


def test_a_user_who_interrupts_is_no_result():
    with pytest.raises(KeyboardInterrupt):
        judged(Folder(x=KeyboardInterrupt()))


def test_the_seconds_are_those_of_the_check():
    [result] = compat.judge(
        [compat.Feature("group", "x", False, False, lambda case: time.sleep(0.034))], Folder(), dict
    )
    assert 0.03 <= result.seconds < 60
    assert result.seconds == round(result.seconds, 2)


KNOWN = [feature("a", "one", basic=True), feature("a", "two"), feature("b", "two", basic=True)]


@pytest.mark.parametrize(
    ("options", "titles"),
    [
        ({}, ["one: a", "two: a", "two: b"]),
        ({"basic": True}, ["one: a", "two: b"]),
        ({"names": ["two: b", "two: a"]}, ["two: a", "two: b"]),
        ({"names": ["two: b", "two: a"], "basic": True}, ["two: b"]),
        ({"names": []}, []),
    ],
)
def test_features_are_chosen_by_title(options, titles):
    assert [feature.title for feature in compat.choose(KNOWN, **options)] == titles


def test_a_feature_that_does_not_exist_is_an_error():
    with pytest.raises(OpensciError) as caught:
        compat.choose(KNOWN, names=["two: c", "one: a", "b"])
    assert caught.value.message == "There is no feature 'b', 'two: c': see docs/compat.csv for all."


def test_a_check_registers_under_the_name_of_its_module():
    before = list(compat._FEATURES)
    try:

        @compat.feature("a name")
        def check(case): ...

        @compat.feature("basics", basic=True)
        def other(case): ...

        assert compat._FEATURES[len(before) :] == [
            compat.Feature("test_compat", "a name", False, False, check),
            compat.Feature("test_compat", "basics", True, False, other),
        ]
    finally:
        compat._FEATURES[:] = before


# ---------------------------------------------------------------- tables


def write(path: Path, tf_version: str, **results: list[tuple[str, str]]) -> Path:
    """Write a compat.json: by variant, (group, result) of each check."""
    rows = [
        {"variant": variant, "group": group, "feature": f"f{n}", "result": result, "seconds": 0.5, "error": ""}
        for variant, checked in results.items()
        for n, (group, result) in enumerate(checked)
    ]
    path.write_text(json.dumps({"tf_version": tf_version, "torch": "2.13.0", "results": rows}))
    return path


FINE = [("auto", "ok"), ("rope", "ok")]
PARTLY = [("auto", "ok"), ("rope", "ok"), ("saving", "unsupported by this release")]
BROKEN = [("auto", "fails"), ("rope", "fails")]
WRONG = [("weights", "fails"), ("logits", "fails"), ("rope", "fails"), ("auto", "ok")]
ELSEWHERE = [("training", "fails"), ("logits", "fails"), ("saving", "fails"), ("auto", "ok")]


def table(tmp_path, *releases) -> pd.DataFrame:
    """Return the table of (release, original, minimal, fixed) in the order given."""
    return compat.gather(
        [
            write(tmp_path / f"{n}.json", release, original=original, minimal=minimal, fixed=fixed)
            for n, (release, original, minimal, fixed) in enumerate(releases)
        ]
    )


def test_rows_are_gathered_with_releases_ascending(tmp_path):
    found = table(tmp_path, ("5.10.4", [], [], [("auto", "ok")]), ("5.9.0", FINE, [], []), ("4.48.0", [], FINE, []))
    assert list(found.columns) == ["tf_version", "variant", "group", "feature", "result", "seconds", "error"]
    assert found.to_numpy().tolist() == [
        ["4.48.0", "minimal", "auto", "f0", "ok", 0.5, ""],
        ["4.48.0", "minimal", "rope", "f1", "ok", 0.5, ""],
        ["5.9.0", "original", "auto", "f0", "ok", 0.5, ""],
        ["5.9.0", "original", "rope", "f1", "ok", 0.5, ""],
        ["5.10.4", "fixed", "auto", "f0", "ok", 0.5, ""],
    ]


def test_the_readme_s_table_joins_releases_of_the_same_answer(tmp_path):
    measured = table(
        tmp_path,
        ("4.48.0", FINE, FINE, PARTLY),
        ("4.49.0", FINE, FINE, PARTLY),
        ("4.50.3", FINE, FINE, FINE),
        ("4.57.6", FINE, FINE, PARTLY),
        ("5.0.0", BROKEN, WRONG, PARTLY),
        ("5.1.0", BROKEN, WRONG, PARTLY),
        ("5.10.4", BROKEN, WRONG, PARTLY),
    )
    assert compat.support_table(measured).splitlines() == [
        "| transformers | unmodified folder | minimal | fixed |",
        "|---|---|---|---|",
        "| 4.48.0 to 4.49.0 (2 releases) | 2 of 2 checks ok | 2 of 2 checks ok "
        "| 2 of 3 checks ok, 1 unsupported by the release |",
        "| 4.50.3 | 2 of 2 checks ok | 2 of 2 checks ok | 2 of 2 checks ok |",
        "| 4.57.6 | 2 of 2 checks ok | 2 of 2 checks ok | 2 of 3 checks ok, 1 unsupported by the release |",
        "| 5.0.0 to 5.10.4 (3 releases) | does not load "
        "| wrong: weights overwritten, RoPE from uninitialised memory, wrong logits "
        "| 2 of 3 checks ok, 1 unsupported by the release |",
    ]


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (FINE, "2 of 2 checks ok"),
        (BROKEN, "does not load"),
        (ELSEWHERE, "wrong: wrong logits, saving fails, training fails"),
        ([("auto", "fails"), ("rope", "ok")], "wrong: does not load"),
        ([("rope", "fails")], "wrong: RoPE from uninitialised memory"),
        ([("auto", "fails"), ("saving", "unsupported by this release")], "does not load"),
        ([("saving", "unsupported by this release")], "0 of 1 checks ok, 1 unsupported by the release"),
    ],
)
def test_what_the_results_of_a_folder_come_to(tmp_path, results, words):
    line = compat.support_table(table(tmp_path, ("5.0.0", FINE, FINE, results))).splitlines()[-1]
    assert line == f"| 5.0.0 | 2 of 2 checks ok | 2 of 2 checks ok | {words} |"


def test_without_results_the_table_has_its_columns():
    assert list(compat.gather([]).columns) == [
        "tf_version", "variant", "group", "feature", "result", "seconds", "error",
    ]  # fmt: skip


def test_releases_stand_in_the_order_in_which_they_come(tmp_path):
    measured = table(tmp_path, ("5.9.0", FINE, FINE, FINE), ("5.10.4", FINE, FINE, BROKEN))
    lines = compat.support_table(measured).splitlines()[2:]
    assert [line.split()[1] for line in lines] == ["5.9.0", "5.10.4"]


def test_the_matrix_says_what_the_table_says(tmp_path):
    fails, ok, unsupported = ([("group", kind)] for kind in (compat.FAILS, compat.OK, compat.UNSUPPORTED))
    measured = compat.gather(
        [
            write(tmp_path / "a.json", "5.10.4", minimal=fails, fixed=fails),
            write(tmp_path / "b.json", "5.9.0", minimal=ok, fixed=ok),
            write(tmp_path / "c.json", "4.48.0", minimal=unsupported, fixed=unsupported),
        ]
    )
    picture = figures.compat_matrix(measured)
    [axes] = picture.axes
    assert picture.get_suptitle() == "1 features on 3 releases: 1 checks fail, 1 unsupported"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4.48.0", "5.9.0", "5.10.4"]


# ---------------------------------------------------------------- the reference


def test_a_reference_is_taken_from_these_checks(tmp_path):
    path = tmp_path / "compat.safetensors"
    traces = hashlib.sha256(Path(trace.__file__).read_bytes()).hexdigest()
    save_file({}, path, {"checks": project.code_digest(Path(compat.__file__).parent) + traces})
    assert check_reference(str(path)) == path


@pytest.mark.parametrize("metadata", [{"checks": "0"}, None, "no file"])
def test_a_reference_that_other_checks_made_is_refused(tmp_path, metadata):
    path = tmp_path / "compat.safetensors"
    if metadata != "no file":
        save_file({}, path, metadata)
    with pytest.raises(OpensciError) as caught:
        check_reference(path)
    assert str(caught.value) == (
        f"{path}, what 4.48.0 computes, is not there or was made by other checks: `snakemake {path}` makes it."
    )


def test_any_change_of_code_changes_its_digest(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_text("1\n")
    (tmp_path / "inner" / "b.py").write_text("2\n")
    digests = [project.code_digest(tmp_path)]
    (tmp_path / "inner" / "b.py").write_text("3\n")
    digests.append(project.code_digest(tmp_path))
    (tmp_path / "inner" / "b.py").rename(tmp_path / "inner" / "c.py")
    digests.append(project.code_digest(tmp_path))
    (tmp_path / "a.py").unlink()
    digests.append(project.code_digest(tmp_path))
    assert len(set(digests)) == 4
    (tmp_path / "notes.txt").touch()
    assert project.code_digest(tmp_path) == digests[-1]


# ---------------------------------------------------------------- in kernels


#: What a release between the two whose checks are all made asks for in another way than both.
ASKED = [
    "kernels: forward",
    "kernels: grouped heads: forward, decoding, training",
    "kernels: 4,096 and 16,384 tokens learned without a tensor of positions times positions",
]
ALL, BASIC = {}, {"basic": True}
#: Which states of the miniature are put to which checks, by release.
STATES = {
    "4.48.0": {"fixed": ALL},
    "4.57.6": {"minimal": {"features": ASKED}, "fixed": {"features": ASKED}},
    "5.0.0": {"minimal": BASIC},
    "5.12.1": {"original": BASIC, "minimal": BASIC},
    "5.23.0": {"fixed": ALL},
}

#: For each rule a release and a check that fails without the rule, and words of the error.
NEEDED = {
    "attention-switch": ("5.12.1", "attention: attention chosen anew after loading", "'sdpa' is not 'eager'"),
    "auto-heads": ("4.48.0", "auto: AutoModelForSequenceClassification", "Unrecognized configuration class"),
    "auto-model": ("4.48.0", "auto: AutoModel", "StopIteration"),
    "cache-length": ("5.12.1", "generation: cache_implementation static", "arange() received"),
    "cache-position": ("5.23.0", "messages: no warning that a native model does not get too", "`cache_position`"),
    "capability-flags": ("5.12.1", "attention: flags: all that a native Llama sets", "_can_compile_fullgraph"),
    "causal-loss": ("5.0.0", "kernels: training", "float32[19, 1024] instead of float32[18, 1024]"),
    "causal-mask": ("5.23.0", "generation: cache_implementation static", "get_max_cache_shape"),
    "checkpoint-layers": ("5.23.0", "training: gradient checkpointing of every second layer", "8 is not 6"),
    "init-weights": (
        "5.0.0",
        "weights: every tensor as in the checkpoint, no key missing or left over",
        "tensors unlike the checkpoint",
    ),
    "loss-kwargs": ("5.0.0", "auto: AutoModelForCausalLM", "LossKwargs"),
    "mask-device": ("4.52.4", "generation: cache_implementation static", "'device'"),
    "model-input-names": ("4.48.0", "tokenizer: model_input_names: what generate() accepts", "token_type_ids"),
    "parallel-plan": (
        "4.48.0",
        "parallel: tp_plan auto: each process holds its part of every projection",
        "numbers held of model.layers.0.self_attn.q_proj.weight",
    ),
    "parallel-styles": (
        "5.23.0",
        "parallel: tp_plan auto: so are those of the norms of queries and keys",
        "gradient of model.layers.0.self_attn.q_layernorm.weight",
    ),
    "pipeline-tokenizer": ("4.48.0", 'auto: pipeline("text-generation")', "'NoneType' object is not callable"),
    "return-dict": ("5.12.1", "messages: no warning that a native model does not get too", "`use_return_dict`"),
    "rope-buffer": ("5.23.0", "rope: dynamic, past the trained length and back", "meta tensor"),
    "rope-default": ("5.0.0", "auto: AutoModelForCausalLM", "KeyError: 'default'"),
    "rope-parameters": ("5.23.0", "messages: no warning that a native model does not get too", "`rope_scaling`"),
    "save-code": (
        "4.48.0",
        "saving: save_pretrained and reload: code, config, tokenizer, weights",
        "code files saved: ['configuration_opensci.py']",
    ),
    "sdpa-arguments": ("5.0.0", "kernels: decoding a token", "enable_gqa True instead of False"),
    "tied-keys": ("5.0.0", "auto: AutoModelForCausalLM", "'list' object has no attribute 'keys'"),
    "tied-weights": ("5.3.0", "weights: every tensor as in the checkpoint, no key missing or left over", "in memory"),
    "tokenizer-class": (
        "5.12.1",
        "tokenizer: a hundred awkward strings: ids as tokenizer.json has them",
        "ids of 'e\u0301a\u0308'",
    ),
}
#: The rules that change what the library's linter says and nothing that a check sees, with its rule.
LINTED = {"tie-word-embeddings": "TRF015"}


def without(rule: str) -> str:
    """Return how the folder is called to which all rules but one were applied."""
    return f"without_{rule.replace('-', '_')}"


def leave_one_out(folder: Path, rules: list[str]) -> dict[str, Path]:
    """Return for each of some rules a folder to which all the others were applied: by halves, as rules are slow."""
    if len(rules) == 1:
        return {rules[0]: folder}
    half, found = len(rules) // 2, {}
    for off, on in ((rules[:half], rules[half:]), (rules[half:], rules[:half])):
        name = without(off[0]) if len(off) == 1 else f"{folder.name}_{off[0]}"
        found |= leave_one_out(Path(hotfix(folder, folder.with_name(name), rules=on).dst_dir), off)
    return found


@pytest.fixture(scope="module")
def folders_without(miniature) -> dict[str, Path]:
    return leave_one_out(miniature, sorted(NEEDED | LINTED))


@pytest.fixture(scope="module")
def right(miniature, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "compat.safetensors"
    done = kernels.run("4.48.0", "-m", "opensci_lib.compat.reference", miniature, path)
    assert done.returncode == 0
    (path.parent / "plain").touch()
    assert path.stat().st_mode == (path.parent / "plain").stat().st_mode
    return check_reference(path)


_CHECK = """
import json, sys
from opensci_lib import compat

jobs, reference, output = sys.argv[1:]
results = {name: compat.check(folder, reference, **options) for name, (folder, options) in json.loads(jobs).items()}
compat.save(results, output)
"""


_LACKING = """
import json, sys
from pathlib import Path
from safetensors import SafetensorError
from opensci_lib.compat.case import Case
from opensci_lib.compat.reference import _noted, made_under

lacking = {}
with _noted("trace long", lacking):
    raise TypeError("no 'device'")
with _noted("trace short", lacking):
    pass
case, path = Case(Path(), Path(), reference=Path(sys.argv[1])), sys.argv[1]
asked = ["trace long", "trace long text", "float32 sdpa static cache 0", "float32 sdpa no cache 0", "other"]
found = {}
for name in asked:
    try:
        found[name] = case.reference(name) is not None
    except SafetensorError:
        found[name] = "unknown"
print(json.dumps([lacking, found, made_under(path)]))
"""


@pytest.mark.kernel
def test_what_the_reference_itself_fails_of_has_none(tmp_path):
    path, one = tmp_path / "compat.safetensors", np.ones(1)
    lacking = json.dumps({"trace long": "TypeError: x", "float32 sdpa static cache": "TypeError: y"})
    held = {"trace long text": one, "float32 sdpa no cache 0": one}
    save_file(held, path, {"tf_version": "4.53.3", "lacking": lacking})
    done = kernels.run("4.48.0", "-c", _LACKING, path, capture_output=True, text=True)
    said, answer = done.stdout.splitlines()
    assert said == "The reference has no trace long (TypeError: no 'device')."
    assert json.loads(answer) == [
        {"trace long": "TypeError: no 'device'"},
        {
            "trace long": False, "trace long text": True, "float32 sdpa static cache 0": False,
            "float32 sdpa no cache 0": True, "other": "unknown",
        },
        "4.53.3",
    ]  # fmt: skip


@pytest.mark.kernel
def test_features_are_named_after_the_reference():
    script = "from opensci_lib import compat\nfor it in compat.all_features('4.53.3'): print(it.title)"
    titles = kernels.run("4.48.0", "-c", script, capture_output=True, text=True).stdout.splitlines()
    assert "logits: float32, SDPA, as on 4.53.3" in titles
    assert not [title for title in titles if "{" in title or "4.48" in title]
    assert len(titles) == len({*titles}) > 100


@pytest.fixture(scope="module")
def checked(variant_folder, folders_without, right, tmp_path_factory):
    """Return a function that runs all checks of a release in one kernel and gives {folder: {feature: row}}."""

    @cache
    def start(tf_version: str) -> dict[str, dict[str, dict]]:
        needed = {rule: feature for rule, (release, feature, _) in NEEDED.items() if release == tf_version}
        states = STATES.get(tf_version, {})
        jobs = {name: (variant_folder(name), options) for name, options in states.items()}
        if "fixed" not in jobs:
            jobs["fixed"] = (variant_folder("fixed"), {"features": sorted(set(needed.values()))})
        jobs |= {without(rule): (folders_without[rule], {"features": [feature]}) for rule, feature in needed.items()}
        output = tmp_path_factory.mktemp(tf_version) / "compat.json"
        asked = json.dumps(jobs, default=str)
        assert kernels.run(tf_version, "-c", _CHECK, asked, right, output).returncode == 0
        found = compat.gather([output])
        assert set(found["tf_version"]) == {tf_version}
        return {
            name: {f"{row['group']}: {row['feature']}": row for row in rows.to_dict("records")}
            for name, rows in found.groupby("variant")
        }

    return start


def test_each_rule_that_changes_the_miniature_has_its_check(tmp_path):
    """The others are for other people's code: `opensci prove` tries that."""
    applied = hotfix(MODEL, tmp_path / "fixed", dry_run=True).applied
    assert sorted(NEEDED | LINTED) == [rule.id for rule in all_rules() if rule.id in applied]


@pytest.mark.kernel
@pytest.mark.parametrize("rule", NEEDED)
def test_without_the_rule_a_check_fails(checked, rule):
    release, feature, words = NEEDED[rule]
    rows = checked(release)
    assert rows["fixed"][feature]["result"] == compat.OK, rows["fixed"][feature]["error"]
    assert rows[without(rule)][feature]["result"] == compat.FAILS, rows[without(rule)][feature]
    assert words in rows[without(rule)][feature]["error"]


@pytest.mark.kernel
@pytest.mark.parametrize("rule", LINTED)
def test_without_the_rule_the_linter_finds_its_fault(variant_folder, folders_without, tmp_path, rule):
    with_it, without_it = (
        findings(folder, tmp_path / "found.json") for folder in (variant_folder("fixed"), folders_without[rule])
    )
    assert without_it - with_it == {LINTED[rule]: 1}


# Offloading moves tensors to a GPU and back; without one native models have no such cache either.
OFFLOADED = "generation: cache_implementation offloaded"
LATER = {
    "training: gradient checkpointing with a cache handed over",
    "forward: sequences packed into a row",
    "kernels: sequences packed into a row",
    "training: gradient checkpointing of every second layer",
    "attention: attention chosen anew after loading",
    "parallel: tp_plan auto: a training step's gradients are those of one process",
    "parallel: tp_plan auto: so are those of the norms of queries and keys",
    "parallel: tp_plan auto: saved, and loaded by one process",
}


@pytest.mark.kernel
@pytest.mark.parametrize(("tf_version", "missing"), [("4.48.0", {OFFLOADED, *LATER}), ("5.23.0", {OFFLOADED})])
def test_the_fixed_folder_has_every_feature_of_the_release(checked, tf_version, missing):
    rows = checked(tf_version)["fixed"]
    assert len(rows) > 75
    assert {row["group"] for row in rows.values()} == set(compat.GROUPS)
    wanting = {name: row["error"] for name, row in rows.items() if row["result"] != compat.OK}
    assert set(wanting) <= missing, wanting
    assert all(rows[name]["result"] == compat.UNSUPPORTED for name in wanting)


@pytest.mark.kernel
def test_the_unmodified_folder_fails_where_it_does_not_load(checked):
    rows = checked("5.12.1")["original"]
    assert len(rows) == 7
    assert {row["result"] for row in rows.values()} == {compat.FAILS}
    assert all("LossKwargs" in row["error"] for row in rows.values())


@pytest.mark.kernel
def test_other_kernels_are_seen_and_cured(checked):
    """The mask of positions that the model made up, grouped heads; a native model asks for the same, to no avail."""
    rows = checked("4.57.6")
    assert {name: row["result"] for name, row in rows["fixed"].items()} == dict.fromkeys(ASKED, compat.OK)
    found = rows["minimal"]
    assert {name: row["result"] for name, row in found.items()} == dict.fromkeys(ASKED[:2], compat.FAILS) | {
        ASKED[2]: compat.OK
    }
    assert "enable_gqa True instead of False" in found[ASKED[1]]["error"]


@pytest.mark.kernel
def test_uninitialised_memory_is_seen(checked):
    rows = checked("5.12.1")["minimal"]
    assert rows["auto: AutoModelForCausalLM"]["result"] == compat.OK
    assert rows["rope: default"]["result"] == compat.FAILS
    assert "inv_freq is off" in rows["rope: default"]["error"]
    for dtype in ("float32", "bfloat16"):
        assert rows[f"logits: {dtype}, SDPA, as on 4.48.0"]["result"] == compat.FAILS


@pytest.mark.kernel
def test_overwritten_weights_are_seen(checked):
    error = checked("5.0.0")["minimal"][NEEDED["init-weights"][1]]["error"]
    assert "tensors unlike the checkpoint" in error


_BY_VALUE = """
import json, sys
from pathlib import Path
import torch
from torch import nan, tensor
from opensci_lib import compat
from opensci_lib.compat import native
from opensci_lib.compat.case import Case, expect, expect_close, expect_equal, surroundings

folder, work, output = sys.argv[1:]
one, above = tensor([1.0]), tensor([1.0 + 2**-23])  # one unit in the last place apart
half, half_above = tensor([1.0]).bfloat16(), tensor([1.0 + 2**-7]).bfloat16()
grid = torch.arange(6.0).reshape(2, 3)
equal = {
    "itself": (one, one.clone()),
    "a unit": (above, one),
    "a unit of bfloat16": (half_above, half),
    "the sign of zero": (tensor([-0.0]), tensor([0.0])),
    "NaN": (tensor([nan, 1.0]), tensor([nan, 1.0])),
    "NaN on one side": (tensor([nan]), one),
    "a shape": (tensor([[1.0]]), one),
    "a dtype": (one.double(), one),
    "a scalar": (tensor(1.0), tensor(1.0)),
    "another scalar": (tensor(2.5), tensor(1.0)),
    "strides": (grid.t().contiguous().t(), grid),
    "a parameter": (torch.nn.Parameter(one), one),
    "integers": (tensor([1, 2]), tensor([1, 3])),
    "booleans": (tensor([True]), tensor([True])),
    "lists": ([1, 2], [1, 2]),
    "other lists": ([1], [1, 2]),
    "no tensor": (1.0, one),
}
close = {
    "within": (tensor([1.0, 2.0]), tensor([1.25, 1.75]), 0.25),
    "beyond": (tensor([1.0, 2.0]), tensor([1.25, 2.375]), 0.25),
    "below": (tensor([1.0]), tensor([2.0]), 0.25),
    "by default": (tensor([0.0, 0.0]), tensor([0.0, 0.00009]), 1e-4),
    "NaN": (tensor([nan]), tensor([nan]), 1.0),
    "NaN on one side": (tensor([0.0, nan]), tensor([0.0, 0.0]), 1.0),
    "infinity": (tensor([float("inf")]), tensor([0.0]), 1.0),
    "a shape": (tensor([1.0, 1.0]), tensor([1.0]), 1.0),
    "a parameter": (torch.nn.Parameter(one), one, 0.0),
    "nothing": (torch.ones(0), torch.ones(0), 1.0),
}

def outcome(check, *arguments):
    try:
        check(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:80]
    return ""

found = {
    "equal": {name: outcome(expect_equal, *pair, "it") for name, pair in equal.items()},
    "close": {name: outcome(expect_close, *pair, "it", atol) for name, (*pair, atol) in close.items()},
    "default": [outcome(expect_close, one, one + apart, "it") for apart in (0.9e-4, 1.1e-4)],
    "expect": [outcome(expect, condition, "otherwise") for condition in (True, False, 1, 0)],
}

def native_only(case): expect(case.native, "not for models with their own code")
def breaks(case): case.model.get_input_embeddings().weight.data.zero_(); case.model.train()
def unharmed(case): expect(not case.model.training and case.model.get_input_embeddings().weight.any(), "harmed")
def littered(case): (case.work / "litter").touch(); torch.set_default_dtype(torch.float64); torch.rand(7)
def tidy(case): expect(not list(case.work.iterdir()) and torch.ones(1).dtype == torch.float32, "littered")
def drawn(case): expect_equal(torch.rand(1).item(), torch.manual_seed(0) and torch.rand(1).item(), "number drawn")

with surroundings():
    case = Case(Path(folder), Path(work) / "model")
    checks = [native_only, breaks, unharmed, littered, tidy, drawn]
    features = [compat.Feature("made up", check.__name__, False, False, check) for check in checks]
    rows = compat.judge(features, case, lambda: native.cases(Path(work)))
    found["judged"] = {row.feature: [row.result, row.error] for row in rows}
    slow = {"training: torch.compile, inductor", "attention: flex attention"}
    every = [feature for feature in compat.all_features() if feature.title not in slow]
    by_judge = [compat.judge(every, judge, dict) for judge in native.cases(Path(work)).values()]
    failed = [{feature.title for feature, row in zip(every, rows) if row.error} for rows in by_judge]
    found["no judge"] = sorted(set.intersection(*failed))
json.dump(found, open(output, "w"))
"""


@pytest.fixture(scope="module")
def by_value(variant_folder, tmp_path_factory):
    work = tmp_path_factory.mktemp("by-value")
    script = work / "by_value.py"
    script.write_text(_BY_VALUE)
    output = work / "found.json"
    assert kernels.run("5.23.0", script, variant_folder("fixed"), work, output).returncode == 0
    return json.loads(output.read_text())


@pytest.mark.kernel
def test_equality_is_of_bits(by_value):
    unequal = "UnexpectedError: it: not equal bit for bit, largest difference"
    assert by_value["equal"] == {
        "itself": "",
        "a unit": f"{unequal} 1.19e-07",
        "a unit of bfloat16": f"{unequal} 0.00781",
        "the sign of zero": f"{unequal} 0",
        "NaN": "",
        "NaN on one side": f"{unequal} nan",
        "a shape": "UnexpectedError: it: shape (1, 1), not (1,)",
        "a dtype": "UnexpectedError: it: torch.float64, not torch.float32",
        "a scalar": "",
        "another scalar": f"{unequal} 1.5",
        "strides": "",
        "a parameter": "",
        "integers": f"{unequal} 1",
        "booleans": "",
        "lists": "",
        "other lists": "UnexpectedError: it: [1] is not [1, 2]",
        "no tensor": "AttributeError: 'float' object has no attribute 'shape'",
    }


@pytest.mark.kernel
def test_closeness_is_bounded(by_value):
    nothing = by_value["close"].pop("nothing")
    assert nothing  # of no values at all nothing is shown
    assert by_value["close"] == {
        "within": "",
        "beyond": "UnexpectedError: it: differs by 0.375",
        "below": "UnexpectedError: it: differs by 1",
        "by default": "",
        "NaN": "UnexpectedError: it: differs by nan",
        "NaN on one side": "UnexpectedError: it: differs by nan",
        "infinity": "UnexpectedError: it: differs by inf",
        "a shape": "UnexpectedError: it: shape (2,), not (1,)",
        "a parameter": "",
    }
    assert by_value["default"] == ["", "UnexpectedError: it: differs by 0.00011"]
    assert by_value["expect"] == ["", "UnexpectedError: otherwise"] * 2


@pytest.mark.kernel
def test_native_models_are_the_judges_and_checks_do_not_disturb_one_another(by_value):
    """A check may do what it likes to the model, the disk and torch: the next one begins afresh."""
    assert by_value["judged"] == {
        "native_only": ["fails", "UnexpectedError: not for models with their own code"],
        **{name: ["ok", ""] for name in ("breaks", "unharmed", "littered", "tidy", "drawn")},
    }


@pytest.mark.kernel
def test_each_check_has_a_judge_that_can_pass_it(by_value):
    """Else a fault of the folder would be excused as the release's."""
    assert by_value["no judge"] == [OFFLOADED]
