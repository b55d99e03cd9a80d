"""save_pretrained and push_to_hub."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from opensci_lib.compat import feature
from opensci_lib.compat.case import Case, expect, expect_equal, logits


def _saved(case: Case, name: str, **options: Any) -> Path:
    folder = case.place(name)
    case.load().save_pretrained(folder, **options)
    case.tokenizer.save_pretrained(folder)
    return folder


def _expect_the_same_model(case: Case, folder: Path) -> None:
    again = Case(folder, folder / "work", case.native)
    model, info = again.load(output_loading_info=True)
    expect(not any(info.values()), f"keys after reload: {info}")
    for name, tensor in case.model.state_dict().items():
        expect_equal(model.state_dict()[name], tensor, name)
    for ids in case.ids:
        expect_equal(logits(model, ids), logits(case.model, ids), "logits after reload")
    for text in ("a b", " c\n"):
        expect_equal(again.tokenizer(text)["input_ids"], case.tokenizer(text)["input_ids"], "token ids after reload")


def _code(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.py")}


@feature("save_pretrained and reload: code, config, tokenizer, weights")
def save(case: Case) -> None:
    folder = _saved(case, "saved")
    expect(_code(case.folder) <= _code(folder), f"code files saved: {sorted(_code(folder))}")
    _expect_the_same_model(case, folder)
    _expect_the_same_model(case, _saved(Case(folder, case.work / "second", case.native), "again"))


@feature("save_pretrained in shards and reload")
def save_shards(case: Case) -> None:
    size = sum(tensor.nbytes for tensor in case.model.state_dict().values())
    folder = _saved(case, "shards", max_shard_size=f"{size // 3000}KB")
    expect(len(list(folder.glob("*.safetensors"))) > 1, "there is one shard only")
    _expect_the_same_model(case, folder)


@feature("push_to_hub, up to the request")
def push(case: Case) -> None:
    import huggingface_hub
    from transformers.utils import hub

    requests: list[set[str]] = []

    def commit(*args: Any, operations: Any, **options: Any) -> None:
        requests.append({operation.path_in_repo for operation in operations})

    def create(*args: Any, **options: Any) -> huggingface_hub.RepoUrl:
        return huggingface_hub.RepoUrl("https://huggingface.co/someone/model")

    with ExitStack() as instead:
        # Newer releases call the methods of HfApi, older ones functions that transformers.utils.hub imports.
        for name, stand_in in (("create_commit", commit), ("create_repo", create)):
            for owner in (huggingface_hub.HfApi, hub):
                if hasattr(owner, name):
                    instead.enter_context(patch.object(owner, name, stand_in))
        card = huggingface_hub.ModelCard("---\n---\n")  # the one that the Hub has would be asked for
        instead.enter_context(patch.object(hub, "create_and_tag_model_card", lambda *args, **options: card))
        case.load().push_to_hub("someone/model")
    expect_equal(len(requests), 1, "commits asked for")
    wanted = {"config.json", "model.safetensors", *_code(case.folder)}
    expect(wanted <= requests[0], f"files in the commit: {sorted(requests[0])}")
