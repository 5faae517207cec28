"""Model shapes by name, the shape that masks prune to, and parameter and FLOP counts.

Letters in shapes, here and in the other files: B rows, T tokens per row, D hidden, H query heads, K key/value heads,
E dimension of a head, F intermediate, L layers, V vocabulary.
"""

from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    rows: int = 1  # per optimiser step
    tokens: int = 2048  # per row

    @property
    def head_dim(self):
        return self.hidden // self.heads

    @property
    def group(self):
        """Query heads per key/value head."""
        return self.heads // self.kv_heads

    def target(self):
        """Three quarters of every dimension, of the groups where heads are grouped; as `shearling bench` prunes."""
        kv_heads = max(1, self.kv_heads * 3 // 4)
        return replace(
            self, layers=self.layers * 3 // 4, hidden=self.hidden * 3 // 4, intermediate=self.intermediate * 3 // 4,
            heads=kv_heads * self.group, kv_heads=kv_heads,
        )

    def matmul_parameters(self):
        """Parameters that take part in a matrix product for each token: all but the embedding and the norms."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.vocab * self.hidden

    def flops_per_token(self):
        """Forward and backward, recomputation not counted: 6 per matmul parameter + 6 L H E T of causal attention."""
        return 6 * self.matmul_parameters() + 6 * self.layers * self.heads * self.head_dim * self.tokens

    def check(self):
        if self.hidden % self.heads or self.heads % self.kv_heads or self.head_dim % 2:
            raise ValueError(f"hidden must divide into heads of even size and heads into kv heads: {asdict(self)}")
        return self


# Those of `shearling bench`, same names; `tiny` with a small vocabulary, for checks.
SHAPES = {
    "tiny": Shape(layers=4, hidden=128, intermediate=352, heads=4, kv_heads=2, vocab=256, rows=4, tokens=128),
    "small": Shape(layers=8, hidden=512, intermediate=1376, heads=8, kv_heads=8, vocab=32000, rows=4, tokens=2048),
    "base": Shape(layers=12, hidden=768, intermediate=2048, heads=12, kv_heads=4, vocab=32000, rows=2, tokens=1024),
    "1.3b": Shape(layers=24, hidden=2048, intermediate=5504, heads=16, kv_heads=16, vocab=32000, rows=8, tokens=4096),
    "2.7b": Shape(layers=32, hidden=2560, intermediate=6912, heads=20, kv_heads=20, vocab=32000, rows=8, tokens=4096),
    "7b": Shape(layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, vocab=32000, rows=32, tokens=4096),
}
