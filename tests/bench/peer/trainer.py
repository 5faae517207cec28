"""One optimiser step of each kind of model: accumulate micro-batches, clip, AdamW."""

import contextlib

import torch

from masks import Masks
from meter import Stopwatch
from model import Decoder, next_token_loss

# As `shearling bench step` does: AdamW's first updates move every weight by the whole rate, and would overshoot at its peak.
RATE_WARMUP_STEPS = 10
MODELS = ("masked", "masked-compiled", "plain", "hf", "hf-compiled")


def llama_for_causal_lm(shape, device):
    """transformers' model of this shape, fp32, random weights."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=max(2048, shape.tokens), rms_norm_eps=1e-5, tie_word_embeddings=False,
        attn_implementation="sdpa", use_cache=False,
    )
    with torch.device(device):
        return transformers.LlamaForCausalLM(config).train()


class Trainer:
    """A model with its optimiser and one fixed batch of random tokens, `ids [rows, T]`."""

    def __init__(self, kind, shape, micro_rows, dtype, device, checkpointing=False, pure_bf16=False, seed=0):
        torch.manual_seed(seed)
        self.shape, self.micro_rows, self.dtype, self.device = shape, micro_rows, dtype, device
        self.transformers = kind.startswith("hf")
        self.model = llama_for_causal_lm(shape, device) if self.transformers else Decoder(shape, device=device)
        if checkpointing and self.transformers:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        elif checkpointing:
            self.model.checkpointing = True
        if pure_bf16:
            self.model.to(torch.bfloat16)
        self.masks = Masks(shape, shape.target(), device=device) if kind.startswith("masked") else None
        self.weights = list(self.model.parameters())
        self.optimiser = torch.optim.AdamW(self.groups(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: min(1.0, (step + 1) / RATE_WARMUP_STEPS)
        )
        self.ids = torch.randint(shape.vocab, (shape.rows, shape.tokens), device=device)
        if not self.transformers:
            # Made here, for a table that appears during the first forward would make torch.compile compile twice.
            self.model.rope_tables(shape.tokens, torch.float32 if dtype == "fp32" else torch.bfloat16, self.ids.device)
        self.forward = torch.compile(self.model, dynamic=False) if kind.endswith("-compiled") else self.model
        self.stopwatch = Stopwatch(device)
        self.steps = 0

    def groups(self):
        groups = [{"params": self.weights}]
        if self.masks is not None:
            groups.append({"params": list(self.masks.log_alpha.values()), "lr": 1.0})
            groups.append({"params": self.masks.multipliers(), "lr": 1.0, "maximize": True})
        return groups

    def parameters(self):
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def autocast(self):
        if self.dtype == "fp32":
            return contextlib.nullcontext()
        # No cache: every weight is used once per forward, so cached casts would only take memory.
        return torch.autocast(self.device, torch.bfloat16, cache_enabled=False)

    def micro_batch_loss(self, ids):
        """Gates, forward and mean loss of one micro-batch."""
        gates = None
        if self.masks is not None:
            gates = self.masks.sample()
            self.stopwatch.mark("masks")
        with self.autocast():
            if self.transformers:  # computes its own loss inside
                loss = self.forward(ids, labels=ids).loss
                self.stopwatch.mark("forward")
                return loss
            logits = self.forward(ids) if gates is None else self.forward(ids, gates)
            self.stopwatch.mark("forward")
            loss = next_token_loss(logits, ids)
        self.stopwatch.mark("loss")
        return loss

    def step(self):
        """One optimiser step: its loss, milliseconds, and milliseconds by phase."""
        self.stopwatch.start()
        batches = self.ids.split(self.micro_rows)
        total = torch.zeros((), device=self.device)
        for ids in batches:
            loss = self.micro_batch_loss(ids) * (len(ids) / len(self.ids))
            loss.backward()
            total += loss.detach()
            self.stopwatch.mark("backward")
        if self.masks is not None:
            self.masks.lagrangian(self.steps).backward()
            self.stopwatch.mark("masks")
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0, foreach=True)
        self.stopwatch.mark("clip")
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.stopwatch.mark("optimizer")
        if self.masks is not None:
            self.masks.clamp_()
            self.stopwatch.mark("masks")
        milliseconds, phases = self.stopwatch.stop()
        self.steps += 1
        return total.item(), milliseconds, phases
