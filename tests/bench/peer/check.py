#!/usr/bin/env python3
"""Checks that the peer computes the right thing: against transformers, and against the golden values of the original.

Exit code 1 when anything is further apart than its tolerance. Small shapes, fp32 on the CPU, seconds.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

import masks as hard_concrete
from masks import Gates, Masks
from model import Decoder, next_token_loss
from shapes import SHAPES, Shape
from trainer import Trainer, llama_for_causal_lm

REPOSITORY = Path(__file__).resolve().parents[3]
MODEL_GOLDEN = REPOSITORY / "tests/fixtures/llm-shearing"
MASK_GOLDEN = REPOSITORY / "masks/tests/fixtures/llm-shearing"
TOLERANCE = 1e-5
# The original's names of the modules: every head has its own key and value, so its heads are our groups.
MODULES = {"layer": "layer", "head": "kv_head", "intermediate": "intermediate", "hidden": "hidden"}


class Checks:
    def __init__(self):
        self.failed = 0

    def near(self, name, found, expected, tolerance=TOLERANCE):
        """Largest absolute difference, relative to the largest expected value unless that is about 0."""
        found, expected = torch.as_tensor(found), torch.as_tensor(expected)
        expected = expected.to(found.dtype).reshape(found.shape)
        largest = expected.abs().max().item()
        apart = (found - expected).abs().max().item() / (largest if largest > 1e-3 else 1.0)
        good = apart <= tolerance
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {name}: {apart:.1e} (at most {tolerance:.0e})")


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def weights_of(model):
    return {name.removeprefix("model."): weight for name, weight in model.named_parameters()}


def plain_is_transformers(checks, shape):
    torch.manual_seed(1)
    theirs, ours = llama_for_causal_lm(shape, "cpu"), Decoder(shape)
    # Norm weights of exactly 1 would hide where they multiply.
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    ours.load_state_dict({name: weight.detach().clone() for name, weight in weights_of(theirs).items()})
    ids = torch.randint(shape.vocab, (shape.rows, shape.tokens))
    expected, found = theirs(ids, labels=ids).loss, next_token_loss(ours(ids), ids)
    expected.backward()
    found.backward()
    kind = f"{shape.heads} heads on {shape.kv_heads}"
    checks.near(f"plain, {kind}: loss of transformers", found.detach(), expected.detach())
    found_weights = weights_of(ours)
    apart = {name: relative(found_weights[name].grad, weight.grad) for name, weight in weights_of(theirs).items()}
    worst = max(apart, key=apart.get)
    checks.near(f"plain, {kind}: gradients of transformers (worst {worst})", apart[worst], 0.0)


def open_gates_change_nothing(checks, shape):
    torch.manual_seed(2)
    model = Decoder(shape)
    ids = torch.randint(shape.vocab, (shape.rows, shape.tokens))
    ones = {
        "layer": torch.ones(shape.layers), "kv_head": torch.ones(shape.layers, shape.kv_heads),
        "query_head": torch.ones(shape.layers, shape.group), "hidden": torch.ones(shape.hidden),
        "intermediate": torch.ones(shape.layers, shape.intermediate),
    }
    with torch.no_grad():
        expected = model(ids)
        for name, gate in ones.items():
            checks.near(f"open gates of {name}: plain logits", model(ids, Gates(**{name: gate})), expected)


def query_heads_are_group_times_place(checks, shape):
    """Closing place g of every group is zeroing the columns of those heads in the output projection."""
    torch.manual_seed(3)
    model = Decoder(shape)
    ids = torch.randint(shape.vocab, (shape.rows, shape.tokens))
    gates = Gates(kv_head=torch.rand(shape.layers, shape.kv_heads), query_head=torch.rand(shape.layers, shape.group))
    with torch.no_grad():
        found = model(ids, gates)
        for index, layer in enumerate(model.layers):
            columns = layer.self_attn.o_proj.weight.view(shape.hidden, shape.kv_heads, shape.group, shape.head_dim)
            columns *= gates.kv_head[index][None, :, None, None] * gates.query_head[index][None, None, :, None]
        checks.near("gates of grouped heads: scaled output projection", found, model(ids))


def golden_shape(config):
    return Shape(
        layers=config["num_hidden_layers"], hidden=config["hidden_size"], intermediate=config["intermediate_size"],
        heads=config["num_attention_heads"], kv_heads=config["num_attention_heads"], vocab=config.get("vocab_size", 64),
    )


def masked_is_the_original(checks):
    reference = json.loads((MODEL_GOLDEN / "reference.json").read_text())
    values = load_file(MODEL_GOLDEN / "reference.safetensors")
    config = reference["config"]
    model = Decoder(golden_shape(config), eps=config["rms_norm_eps"], theta=config["rope_theta"])
    source = load_file(MODEL_GOLDEN / "source.safetensors")
    model.load_state_dict({name.removeprefix("model."): weight for name, weight in source.items()})
    ids = values["input_ids"].long()
    checks.near("golden: dense logits", model(ids).detach(), values["dense_logits"])
    gates = {ours: values[f"deterministic_target.{theirs}"].clone().requires_grad_() for theirs, ours in MODULES.items()}
    logits = model(ids, Gates(**gates))
    checks.near("golden: masked logits", logits.detach(), values["masked_logits"])
    loss = next_token_loss(logits, ids)
    checks.near("golden: masked loss", loss.detach(), reference["masked_loss"])
    loss.backward()
    for theirs, ours in MODULES.items():
        checks.near(f"golden: gradient of {ours} gates", gates[ours].grad, values[f"masked_loss_grad.{theirs}"])


def golden_masks(reference, values):
    config, target = reference["config"], reference["config"]["target"]
    source = golden_shape(config)
    wanted = replace(
        source, layers=target["num_hidden_layers"], hidden=target["hidden_size"],
        intermediate=target["intermediate_size"], heads=target["num_attention_heads"],
        kv_heads=target["num_attention_heads"],
    )
    masks = Masks(source, wanted, warmup_steps=config["lagrangian_warmup_steps"])
    with torch.no_grad():
        for theirs, ours in MODULES.items():
            masks.log_alpha[ours].copy_(values[f"log_alpha.{theirs}"])
            masks.lambda_1[ours].fill_(reference["lambdas"][f"lambda_1_{theirs}"])
            masks.lambda_2[ours].fill_(reference["lambdas"][f"lambda_2_{theirs}"])
    return masks


def gates_and_constraint_are_the_originals(checks):
    reference = json.loads((MASK_GOLDEN / "reference.json").read_text())
    values = load_file(MASK_GOLDEN / "reference.safetensors")
    masks = golden_masks(reference, values)
    for theirs, ours in MODULES.items():
        gate = hard_concrete.hard_concrete(masks.log_alpha[ours], values[f"uniform.{theirs}"])
        checks.near(f"golden: sampled {ours}", gate.detach(), values[f"sampled.{theirs}"])
        weights = torch.arange(1, gate.numel() + 1, dtype=torch.float32).view(gate.shape)
        (gradient,) = torch.autograd.grad((gate * weights).sum(), masks.log_alpha[ours])
        checks.near(f"golden: gradient of sampled {ours}", gradient, values[f"sampled_grad.{theirs}"])
    for entry in reference["lagrangian"]:
        step = entry["step"]
        masks.zero_grad()
        loss = masks.lagrangian(step)
        loss.backward()
        checks.near(f"golden: Lagrangian at step {step}", loss.detach(), entry["loss"])
        for theirs, ours in MODULES.items():
            expected = values[f"lagrangian_grad.step{step}.{theirs}"]
            checks.near(f"golden: its gradient of {ours} at step {step}", masks.log_alpha[ours].grad, expected)
            for number, multipliers in ((1, masks.lambda_1), (2, masks.lambda_2)):
                expected = entry["lambda_grad"][f"lambda_{number}_{theirs}"]
                checks.near(f"golden: of lambda_{number} of {ours} at step {step}", multipliers[ours].grad, expected)


def steps_agree(checks, shape):
    """Accumulation, recomputation and bf16 change the arithmetic, not the training."""

    def losses(kind, micro_rows, dtype="fp32", checkpointing=False):
        trainer = Trainer(kind, shape, micro_rows, dtype, "cpu", checkpointing)
        return torch.tensor([trainer.step()[0] for _ in range(4)])

    whole = losses("plain", shape.rows)
    checks.near("steps: accumulated over micro-batches", losses("plain", 1), whole)
    checks.near("steps: bf16", losses("plain", shape.rows, "bf16"), whole, 1e-3)
    masked = losses("masked", shape.rows)
    checks.near("steps: masked, layers recomputed", losses("masked", shape.rows, checkpointing=True), masked)
    checks.near("steps: masked, bf16", losses("masked", shape.rows, "bf16"), masked, 1e-3)


def multipliers_ascend(checks, shape):
    """lambda_1 moves towards the sign of the constraint's violation: up where masks are too sparse, else down."""
    trainer = Trainer("masked", shape, shape.rows, "fp32", "cpu")
    trainer.masks.warmup_steps = 0
    before = {name: 1.0 - hard_concrete.score(a).mean().item() for name, a in trainer.masks.log_alpha.items()}
    trainer.step()
    for name, sparsity in before.items():
        expected = 1.0 if sparsity > trainer.masks.target_sparsity[name] else -1.0
        checks.near(f"steps: ascent of lambda_1 of {name}", trainer.masks.lambda_1[name].sign().item(), expected)


def main():
    checks = Checks()
    tiny = SHAPES["tiny"]
    plain_is_transformers(checks, tiny)
    plain_is_transformers(checks, replace(tiny, kv_heads=tiny.heads))
    open_gates_change_nothing(checks, tiny)
    query_heads_are_group_times_place(checks, tiny)
    masked_is_the_original(checks)
    gates_and_constraint_are_the_originals(checks)
    steps_agree(checks, tiny)
    multipliers_ascend(checks, tiny)
    print(f"{checks.failed} failed" if checks.failed else "all good")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
