"""Fixed folders on their way to a Hub on loopback, by the real client: what arrives there, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import HfApi
from safetensors.numpy import load_file

from opensci_lib import kernels
from opensci_lib.cli import main
from opensci_lib.download import download
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import hotfix
from opensci_lib.model_folder import code_digest
from opensci_lib.publish import prepare, send
from tests.hotfix.folder import make_folder
from tests.hub import READER, WRITER, Hub, serve, taken_for_the_real_one

MAIN, STEP = "a" * 40, "b" * 40
TITLE = "Load and compute the same on later releases of transformers"
CARD = """\
---
license: apache-2.0
language: en
---
# Tiny

A model of eight bytes.
"""
CHANGED = {"config.json", "modeling_tiny.py"}
PROVEN = {"releases": ["4.48.0", "4.57.6", "5.23.0"]}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with a model on two branches, whose weights differ, and its papers."""
    folder = make_folder(tmp_path / "there" / "main")
    (folder / "README.md").write_text(CARD)
    (folder / "LICENSE").write_text("the licence")
    step = shutil.copytree(folder, tmp_path / "there" / "step")
    weights = (step / "model.safetensors").read_bytes()
    (step / "model.safetensors").write_bytes(weights[:-1] + b"\1")
    hub = Hub(folder, "org/name", {"main": MAIN, "iter_0002000": STEP})
    hub.folders = {MAIN: folder, STEP: step}
    with serve(hub) as address:
        hub.environment = taken_for_the_real_one(address, tmp_path / "hf", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", READER)
        yield hub


def fixed_folder(tmp_path: Path, revision: str | None = None, proven: bool = True) -> Path:
    """Return what download and hotfix make of the model, with the record of a proof."""
    model = download("org/name", revision, tmp_path / f"model_{revision}").path
    fixed = Path(hotfix(model).dst_dir)
    if proven:
        record = json.loads((fixed / "hotfix.json").read_text())
        (fixed / "hotfix.json").write_text(json.dumps(record | {"proven": PROVEN | {"digest": code_digest(fixed)}}))
    return fixed


@pytest.fixture
def fixed(hub, tmp_path) -> Path:
    return fixed_folder(tmp_path)


def held(hub: Hub, revision: str) -> dict[str, bytes]:
    """Return the files of a revision."""
    return {file.name: file.read_bytes() for file in hub.files(hub.commits[revision]).iterdir()}


def refused(call, *arguments, **options) -> str:
    with pytest.raises(OpensciError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def opensci_publish(*arguments: object, answer: str | None = None):
    return CliRunner().invoke(main, ["publish", *map(str, arguments)], input=answer)


def posted(hub: Hub) -> list[str]:
    """Return the requests that may change something."""
    return [path.partition("?")[0] for command, path in hub.requests if command not in ("GET", "HEAD")]


# ---------------------------------------------------------------- pull requests


def test_a_pull_request_brings_what_changed_and_nothing_else(hub, fixed):
    before = held(hub, "main")
    sent = send(prepare(fixed))
    assert sent.outcome == f"open: {hub.environment['HF_ENDPOINT']}/org/name/discussions/1"
    arrived = held(hub, "refs/pr/1")
    assert arrived.keys() == before.keys()
    assert {name for name in arrived if arrived[name] != before[name]} == CHANGED
    assert all(arrived[name] == (fixed / name).read_bytes() for name in CHANGED)
    header = hub.messages[hub.commits["refs/pr/1"]]
    assert header["parentCommit"] == MAIN
    assert set(header["files"]) == CHANGED
    assert held(hub, "main") == before
    assert [pull["title"] for pull in hub.pulls] == [TITLE]


def test_what_arrives_needs_no_hotfix(hub, fixed, tmp_path):
    send(prepare(fixed))
    there = download("org/name", "refs/pr/1", tmp_path / "arrived")
    assert (Path(there.path) / "modeling_tiny.py").read_bytes() == (fixed / "modeling_tiny.py").read_bytes()
    assert hotfix(there.path).applied == {}


def test_the_description_says_what_breaks_what_was_proven_and_how_to_try_it(hub, fixed):
    send(prepare(fixed))
    text = hub.pulls[0]["description"]
    assert text.startswith(
        "This model's code was written for one snapshot of `transformers`. With this change it loads on all from "
        "4.48 to 5.23 and gives the same logits, bit for bit. "
    )
    assert (
        '- **5.0 and later**: ROPE_INIT_FUNCTIONS lost its entry "default" in 5.0, so building the model raises a '
        "KeyError. (`rope-default`)\n"
    ) in text
    assert "(`tied-keys`)" in text
    assert "(`return-dict`)" not in text  # nothing of it in this file
    assert "| 4.48.0, 4.57.6 | equal, bit for bit |\n| 5.23.0 | equal, bit for bit |\n" in text
    assert f"`{code_digest(fixed)}`" in text
    assert "opensci download org/name --local_dir model\n" in text
    assert 'from_pretrained("org/name", revision="refs/pr/N", trust_remote_code=True)' in text
    assert "section 4(b) of the Apache License 2.0" in text
    assert "not proven" not in text


def test_a_branch_gets_a_pull_request_of_its_own(hub, fixed, tmp_path):
    other = fixed_folder(tmp_path, "iter_0002000")
    first, second = send(prepare(fixed)), send(prepare(other))
    assert [first.revision, second.revision] == ["main", "iter_0002000"]
    assert [pull["title"] for pull in hub.pulls] == [TITLE, f"{TITLE} (iter_0002000)"]
    header = hub.messages[hub.commits["refs/pr/2"]]
    assert (header["parentCommit"], header["onto"]) == (STEP, "iter_0002000")
    assert "opensci download org/name --revision iter_0002000 --local_dir model\n" in header["description"]
    assert held(hub, "refs/pr/2")["model.safetensors"] == held(hub, "iter_0002000")["model.safetensors"]


@pytest.mark.parametrize("status", ["open", "merged", "closed", "draft"])
def test_nobody_is_asked_twice(hub, fixed, status):
    send(prepare(fixed))
    hub.pulls[0]["status"] = status
    again = send(prepare(fixed))
    assert again.outcome == f"{status}: {hub.environment['HF_ENDPOINT']}/org/name/discussions/1"
    assert len(hub.pulls) == 1


def test_a_request_of_another_title_is_another_s(hub, fixed):
    hub.pulls.append({"title": "Fix a typo", "description": "", "status": "open"})
    assert prepare(fixed).outcome == ""


def test_what_the_branch_holds_already_is_up_to_date(hub, fixed):
    send(prepare(fixed))
    hub.commits["main"] = hub.commits["refs/pr/1"]
    hub.pulls.clear()
    assert prepare(fixed).outcome == "up to date: main holds these files already"


@pytest.mark.parametrize("name", ["modeling_tiny.py", "config.json", "tokenizer.json", "model.safetensors"])
def test_a_repository_that_moved_on_is_refused(hub, fixed, tmp_path, name):
    there = shutil.copytree(hub.folder, tmp_path / "there" / "later")
    content = (there / name).read_bytes()
    (there / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    hub.commits["main"], hub.folders["c" * 40] = "c" * 40, there
    assert refused(prepare, fixed) == (
        f"{name} of org/name at {'c' * 40} is not the one that {fixed} was made of: "
        "download the model and fix it again."
    )


def test_a_card_that_was_edited_meanwhile_is_no_hindrance(hub, fixed, tmp_path):
    there = shutil.copytree(hub.folder, tmp_path / "there" / "later")
    (there / "README.md").write_text("new")
    hub.commits["main"], hub.folders["c" * 40] = "c" * 40, there
    send(prepare(fixed))
    assert held(hub, "refs/pr/1")["README.md"] == b"new"


def test_weights_of_another_branch_are_refused(hub, fixed):
    assert refused(prepare, fixed, revision="iter_0002000").startswith("model.safetensors of org/name at bbbb")


_LOGITS = """
import sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
with torch.no_grad():
    save_file({"logits": model(torch.arange(300)[None]).logits}, sys.argv[2])
"""


def test_what_arrives_computes_the_same_on_the_oldest_and_the_newest_release(miniature, hub, tmp_path):
    """A pull request to the built-in model, fetched as anyone would who tries it."""
    shutil.rmtree(hub.folder)
    shutil.copytree(miniature, hub.folder)
    (hub.folder / "download.json").unlink()
    send(prepare(fixed_folder(tmp_path)))
    there = download("org/name", "refs/pr/1", tmp_path / "arrived").path

    def logits(release: str, folder: Path | str):
        output = tmp_path / "logits.safetensors"
        assert kernels.run(release, "-c", _LOGITS, folder, output).returncode == 0
        return load_file(output)["logits"]

    reference = logits("4.48.0", miniature)
    assert reference.std() > 1
    for release in ("4.48.0", "5.23.0"):
        assert (logits(release, there) == reference).all()


# ---------------------------------------------------------------- branches


def test_a_branch_is_made_of_the_commit(hub, fixed, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    parcel = prepare(fixed, branch="fixed")
    assert 'revision="fixed"' in parcel.description
    sent = send(parcel)
    commit = hub.commits["fixed"]
    assert sent.outcome == f"sent: {hub.environment['HF_ENDPOINT']}/org/name/commit/{commit}"
    assert hub.messages[commit]["parentCommit"] == MAIN
    assert {name for name, content in held(hub, "fixed").items() if content != held(hub, "main")[name]} == CHANGED
    assert hub.pulls == []
    assert prepare(fixed, branch="fixed").outcome == "up to date: fixed holds these files already"


def test_a_branch_that_moves_meanwhile_gets_nothing(hub, fixed, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    parcel = prepare(fixed, branch="main")
    hub.commits["main"] = STEP
    assert refused(send, parcel) == "org/name changed meanwhile, and nothing was sent: run the command again."
    assert hub.commits["main"] == STEP


def test_who_may_not_write_is_told_so(hub, fixed):
    assert refused(send, prepare(fixed, branch="fixed")) == (
        "This token may not do that at org/name: give one that may, or ask its owners."
    )
    assert "fixed" not in hub.commits
    hub.failures["/commit/main"] = (403, "Discussions are disabled")
    assert refused(send, prepare(fixed)) == (
        "This token may not do that at org/name (Discussions are disabled): give one that may, or ask its owners."
    )


# ---------------------------------------------------------------- mirrors


def test_a_mirror_is_the_whole_folder_with_a_card(hub, fixed, tmp_path):
    sent = send(prepare(fixed, "me/copy", mirror=True))
    made = hub.created["me/copy"]
    assert sent.outcome == f"sent: {hub.environment['HF_ENDPOINT']}/me/copy/commit/{made.commits['main']}"
    arrived = held(made, "main")
    own = {file.name: file.read_bytes() for file in fixed.iterdir()}
    assert arrived.keys() == own.keys() | {"README.md", "LICENSE", ".gitattributes"}
    assert all(arrived[name] == content for name, content in own.items())
    assert arrived["LICENSE"] == b"the licence"
    assert made.messages[made.commits["main"]]["summary"] == "Mirror org/name, fixed"
    model = download("me/copy", None, tmp_path / "mirror")
    assert hotfix(model.path).applied == {}


def test_the_card_names_source_commit_licence_and_changes_and_keeps_the_source_s_own(hub, fixed):
    send(prepare(fixed, "me/copy", mirror=True))
    card = held(hub.created["me/copy"], "main")["README.md"].decode()
    assert card.startswith("---\nlicense: apache-2.0\nlanguage: en\nbase_model: org/name\n---\n\n# copy\n")
    assert f"A mirror of [org/name](https://huggingface.co/org/name) at commit `{MAIN}`, with its code fixed." in card
    assert "Licence: apache-2.0.\n" in card
    assert "(`rope-default`)" in card
    assert "| 5.23.0 | equal, bit for bit |\n" in card
    assert 'from_pretrained("me/copy", trust_remote_code=True)' in card
    assert card.endswith("## The source's own card\n\n# Tiny\n\nA model of eight bytes.\n")


def test_a_source_without_a_card_gets_one(hub, tmp_path):
    (hub.folder / "README.md").unlink()
    card = prepare(fixed_folder(tmp_path), "me/copy", mirror=True).description
    assert card.startswith("---\nbase_model: org/name\n---\n")
    assert "Licence: as the source's.\n" in card
    assert card.endswith("## The source's own card\n\nIt has none.\n")


def test_weights_are_not_sent_twice(hub, fixed):
    """The connection is lost after the weights arrived, and before anything is to be seen of them."""
    hub.failures["/commit/main"] = None
    sentence = "The connection to the Hub was lost at me/copy: run the command again, it goes on where it stopped."
    assert refused(send, prepare(fixed, "me/copy", mirror=True)) == sentence
    made, weights = hub.created["me/copy"], (fixed / "model.safetensors").stat().st_size
    assert held(made, "main").keys() == {".gitattributes"}
    assert [transfer for transfer in hub.transfers if transfer[0] == "PUT"] == [("PUT", None, weights)]
    hub.failures.clear()
    send(prepare(fixed, "me/copy", mirror=True))
    assert held(made, "main")["model.safetensors"] == (fixed / "model.safetensors").read_bytes()
    assert len([transfer for transfer in hub.transfers if transfer[0] == "PUT"]) == 1
    again = prepare(fixed, "me/copy", mirror=True)
    assert again.outcome == "up to date: the mirror holds these files already"


def test_weights_that_are_cut_off_are_sent_again(hub, fixed, monkeypatch):
    parcel = prepare(fixed, "me/copy", mirror=True)
    hub.failures["/lfs/"] = None
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits before it tries again
    assert "The connection to the Hub was lost at me/copy" in refused(send, parcel)
    assert held(hub.created["me/copy"], "main").keys() == {".gitattributes"}
    hub.failures.clear()
    send(prepare(fixed, "me/copy", mirror=True))
    assert held(hub.created["me/copy"], "main")["model.safetensors"] == (fixed / "model.safetensors").read_bytes()


def test_a_mirror_is_brought_up_to_date(hub, fixed):
    send(prepare(fixed, "me/copy", mirror=True))
    record = json.loads((fixed / "hotfix.json").read_text())
    record["proven"]["releases"].append("5.24.0")
    (fixed / "hotfix.json").write_text(json.dumps(record))
    assert send(prepare(fixed, "me/copy", mirror=True)).outcome.startswith("sent: ")
    made = hub.created["me/copy"]
    assert b"| 5.23.0, 5.24.0 |" in held(made, "main")["README.md"]
    assert set(made.messages[made.commits["main"]]["files"]) == {"README.md", "hotfix.json"}


def test_another_s_repository_is_no_place_for_a_mirror(hub, fixed):
    HfApi().create_repo("me/other")
    made = hub.created["me/other"]
    (made.folder / "README.md").write_text("my thesis")
    assert refused(prepare, fixed, "me/other", mirror=True) == (
        "me/other exists and is no mirror of org/name: choose another --repo_id."
    )
    yours = "A mirror of org/name is a repository of your own: give its --repo_id."
    assert refused(prepare, fixed, mirror=True) == refused(prepare, fixed, "org/name", mirror=True) == yours


# ---------------------------------------------------------------- refusals


def test_a_folder_that_is_not_proven_is_refused_or_says_so(hub, tmp_path):
    fixed = fixed_folder(tmp_path, proven=False)
    assert refused(prepare, fixed) == f"{fixed} is not proven: run `opensci prove` on it, or say --unproven."
    text = prepare(fixed, unproven=True).description
    assert "It is **not proven**: nobody has compared" in text
    assert "bit for bit" not in text


def test_the_proof_of_other_code_is_none(hub, fixed):
    record = json.loads((fixed / "hotfix.json").read_text())
    record["proven"]["digest"] = "0" * 64
    (fixed / "hotfix.json").write_text(json.dumps(record))
    assert "is not proven" in refused(prepare, fixed)


def test_a_folder_that_was_edited_is_refused(hub, fixed):
    with (fixed / "modeling_tiny.py").open("a") as code:
        code.write("# mine\n")
    assert refused(prepare, fixed) == f"{fixed} is not as the hotfix left it (modeling_tiny.py): make it again."
    (fixed / "notes.txt").touch()
    (fixed / "modeling_tiny.py").write_bytes((hub.folder / "modeling_tiny.py").read_bytes())
    expected = f"{fixed} is not as the hotfix left it (modeling_tiny.py, notes.txt): make it again."
    assert refused(prepare, fixed) == expected


def test_a_folder_that_lacks_a_file_is_refused(hub, tmp_path):
    (hub.folder / "generation_config.json").write_text("{}")
    fixed = fixed_folder(tmp_path)
    (fixed / "generation_config.json").unlink()
    assert refused(prepare, fixed) == f"{fixed} is not as the hotfix left it (generation_config.json): make it again."


def test_a_pull_request_is_opened_on_a_branch(hub, tmp_path):
    fixed = fixed_folder(tmp_path, STEP)
    assert refused(prepare, fixed) == (
        f"{STEP} is a commit, and a pull request is opened on a branch: give it as --revision."
    )
    assert send(prepare(fixed, revision="iter_0002000")).outcome.startswith("open: ")


def test_a_card_that_the_hub_does_not_take_is_a_sentence(hub, fixed):
    hub.failures["/api/validate-yaml"] = (400, "")
    assert refused(send, prepare(fixed, "me/copy", mirror=True)) == (
        "The Hub does not take the README.md for me/copy: put it right at the source."
    )


def test_a_folder_that_was_not_fixed_is_refused(hub):
    assert refused(prepare, hub.folder) == (
        f"{hub.folder} is no folder that `opensci hotfix` made: publish the one that it writes."
    )


def test_a_folder_from_elsewhere_needs_to_be_told_where_it_belongs(hub, tmp_path):
    model = make_folder(tmp_path / "tiny")
    fixed = Path(hotfix(model).dst_dir)
    assert refused(prepare, fixed, unproven=True) == (
        f"{fixed} does not say which repository it came from: give its --repo_id."
    )
    assert refused(prepare, fixed, "me/copy", mirror=True, unproven=True) == (
        f"{fixed} does not say which repository it came from: download the model and fix it again."
    )
    assert send(prepare(fixed, "org/name", unproven=True)).outcome.startswith("open: ")


def test_without_a_token_nothing_is_sent(hub, fixed, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert refused(send, prepare(fixed)) == (
        "The Hub wants to know who sends this: run `hf auth login`, or set HF_TOKEN."
    )
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert refused(send, prepare(fixed)) == (
        "The Hub does not know this token: run `hf auth login`, or set HF_TOKEN."
    )
    assert hub.pulls == []


def test_what_the_hub_does_not_have_or_give(hub, fixed):
    missing = "The Hub has no model 'org/other', or it is private: check the name, or set HF_TOKEN."
    assert refused(prepare, fixed, "org/other") == missing
    assert refused(prepare, fixed, revision="iter_9") == (
        "org/name has no revision 'iter_9': see its branches and tags."
    )
    assert "nor a Hub id of the form owner/name" in refused(prepare, fixed, "not a name")
    hub.failures["/api/models/org/name"] = (403, "GatedRepo")
    assert refused(prepare, fixed) == (
        "org/name at revision main is gated: ask for access on its page and set HF_TOKEN."
    )
    hub.failures = {"/api/models/org/name": (500, "")}
    assert refused(prepare, fixed).startswith("The Hub answered for org/name: ")


def test_a_connection_that_is_lost_leaves_nothing_half_open(hub, fixed):
    parcel = prepare(fixed)
    hub.failures["/commit/main"] = None
    assert refused(send, parcel) == (
        "The connection to the Hub was lost at org/name: run the command again, it goes on where it stopped."
    )
    assert hub.pulls == []
    hub.failures.clear()
    assert send(prepare(fixed)).outcome.startswith("open: ")
    assert len(hub.pulls) == 1


# ---------------------------------------------------------------- the command


def test_a_dry_run_prints_what_is_sent_and_sends_nothing(hub, fixed, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    result = opensci_publish("--src_dir", fixed, "--dry_run")
    assert result.exit_code == 0, result.output
    assert posted(hub) == []
    size = (fixed / "modeling_tiny.py").stat().st_size
    assert result.output.startswith(f"pull request for org/name, main ({MAIN})\n  config.json  ")
    assert f"  modeling_tiny.py  {size:,} bytes\n" in result.output
    assert '\n-    _tied_weights_keys = ["lm_head.weight"]\n+    _tied_weights_keys = {' in result.output
    monkeypatch.setenv("HF_TOKEN", READER)
    sent = opensci_publish("--src_dir", fixed, "--yes")
    header = hub.messages[hub.commits["refs/pr/1"]]
    assert f"\n{header['summary']}\n\n{header['description']}" in result.output
    shown = result.output.removesuffix(f"{fixed}  org/name, main: not sent\n")
    assert sent.output.startswith(shown)


@pytest.mark.parametrize(("answer", "opened"), [("y\n", 1), ("n\n", 0), ("\n", 0), ("", 0)])
def test_nothing_is_sent_that_was_not_agreed_to(hub, fixed, answer, opened):
    result = opensci_publish("--src_dir", fixed, answer=answer)
    assert "Send this to org/name? [y/N]" in result.output
    assert len(hub.pulls) == opened
    assert ("open: " in result.output) == bool(opened)


def test_a_family_goes_on_where_it_stopped(hub, fixed, tmp_path):
    other, broken = fixed_folder(tmp_path, "iter_0002000"), tmp_path / "none"
    folders = [word for folder in (fixed, broken, other) for word in ("--src_dir", folder)]
    hub.failures["/commit/iter_0002000"] = None
    first = opensci_publish(*folders, "--yes")
    assert first.exit_code == 1
    assert len(hub.pulls) == 1
    hub.failures.clear()
    (tmp_path / "none").mkdir()
    again = opensci_publish(*folders, "--yes")
    address = f"{hub.environment['HF_ENDPOINT']}/org/name/discussions"
    width = len(str(other))
    assert again.output.splitlines()[-3:] == [
        f"{fixed!s:{width}}  org/name, main: open: {address}/1",
        f"{broken!s:{width}}  {broken} is no model folder: it has no config.json.",
        f"{other!s:{width}}  org/name, iter_0002000: open: {address}/2",
    ]
    assert again.exit_code == 1
    assert [pull["title"] for pull in hub.pulls] == [TITLE, f"{TITLE} (iter_0002000)"]


def test_an_error_is_a_sentence(hub, fixed):
    result = opensci_publish("--src_dir", fixed, "--revision", "iter_9")
    assert (result.exit_code, result.output) == (
        1, "Error: org/name has no revision 'iter_9': see its branches and tags.\n",
    )  # fmt: skip
    assert opensci_publish("--src_dir", fixed, "--mirror", "--branch", "a").exit_code == 2
    assert opensci_publish("--src_dir", fixed, "--src_dir", fixed, "--repo_id", "org/name").exit_code == 2
