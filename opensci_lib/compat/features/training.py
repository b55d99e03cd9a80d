"""Training, fine-tuning and compiling."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from opensci_lib.compat import feature
from opensci_lib.compat.case import Case, expect, expect_close, expect_equal, logits


def _gradients(model: Any, ids: torch.Tensor, **options: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(ids, labels=ids, use_cache=False, **options).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@feature("a training step: every parameter learns, the loss falls")
def step(case: Case) -> None:
    model, ids = case.load().train(), case.ids[2]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(2):
        gradients = _gradients(model, ids)
        losses.append(model(ids, labels=ids, use_cache=False).loss.item())
        optimizer.step()
    expect_equal(set(gradients), {name for name, _ in model.named_parameters()}, "parameters with a gradient")
    expect(all(gradient.isfinite().all() for gradient in gradients.values()), "a gradient is not finite")
    expect(losses[1] < losses[0], f"the loss went from {losses[0]:.4f} to {losses[1]:.4f}")


def _checkpointing(case: Case, use_reentrant: bool) -> None:
    model, ids = case.load().train(), case.ids[1]
    plain = _gradients(model, ids)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    expect(model.is_gradient_checkpointing, "the model says that it does not checkpoint")
    runs = []
    layer = next(module for module in model.modules() if type(module).__name__.endswith("DecoderLayer"))
    forward = layer.mlp.forward
    layer.mlp.forward = lambda *args: (runs.append(1), forward(*args))[1]
    found = _gradients(model, ids)
    expect_equal(len(runs), 2, "times that a checkpointed layer was computed")
    expect_equal(set(found), set(plain), "parameters with a gradient")
    for name, gradient in plain.items():
        expect_equal(found[name], gradient, f"gradient of {name}")


@feature("gradient checkpointing, reentrant")
def checkpointing_reentrant(case: Case) -> None:
    _checkpointing(case, use_reentrant=True)


@feature("gradient checkpointing, not reentrant")
def checkpointing(case: Case) -> None:
    _checkpointing(case, use_reentrant=False)


@feature("gradient checkpointing with a cache handed over")
def checkpointing_with_cache(case: Case) -> None:
    model, ids = case.load().train(), case.ids[1]
    plain = _gradients(model, ids)
    for use_reentrant in (True, False):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
        found = _gradients(model, ids, past_key_values=transformers.DynamicCache())
        for name, gradient in plain.items():
            expect_equal(found[name], gradient, f"gradient of {name}")


@feature("gradient checkpointing of every second layer")
def checkpointing_every_second(case: Case) -> None:
    model, ids = case.load().train(), case.ids[1]
    plain = _gradients(model, ids)
    model.gradient_checkpointing_enable(every_n_layers=2)
    runs = []
    layers = model.model.layers
    for layer in layers:  # as it begins: a layer that is computed again stops before its end
        layer.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    found = _gradients(model, ids)
    expect_equal(len(runs), len(layers) + (len(layers) + 1) // 2, "times that a layer was computed")
    for name, gradient in plain.items():
        expect_equal(found[name], gradient, f"gradient of {name}")


@feature("Trainer, three steps")
def trainer(case: Case) -> None:
    ids = case.ids[2][0].tolist()
    rows: Any = [{"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)}] * 6
    options: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    arguments = transformers.TrainingArguments(
        output_dir=str(case.work),
        max_steps=3,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        **options,
    )
    runner = transformers.Trainer(model=case.load(), args=arguments, train_dataset=rows)
    runner.remove_callback(transformers.trainer_callback.PrinterCallback)
    runner.train()
    losses = [entry["loss"] for entry in runner.state.log_history if "loss" in entry]
    expect_equal(len(losses), 3, "steps")
    expect(losses[2] < losses[0], f"the loss went from {losses[0]} to {losses[2]}")


@feature("a LoRA adapter by peft: train, save, load, merge")
def lora(case: Case) -> None:
    import peft

    ids, before = case.ids[1], logits(case.model, case.ids[1])
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model: Any = peft.get_peft_model(case.load(), settings)
    expect_equal(logits(model.eval(), ids), before, "logits of a fresh adapter")
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1.0)
    for _ in range(2):
        learning = _gradients(model, ids)
        optimizer.step()
    expect(all("lora_" in name for name in learning), "a frozen parameter has a gradient")
    trained = logits(model, ids)
    expect(not torch.equal(trained, before), "the adapter learned nothing")
    model.save_pretrained(case.work / "adapter")
    again = peft.PeftModel.from_pretrained(case.load(), case.work / "adapter").eval()
    expect_equal(logits(again, ids), trained, "logits of the adapter loaded")
    expect_close(logits(again.merge_and_unload(), ids), trained, "logits of the adapter merged")


def _compiled(model: Any, ids: torch.Tensor, backend: str, **options: Any) -> torch.Tensor:
    torch._dynamo.reset()
    return logits(torch.compile(model, backend=backend, **options), ids)


@feature("torch.compile, eager backend, whole graph")
def compile_eager(case: Case) -> None:
    compiled = _compiled(case.load(), case.ids[1], "eager", fullgraph=True)
    expect_equal(compiled, logits(case.model, case.ids[1]), "logits")


@feature("torch.compile, eager backend, whole graph, any length")
def compile_any_length(case: Case) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(case.load(), backend="eager", fullgraph=True, dynamic=True)
    for ids in case.ids:
        expect_equal(logits(compiled, ids), logits(case.model, ids), "logits")


@feature("torch.compile, inductor", compiled=True)
def compile_inductor(case: Case) -> None:
    model = case.random(num_hidden_layers=1)  # the compiler writes each layer out
    expect_close(_compiled(model, case.ids[1], "inductor"), logits(model, case.ids[1]), "logits", 1e-3)


@feature("resize_token_embeddings")
def resize(case: Case) -> None:
    model = case.load()
    size = model.get_input_embeddings().weight.shape[0]
    before = logits(model, case.ids[0])
    model.resize_token_embeddings(size + 8)
    expect_equal(model.config.vocab_size, size + 8, "vocab_size")
    found = logits(model, case.ids[0])
    expect_equal(found.shape[-1], size + 8, "vocabulary of the logits")
    expect_close(found[..., :size], before, "logits of the old tokens")
    expect(model.get_input_embeddings().weight is model.get_output_embeddings().weight, "no longer tied")


@feature("freezing layers")
def freezing(case: Case) -> None:
    model, ids = case.load().train(), case.ids[1]
    layer = next(module for module in model.modules() if type(module).__name__.endswith("DecoderLayer"))
    layer.requires_grad_(False)
    frozen = {id(parameter) for parameter in layer.parameters()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _gradients(model, ids)
    torch.optim.SGD(model.parameters(), lr=1e-1).step()
    for name, parameter in model.named_parameters():
        same = torch.equal(parameter.detach(), before[name])
        expect(same == (id(parameter) in frozen), f"{name} {'stood still' if same else 'moved'}")
