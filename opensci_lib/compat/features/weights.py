"""The checkpoint's numbers are the model's."""

from opensci_lib.compat import feature
from opensci_lib.compat.case import Case, expect, expect_equal
from opensci_lib.runs.loading import compare_with_checkpoint


@feature("every tensor as in the checkpoint, no key missing or left over", basic=True)
def checkpoint(case: Case) -> None:
    model, info = case.load(output_loading_info=True)
    expect(not any(info.values()), f"keys: {info}")
    compared = compare_with_checkpoint(model, case.folder)
    expect_equal(compared["differing"], [], "tensors unlike the checkpoint")
    shared = {tensor.data_ptr() for tensor in model.state_dict().values()}
    expect_equal(len(shared), compared["tensors"], "tensors in memory")


@feature("tied embeddings are one storage")
def tied(case: Case) -> None:
    model = case.load()
    expect(model.config.tie_word_embeddings, "the configuration does not tie embeddings")
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    expect(embeddings is head, "input and output embeddings are two tensors")
