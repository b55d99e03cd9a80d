"""The folder: what is written, linked, replaced or refused. The rewrites have tests of their own."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from opensci_lib.cli import main
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import all_rules, hotfix
from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rules import RULES
from opensci_lib.model_folder import check_model_folder
from tests.hotfix.folder import MODELING, make_folder

WEIGHTS = "model.safetensors"
#: Rules for tests that are not about rules: one for each kind of file.
FEW = ["auto-model", "model-input-names", "tied-keys"]
#: What `auto_map` names, with nothing in it that a rule knows.
CLASSES = "TinyPreTrainedModel = TinyForCausalLM = object"


@pytest.fixture
def source(tmp_path) -> Path:
    return make_folder(tmp_path / "tiny")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def others(source: Path) -> set[str]:
    """Return what lies beside the source; lock files may stay."""
    return {path.name for path in source.parent.iterdir() if not path.name.endswith(".lock")} - {source.name}


def check_refused(source: Path, *words: str, **options) -> None:
    before, beside = contents(source), others(source)
    with pytest.raises(OpensciError) as caught:
        hotfix(source, **options)
    assert all(word in caught.value.message for word in words), caught.value.message
    assert "\n" not in caught.value.message
    assert contents(source) == before
    assert others(source) == beside


def test_a_fixed_folder_appears_beside_the_source(source):
    before = contents(source)
    outcome = hotfix(source)
    fixed = Path(outcome.dst_dir)
    assert fixed == source.with_name("tiny_fixed")
    assert outcome.written
    assert contents(source) == before
    assert contents(fixed).keys() == before.keys() | {"hotfix.json"}
    assert set(outcome.applied) >= {
        "auto-model",
        "init-weights",
        "loss-kwargs",
        "rope-buffer",
        "rope-default",
        "tied-keys",
    }
    compile((fixed / "modeling_tiny.py").read_text(), "modeling", "exec")
    config = json.loads((fixed / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_tiny.TinyModel"
    assert list(config) == list(json.loads(before["config.json"]))
    assert others(source) == {"tiny_fixed"}


def test_the_name_beside_has_no_dots(source):
    """Python takes them for packages: processes that others spawn look for the first part on 4.48."""
    published = source.rename(source.with_name("sci-v0.01-1.7b"))
    assert Path(hotfix(published).dst_dir) == source.with_name("sci-v0_01-1_7b_fixed")


def test_changed_code_says_so_below_its_licence(source):
    fixed = Path(hotfix(source).dst_dir)
    first, *lines = (fixed / "modeling_tiny.py").read_text().splitlines()
    header = "\n".join(lines[: lines.index('"""A model in the style of transformers 4.48."""')])
    assert first == "# A licence."
    notice = rf"# Changed by opensci hotfix \d\S*, of sha256 {hashlib.sha256(MODELING.encode()).hexdigest()}\."
    assert re.fullmatch(notice, header)
    assert (fixed / "configuration_tiny.py").read_bytes() == (source / "configuration_tiny.py").read_bytes()


@pytest.fixture
def no_clones(monkeypatch):
    """A file system without reflinks, wherever the tests run."""

    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", refuse)


def test_weights_are_one_file_and_the_rest_are_copies(source, no_clones):
    fixed = Path(hotfix(source).dst_dir)
    assert (fixed / WEIGHTS).samefile(source / WEIGHTS)
    assert not (fixed / "tokenizer.json").samefile(source / "tokenizer.json")


def permissions(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_nobody_writes_into_weights_that_two_folders_share(source, no_clones):
    """Programs that replace a file may; those that write into it, as safetensors before 0.8, would change both."""
    (source / WEIGHTS).chmod(0o664)
    (source / "tokenizer.json").chmod(0o664)
    fixed = Path(hotfix(source).dst_dir)
    assert (fixed / WEIGHTS).stat().st_ino == (source / WEIGHTS).stat().st_ino
    assert permissions(source / WEIGHTS) == 0o444
    assert permissions(source / "tokenizer.json") == 0o664
    assert permissions(fixed / "tokenizer.json") & 0o200
    assert permissions(source) == permissions(fixed) == 0o755


def test_weights_are_cloned_where_the_file_system_can(source, monkeypatch):
    def clone(new, request, old):
        assert request == 0x40049409  # FICLONE
        new.write(os.pread(old, os.fstat(old).st_size, 0))

    monkeypatch.setattr(fcntl, "ioctl", clone)
    mode, before = (source / WEIGHTS).stat().st_mode, (source / WEIGHTS).read_bytes()
    outcome = hotfix(source)
    weights = Path(outcome.dst_dir) / WEIGHTS
    assert outcome.files["cloned"] == 1
    assert weights.read_bytes() == before
    weights.write_bytes(b"")
    assert (source / WEIGHTS).read_bytes() == before
    assert (source / WEIGHTS).stat().st_mode == mode


def test_the_fixed_folder_outlives_its_source(source):
    before = (source / WEIGHTS).read_bytes()
    fixed = Path(hotfix(source).dst_dir)
    shutil.rmtree(source)
    assert (fixed / WEIGHTS).read_bytes() == before
    assert check_model_folder(fixed)


def test_weights_are_copied_where_links_cannot_be(source, no_clones, monkeypatch):
    def no_link(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    outcome = hotfix(source)
    assert "linked" not in outcome.files
    assert (Path(outcome.dst_dir) / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()


def test_links_of_a_hub_cache_are_followed(source, no_clones, tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(source.iterdir()):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(blobs / str(number))
    fixed = Path(hotfix(snapshot, tmp_path / "fixed").dst_dir)
    assert not any(file.is_symlink() for file in fixed.iterdir())
    assert (fixed / WEIGHTS).samefile(snapshot / WEIGHTS)


def test_a_read_only_source_is_no_hindrance(source, tmp_path):
    for file in source.iterdir():
        file.chmod(0o444)
    source.chmod(0o555)
    fixed = Path(hotfix(source, tmp_path / "fixed").dst_dir)
    assert permissions(fixed) == 0o755
    for name in ("modeling_tiny.py", "configuration_tiny.py", "config.json", "tokenizer.json", "hotfix.json"):
        assert permissions(fixed / name) & 0o600 == 0o600, name


def test_hidden_files_folders_and_pickles_are_left_behind(source):
    (source / ".cache").mkdir()
    (source / ".hidden").touch()
    (source / "pytorch_model.bin").touch()
    assert contents(Path(hotfix(source).dst_dir)).keys().isdisjoint({".hidden", "pytorch_model.bin"})


def test_a_second_run_writes_nothing(source):
    fixed = Path(hotfix(source).dst_dir)
    before = {file.name: file.stat().st_mtime_ns for file in fixed.iterdir()}
    again = hotfix(source)
    assert not again.written
    assert again.diff
    assert before == {file.name: file.stat().st_mtime_ns for file in fixed.iterdir()}


def test_its_own_output_needs_nothing(source):
    fixed = Path(hotfix(source).dst_dir)
    before = contents(fixed)
    again = hotfix(fixed)
    assert (again.applied, again.dst_dir, again.written) == ({}, str(fixed), False)
    assert contents(fixed) == before
    assert others(source) == {"tiny_fixed"}


def test_what_save_pretrained_made_of_it_needs_nothing_and_gets_its_record_back(source):
    fixed = Path(hotfix(source).dst_dir)
    (fixed / "hotfix.json").unlink()
    (fixed / "modeling_tiny.py").write_text((fixed / "modeling_tiny.py").read_text())
    before = contents(fixed)
    assert hotfix(fixed, dry_run=True).applied == {}
    assert contents(fixed) == before
    result = invoke("--src_dir", fixed)
    assert (result.exit_code, result.output) == (0, f"{fixed}: needs nothing, it was fixed before\n")
    after = contents(fixed)
    assert json.loads(after.pop("hotfix.json"))["applied"] == {}
    assert after == before
    assert others(source) == {"tiny_fixed"}


def test_a_fine_tune_saved_on_5_gets_a_tokenizer_for_all(source):
    fixed = Path(hotfix(source).dst_dir)
    (fixed / "hotfix.json").unlink()
    settings = {"tokenizer_class": "TokenizersBackend", "model_input_names": ["input_ids", "attention_mask"]}
    (fixed / "tokenizer_config.json").write_text(json.dumps(settings))
    (fixed / "config.json").write_text(
        json.dumps({**json.loads((fixed / "config.json").read_text()), "tokenizer_class": "T"})
    )
    outcome = hotfix(fixed)
    assert outcome.applied == {"tokenizer-class": "tokenizer_config.json"}
    again = json.loads((Path(outcome.dst_dir) / "tokenizer_config.json").read_text())
    assert again == {**settings, "tokenizer_class": "PreTrainedTokenizerFast"}


def test_the_rest_of_the_rules_can_follow_later(source, tmp_path):
    minimal = Path(hotfix(source, tmp_path / "minimal", rules=["loss-kwargs", "tied-keys", "rope-default"]).dst_dir)
    assert "super()._init_weights" not in (minimal / "modeling_tiny.py").read_text()
    both = Path(hotfix(minimal, tmp_path / "both").dst_dir)
    at_once = Path(hotfix(source).dst_dir)

    def code(folder: Path) -> list[str]:
        return [line for line in (folder / "modeling_tiny.py").read_text().splitlines() if line[:1] != "#"]

    assert sorted(code(both)) == sorted(code(at_once))  # added methods may stand in another order


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


def other_weights(source: Path, keep_time: bool = False) -> None:
    """Put weights of the same size in the place of the source's."""
    before = (source / WEIGHTS).stat()
    new = source / "new"
    new.write_bytes((source / WEIGHTS).read_bytes()[:-8] + b"\x01" * 8)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns + (0 if keep_time else 1)))
    new.rename(source / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda source, fixed: append(source / "modeling_tiny.py", "NEW = 1\n"), "modeling_tiny.py"),
        (lambda source, fixed: append(source / "configuration_tiny.py", "NEW = 1\n"), "configuration_tiny.py"),
        (lambda source, fixed: append(source / "config.json", "\n"), "config.json"),
        (lambda source, fixed: append(source / "tokenizer.json", "\n"), "tokenizer.json"),
        (lambda source, fixed: append(source / "tokenizer_config.json", "\n"), "tokenizer_config.json"),
        (lambda source, fixed: other_weights(source), WEIGHTS),
        (lambda source, fixed: (source / "notes.txt").write_text("added"), "notes.txt"),
        (lambda source, fixed: (source / "generation_config.json").unlink(), "generation_config.json"),
        (lambda source, fixed: (fixed / "modeling_tiny.py").unlink(), "modeling_tiny.py"),
        (lambda source, fixed: (fixed / "config.json").unlink(), "config.json"),
        (lambda source, fixed: (fixed / "tokenizer_config.json").unlink(), "tokenizer_config.json"),
        (lambda source, fixed: (fixed / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda source, fixed: (fixed / WEIGHTS).unlink(), WEIGHTS),
    ],
)
def test_an_outdated_folder_is_made_again(source, tmp_path, change, expected):
    (source / "generation_config.json").write_text("{}")
    (source / "tokenizer_config.json").write_text("{}")
    fixed = Path(hotfix(source, rules=FEW).dst_dir)
    change(source, fixed)
    assert hotfix(source, rules=FEW).written
    at_once = Path(hotfix(source, tmp_path / "at_once", rules=FEW).dst_dir)
    assert contents(fixed) == contents(at_once)
    assert contents(fixed).keys() == contents(source).keys() | {"hotfix.json"}
    assert (expected in contents(fixed)) == (source / expected).exists()
    assert others(source) == {"tiny_fixed", "at_once"}


def test_other_rules_make_another_folder(source):
    hotfix(source, rules=FEW)
    outcome = hotfix(source, rules=["tied-keys"])
    assert outcome.written
    assert list(outcome.applied) == ["tied-keys"]


def test_weights_of_equal_size_and_time_are_taken_for_the_same(source):
    """To read them would take minutes at full size."""
    hotfix(source, rules=FEW)
    other_weights(source, keep_time=True)
    assert not hotfix(source, rules=FEW).written


def test_a_folder_is_made_again_where_the_rules_make_another_of_it(source, monkeypatch):
    hotfix(source, rules=FEW)
    rules = [
        replace(rule, edits=lambda sources: [Edit(0, 0, "# new\n")]) if rule.id == "tied-keys" else rule
        for rule in RULES
    ]
    monkeypatch.setattr("opensci_lib.hotfix.rewriting.RULES", rules)
    assert [hotfix(source, rules=FEW).written for _ in range(2)] == [True, False]


def test_the_record_tells_of_contents_alone(source, tmp_path, monkeypatch):
    """A version whose rules make the same of the folder leaves it; with another notice in the code it is another."""
    json_only = ["auto-model"]
    fixed = Path(hotfix(source, rules=json_only).dst_dir)
    code = Path(hotfix(source, tmp_path / "code", rules=FEW).dst_dir)
    before = contents(fixed)
    assert json.loads(before["hotfix.json"]).keys() == {"tool", "rules", "sources", "applied", "changed"}
    for module in ("opensci_lib.hotfix", "opensci_lib.hotfix.rewriting"):
        monkeypatch.setattr(f"{module}.version", lambda _: "9.9")
    assert not hotfix(source, rules=json_only).written
    assert contents(fixed) == before
    assert hotfix(source, code, rules=FEW).written


def code_of(source: Path, text: str) -> str:
    (source / "modeling_tiny.py").write_bytes(text.encode())
    return (Path(hotfix(source).dst_dir) / "modeling_tiny.py").read_bytes().decode()


def lines_of(text: str) -> list[str]:
    """Return a file's lines without the notice of change, which names the digest of its source."""
    return [line for line in text.splitlines() if not line.startswith("# Changed by")]


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (lambda text: text.replace("\n", "\r\n"), lambda text: text.replace("\r\n", "\n")),
        (lambda text: "\ufeff" + text, lambda text: text.removeprefix("\ufeff")),
        (lambda text: text.replace("    ", "\t"), lambda text: text.replace("\t", "    ")),
        (lambda text: text.removesuffix("\n"), lambda text: text + "\n"),
    ],
)
def test_the_looks_of_a_file_stay(source, tmp_path, there, back):
    plain = code_of(make_folder(tmp_path / "plain" / "tiny"), MODELING)
    looks = code_of(source, there(MODELING))
    assert lines_of(back(looks)) == lines_of(plain)
    assert looks == there(back(looks))


def test_code_is_laid_out_as_a_linter_wants_it(source):
    """What the source keeps to, its rewriting keeps to; and no line gets longer than 119 characters."""
    names = ["modeling_tiny.py", "configuration_tiny.py"]
    fixed = Path(hotfix(source).dst_dir)
    for command in (["check", "--select=E402,E5,I,W"], ["format", "--check"]):
        options = [*command, "--no-cache", "--isolated", "--line-length=119"]
        for file in [folder / name for folder in (source, fixed) for name in names]:
            ran = subprocess.run(
                [sys.executable, "-m", "ruff", *options, file], capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, ran.stdout + ran.stderr


def test_settings_keep_their_layout(source):
    text = json.dumps({**json.loads((source / "config.json").read_text()), "tiny": 1e-5}, indent=3)
    text = text.replace("1e-05", "1.0E-5").replace("\n}", "\n  }")
    (source / "config.json").write_text(text)
    diff = hotfix(source, rules=["auto-model"], dry_run=True).diff.splitlines()
    assert [line for line in diff[2:] if line[0] in "-+"] == [
        '-      "AutoModel": "modeling_tiny.TinyPreTrainedModel",',
        '+      "AutoModel": "modeling_tiny.TinyModel",',
    ]


@pytest.mark.parametrize(
    "nested",
    [
        "x = " + "(" * 3000 + ")" * 3000,
        "x = a" + ".b" * 20_000,
        "x = " + "+".join(["1"] * 20_000),
        "x = " + "-" * 50_000 + "1",
        "x = '\0'",
    ],
    ids=["parentheses", "attributes", "sum", "signs", "zero"],
)
def test_code_that_cannot_be_parsed_is_refused_in_a_sentence(source, nested):
    replace_code(source, f"{MODELING}\n{nested}\n")
    check_refused(source, "modeling_tiny.py", "download the model again")


def with_edits(monkeypatch, *edits: Edit) -> None:
    """Let the first rules for code ask for these edits alone."""
    rules = [rule for rule in RULES if rule.target == "modeling" and rule.after]
    changed = [replace(rule, edits=lambda _, edit=edit: [edit]) for rule, edit in zip(rules, edits, strict=False)]
    monkeypatch.setattr("opensci_lib.hotfix.rewriting.RULES", changed)


def test_a_rule_that_would_leave_no_python_is_named(source, monkeypatch):
    with_edits(monkeypatch, Edit(0, 0, "("))
    check_refused(source, "modeling_tiny.py", "attention-switch", "--rules")


def test_rules_that_would_change_more_than_they_say_are_named(source, monkeypatch):
    """Each inserts three quotes: together they turn the code between them into a string."""
    start = MODELING.index("class TinyPreTrainedModel")
    end = MODELING.index("    def _init_weights")
    with_edits(monkeypatch, Edit(start, start, 'class TinyPreTrainedModel:\n    """'), Edit(end, end, '    """\n'))
    line = MODELING.count("\n", 0, start) + 1
    check_refused(source, f"modeling_tiny.py, line {line}, would change", "attention-switch, cache-length", "--rules")


def test_rules_for_one_place_are_named(source, monkeypatch):
    with_edits(monkeypatch, Edit(0, 3, ""), Edit(2, 4, ""))
    check_refused(source, "Rules attention-switch and cache-length", "modeling_tiny.py (line 1)")


def test_a_destination_of_others_is_refused(source, tmp_path):
    (tmp_path / "tiny_fixed").mkdir()
    (tmp_path / "tiny_fixed" / "thesis.tex").touch()
    check_refused(source, "tiny_fixed", "not a folder that this tool made")


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "modeling_tiny.py",
        "configuration_tiny.py",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        WEIGHTS,
    ],
)
def test_what_others_wrote_into_the_destination_is_not_lost(source, name):
    (source / "tokenizer_config.json").write_text("{}")
    fixed = Path(hotfix(source, rules=FEW).dst_dir)
    (fixed / name).unlink(missing_ok=True)
    (fixed / name).write_text("mine")
    with pytest.raises(OpensciError) as caught:
        hotfix(source, rules=FEW)
    assert caught.value.message == (
        f"{fixed} holds {name}, which this tool did not write: move the folder, or set --dst_dir."
    )
    assert (fixed / name).read_text() == "mine"


def test_all_that_others_wrote_is_named(source):
    fixed = Path(hotfix(source).dst_dir)
    for name in ("notes.txt", "config.json"):
        (fixed / name).write_text("mine")
    check_refused(source, "holds config.json, notes.txt, which")


@pytest.mark.parametrize("inside", [".", "fixed", "a/b"])
def test_a_destination_in_the_source_is_refused(source, inside):
    check_refused(source, "choose another", dst_dir=source / inside)


def test_a_failing_rule_leaves_nothing(source):
    code = MODELING.replace('["lm_head.weight"]', "KEYS")
    (source / "modeling_tiny.py").write_text(code)
    line = code.splitlines().index("    _tied_weights_keys = KEYS") + 1
    check_refused(source, "tied-keys", "modeling_tiny.py", f"line {line}")


def test_the_line_is_the_sources_even_after_other_rules(source):
    """`lost-buffers` follows rules that lengthen the file."""
    code = MODELING.replace('"inv_freq", inv_freq', '"inv_freq", inv_freq.float()').replace(
        '        self.rope_type = "default"\n', '        self.rope_type = "default"\n        device = None\n'
    )
    (source / "modeling_tiny.py").write_text(code)
    line = next(i for i, text in enumerate(code.splitlines(), 1) if "device = None" in text and "def" not in text)
    check_refused(source, "lost-buffers", f"line {line}:")


def test_a_full_disk_leaves_nothing(source, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        hotfix(source)
    assert others(source) == set()


def replace_code(source: Path, text: str) -> None:
    (source / "modeling_tiny.py").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda source: replace_code(source, CLASSES), ["No rule recognises"]),
        (lambda source: replace_code(source, ""), ["modeling_tiny.py has no class TinyPreTrainedModel"]),
        (lambda source: replace_code(source, "class TinyForCausalLM: ..."), ["has no class TinyPreTrainedModel"]),
        (lambda source: replace_code(source, "\n\ndef f(:\n"), ["modeling_tiny.py", "line 3"]),
        (lambda source: (source / "modeling_tiny.py").unlink(), ["no modeling_tiny.py"]),
        (lambda source: (source / "config.json").unlink(), ["no model folder", "config.json"]),
        (lambda source: (source / "config.json").write_text('{"a": 1,\n}'), ["config.json", "line"]),
        (lambda source: (source / "config.json").write_text('{"model_type": "llama"}'), ["auto_map"]),
        (lambda source: (source / "config.json").write_text("[]"), ["config.json"]),
        (lambda source: os.truncate(source / WEIGHTS, 40), [WEIGHTS, "cut off"]),
        (lambda source: os.truncate(source / WEIGHTS, (source / WEIGHTS).stat().st_size - 1), [WEIGHTS, "cut off"]),
        (lambda source: os.truncate(source / WEIGHTS, 0), [WEIGHTS, "cut off"]),
        (lambda source: (source / WEIGHTS).unlink(), ["model.safetensors is missing"]),
        (lambda source: (source / "tokenizer.json").unlink(), ["no tokenizer"]),
        (
            lambda source: (source / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": WEIGHTS, "b": "model-00002.safetensors"}})
            ),
            ["model-00002.safetensors is missing"],
        ),
    ],
)
def test_bad_input_is_one_sentence(source, spoil, words):
    spoil(source)
    check_refused(source, *words)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(OpensciError, match="not a folder"):
        hotfix(tmp_path / "nowhere")


def test_an_unknown_rule_is_answered_with_the_known(source):
    check_refused(source, "no-such-rule", *(rule.id for rule in all_rules()), rules=["tied-keys", "no-such-rule"])


def invoke(*arguments: object):
    return CliRunner().invoke(main, ["hotfix", *map(str, arguments)])


def test_diff_prints_a_patch_and_writes_nothing(source):
    result = invoke("--src_dir", source, "--diff")
    assert result.exit_code == 0
    assert result.stdout.startswith("--- a/")
    assert '\n-    _tied_weights_keys = ["lm_head.weight"]\n+    _tied_weights_keys = {' in result.stdout
    assert others(source) == set()


def test_check_tells_by_its_exit_status(source):
    assert invoke("--src_dir", source, "--check").exit_code == 1
    assert others(source) == set()
    fixed = hotfix(source).dst_dir
    assert invoke("--src_dir", fixed, "--check").exit_code == 0


def test_rules_are_chosen_with_commas(source):
    result = invoke("--src_dir", source, "--rules", "tied-keys, loss-kwargs", "--diff")
    assert "lm_head" in result.stdout
    assert "compute_default_rope_parameters" not in result.stdout


@pytest.mark.parametrize(
    ("options", "applied", "recorded"),
    [
        (["--since", "5.4"], {"auto-model", "rope-default", "tied-keys"}, "5.4 and later"),
        (["--only", "4.57, 5.3.0"], {"auto-model", "rope-default", "tied-keys", "tied-weights"}, "4.57, 5.3.0"),
        (["--only", "4.52"], {"auto-model", "save-code"}, "4.52"),
        (["--only", "4.52", "--rules", "auto-model,rope-default"], {"auto-model"}, "4.52"),
    ],
)
def test_rules_are_chosen_by_the_releases_that_need_them(source, options, applied, recorded):
    result = invoke("--src_dir", source, *options)
    assert result.exit_code == 0, result.output
    record = json.loads((source.with_name("tiny_fixed") / "hotfix.json").read_text())
    some = {"auto-model", "rope-default", "save-code", "tied-keys", "tied-weights"}
    assert some & record["applied"].keys() == applied
    assert record["releases"] == recorded


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"since": "5"}, "'5' is no release of transformers: give one such as 4.57 or 5.2.0."),
        ({"only": ["5.2", "x"]}, "'x' is no release of transformers: give one such as 4.57 or 5.2.0."),
        ({"since": "5.2", "only": ["5.3"]}, "--since and --only exclude one another: give one of them."),
    ],
)
def test_odd_releases_are_refused(source, options, sentence):
    check_refused(source, sentence, **options)


def test_list_says_what_each_rule_is_for():
    result = invoke("--list")
    assert result.exit_code == 0
    for rule in all_rules():
        assert rule.id in result.stdout
        assert rule.cause in result.stdout
        assert all(name in result.stdout for name in rule.trf)


def test_an_error_is_a_sentence_on_the_command_line(tmp_path):
    result = invoke("--src_dir", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")


@pytest.mark.parametrize("left_out", sorted(rule.id for rule in RULES))
def test_any_rule_may_be_left_out(source, left_out):
    """What the others make of the folder is Python still, and needs nothing more from them."""
    others = [rule.id for rule in RULES if rule.id != left_out]
    fixed = Path(hotfix(source, rules=others).dst_dir)
    compile((fixed / "modeling_tiny.py").read_text(), "modeling", "exec")
    assert hotfix(fixed, rules=others).applied == {}


def test_the_librarys_weights_come_first(source):
    lines = (Path(hotfix(source).dst_dir) / "modeling_tiny.py").read_text().splitlines()
    start = lines.index("    def _init_weights(self, module):")
    assert [line.partition("#")[0].strip() for line in lines[start + 1 : start + 5]] == [
        "super()._init_weights(module)",
        'if hasattr(module, "original_inv_freq"):',
        "module.original_inv_freq = module.inv_freq",
        "if isinstance(module, nn.Linear):",
    ]


def test_model_and_configuration_may_share_a_file(source):
    config = json.loads((source / "config.json").read_text())
    config["auto_map"]["AutoConfig"] = "modeling_tiny.TinyConfig"
    (source / "config.json").write_text(json.dumps(config))
    replace_code(
        source,
        MODELING.replace("from .configuration_tiny import TinyConfig\n", "")
        + "\n\nclass TinyConfig(PretrainedConfig):\n"
        "    def __init__(self, tie_word_embeddings=False, **kwargs):\n"
        "        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)\n",
    )
    code = (Path(hotfix(source).dst_dir) / "modeling_tiny.py").read_text()
    assert "self.tie_word_embeddings = tie_word_embeddings\n" in code
    assert "def compute_default_rope_parameters" in code


def in_two_files(source: Path) -> None:
    """Move the rotary embedding to a file of its own."""
    start, stop = MODELING.index("class TinyRotaryEmbedding"), MODELING.index("class TinyPreTrainedModel")
    head = MODELING[: MODELING.index("\n\nclass TinyRotaryEmbedding")]
    (source / "rotary_tiny.py").write_text(f"{head}\n\n{MODELING[start:stop]}".replace("LossKwargs, ", ""))
    replace_code(
        source,
        (MODELING[:start] + MODELING[stop:]).replace(
            "import TinyConfig\n", "import TinyConfig\nfrom .rotary_tiny import TinyRotaryEmbedding\n", 1
        ),
    )


def test_every_file_that_is_imported_is_rewritten(source):
    in_two_files(source)
    outcome = hotfix(source, rules=["rope-default", "loss-kwargs", "tied-keys"])
    assert outcome.applied["rope-default"] == "rotary_tiny.py"
    assert outcome.applied["loss-kwargs"] == "modeling_tiny.py"
    fixed = Path(outcome.dst_dir)
    assert "TransformersKwargs" in (fixed / "modeling_tiny.py").read_text()
    assert "compute_default_rope_parameters" in (fixed / "rotary_tiny.py").read_text()
    assert json.loads((fixed / "hotfix.json").read_text())["changed"].keys() == {"modeling_tiny.py", "rotary_tiny.py"}


def test_an_imported_file_must_be_there(source):
    in_two_files(source)
    (source / "rotary_tiny.py").unlink()
    check_refused(source, "no rotary_tiny.py")


REFUSED = """

class Prefix(DynamicCache):
    def __init__(self, prefix):
        self.key_cache = prefix
"""


@pytest.mark.parametrize("rules", [None, ["tied-keys"]])
def test_what_would_be_silently_wrong_is_refused_with_its_line(source, rules):
    replace_code(source, MODELING.replace("from torch import nn\n", "from torch import nn\n"
                 "from transformers import DynamicCache\n") + REFUSED)  # fmt: skip
    line = (source / "modeling_tiny.py").read_text().splitlines().index("        self.key_cache = prefix") + 1
    check_refused(source, "cache-internals", f"line {line}", "--force", rules=rules)
    outcome = hotfix(source, rules=rules, force=True)
    [forced] = json.loads((Path(outcome.dst_dir) / "hotfix.json").read_text())["forced"]
    assert f"cache-internals refuses {source}/modeling_tiny.py, line {line}: " in forced


def test_force_changes_nothing_where_nothing_is_refused(source):
    fixed = Path(hotfix(source, force=True).dst_dir)
    assert "forced" not in json.loads((fixed / "hotfix.json").read_text())
    assert not hotfix(source).written


# Code that is elsewhere


def without_code(source: Path) -> Path:
    """Return a copy of a folder without its modelling file, as a merge leaves it."""
    merged = source.with_name("merged")
    shutil.copytree(source, merged)
    (merged / "modeling_tiny.py").unlink()
    return merged


def test_a_merge_is_completed_with_the_code_of_another_folder(source):
    merged = without_code(source)
    check_refused(merged, "modeling_tiny.py", "--code_from")
    before = contents(merged)
    outcome = hotfix(merged, code_from=str(source))
    fixed = Path(outcome.dst_dir)
    assert (fixed, outcome.src_dir) == (merged.with_name("merged_fixed"), str(merged))
    same = Path(hotfix(source).dst_dir)
    assert contents(fixed).keys() == contents(same).keys()
    assert all(contents(fixed)[name] == contents(same)[name] for name in contents(same) if name != "hotfix.json")
    assert json.loads((fixed / "hotfix.json").read_text())["code"] == {str(source): None}
    assert contents(merged) == before
    assert not hotfix(merged, code_from=str(source)).written
    assert others(merged) == {"merged_fixed", "tiny", "tiny_fixed"}


def naming_the_hub(source: Path) -> None:
    config = (source / "config.json").read_text()
    for name in ("configuration_tiny", "modeling_tiny"):
        config = config.replace(f'"{name}.', f'"org/base--{name}.')
    (source / "config.json").write_text(config)


def test_code_beside_the_weights_is_taken_instead_of_the_hub_s(source):
    expected = contents(Path(hotfix(source, source.with_name("expected")).dst_dir))
    naming_the_hub(source)
    fixed = contents(Path(hotfix(source).dst_dir))
    assert fixed["config.json"] == expected["config.json"]
    assert fixed["modeling_tiny.py"] == expected["modeling_tiny.py"]


def test_code_of_the_hub_that_is_not_here_is_asked_for(source):
    naming_the_hub(source)
    for name in ("configuration_tiny.py", "modeling_tiny.py"):
        (source / name).rename(source.with_name(name))
    check_refused(source, "org/base", "configuration_tiny.py and modeling_tiny.py", "--code_from org/base")
    outcome = hotfix(source, code_from=str(source.parent))
    assert "org/base" not in (Path(outcome.dst_dir) / "config.json").read_text()
