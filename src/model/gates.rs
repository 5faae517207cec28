//! Gates in the form in which the layers use them, made once per forward from the masks' gates.
//!
//! ```text
//! hidden h          embedding and norms                              [D]
//! residual          z^layer · h: rows of Wo and Wdown                [D] per layer
//! heads             z^kv · z^q, repeated over a head: columns of Wo  [H*E] per layer
//! intermediate      inside silu(gate) ⊙ up                           [F] per layer
//! ```
//!
//! While training the layers see leaves instead of slices of one graph: the backward of a layer then ends at its own
//! gates, however often it is recomputed, and [`GateLinks::backward`] sends the sums on to the masks in one go.

use super::ModelConfig;
use super::norm::HiddenGate;
use crate::native::ops::autograd;
use shearling_masks::Gates;
use tch::{Kind, TchError, Tensor};

/// The gates of one forward.
#[derive(Debug, Default)]
pub struct ModelGates {
    /// h with what the norms need of it.
    pub hidden: Option<HiddenGate>,
    /// Gates of each layer.
    pub layers: Vec<LayerGates>,
}

/// The gates of one layer, fp32; `None` where nothing is pruned.
#[derive(Debug, Default)]
pub struct LayerGates {
    /// What the layer writes to the residual stream `[D]`.
    pub residual: Option<Tensor>,
    /// The joined heads `[H*E]`.
    pub heads: Option<Tensor>,
    /// The intermediate units `[F]`.
    pub intermediate: Option<Tensor>,
}

impl LayerGates {
    /// The same tensors again.
    pub fn shallow_clone(&self) -> LayerGates {
        let clone = |gate: &Option<Tensor>| gate.as_ref().map(Tensor::shallow_clone);
        LayerGates {
            residual: clone(&self.residual),
            heads: clone(&self.heads),
            intermediate: clone(&self.intermediate),
        }
    }
}

impl ModelGates {
    /// No masks: every unit as it is.
    pub fn none() -> ModelGates {
        ModelGates::default()
    }

    /// The gates as parts of the graph of `gates`.
    pub fn new(model: &ModelConfig, gates: &Gates) -> Result<ModelGates, TchError> {
        ModelGates::from_stacks(model, gates, &Stacks::new(model, gates)?, &mut |row| Ok(row))
    }

    /// The gates as leaves, with the way back to the graph of `gates`. Without a graph the leaves need no gradient.
    pub fn leaves(model: &ModelConfig, gates: &Gates) -> Result<(ModelGates, GateLinks), TchError> {
        let stacks = Stacks::new(model, gates)?;
        let mut leaves = Vec::new();
        let made = ModelGates::from_stacks(model, gates, &stacks, &mut |row| {
            let leaf = row.f_detach()?.f_set_requires_grad(row.requires_grad())?;
            leaves.push(leaf.shallow_clone());
            Ok(leaf)
        })?;
        Ok((made, GateLinks::new(stacks, leaves, model.num_hidden_layers as usize)))
    }

    /// Takes every row of every stack in the order of [`Stacks::in_order`], hidden first and then layer by layer.
    fn from_stacks(
        model: &ModelConfig,
        gates: &Gates,
        stacks: &Stacks,
        take: &mut dyn FnMut(Tensor) -> Result<Tensor, TchError>,
    ) -> Result<ModelGates, TchError> {
        let hidden = stacks.hidden.as_ref().map(|gate| HiddenGate::new(&take(gate.shallow_clone())?, gates));
        let hidden = hidden.transpose()?;
        let mut rows = |stack: &Option<Tensor>| -> Result<Vec<Option<Tensor>>, TchError> {
            let mut row = |layer| match stack {
                Some(stack) => take(stack.f_select(0, layer)?.f_contiguous()?).map(Some),
                None => Ok(None),
            };
            (0..model.num_hidden_layers).map(&mut row).collect()
        };
        let (residual, heads, intermediate) =
            (rows(&stacks.residual)?, rows(&stacks.heads)?, rows(&stacks.intermediate)?);
        let layers = residual.into_iter().zip(heads).zip(intermediate);
        let layers = layers.map(|((residual, heads), intermediate)| LayerGates { residual, heads, intermediate });
        Ok(ModelGates { hidden, layers: layers.collect() })
    }
}

/// The gates of all layers, one row each.
#[derive(Debug)]
struct Stacks {
    hidden: Option<Tensor>,
    residual: Option<Tensor>,
    heads: Option<Tensor>,
    intermediate: Option<Tensor>,
}

impl Stacks {
    fn new(model: &ModelConfig, gates: &Gates) -> Result<Stacks, TchError> {
        let clone = |gate: &Option<Tensor>| gate.as_ref().map(Tensor::shallow_clone);
        let (heads, kv_heads) = (model.num_attention_heads, model.num_key_value_heads);
        let heads = gates.all_heads(heads, kv_heads).map_err(|error| TchError::Torch(error.to_string()))?;
        let widen = |gate: Tensor| gate.f_repeat_interleave_self_int(model.head_dim, 1, None);
        Ok(Stacks {
            hidden: clone(&gates.hidden),
            residual: residual(model, gates)?,
            heads: heads.map(widen).transpose()?,
            intermediate: clone(&gates.intermediate),
        })
    }

    /// All stacks that are there with their number of rows.
    fn in_order(self, layers: usize) -> impl Iterator<Item = (Tensor, usize)> {
        let by_layer = [self.residual, self.heads, self.intermediate].into_iter().flatten();
        self.hidden.into_iter().map(|gate| (gate, 1)).chain(by_layer.map(move |gate| (gate, layers)))
    }
}

/// `z^layer · h`, `[L, D]`.
fn residual(model: &ModelConfig, gates: &Gates) -> Result<Option<Tensor>, TchError> {
    let size = [model.num_hidden_layers, model.hidden_size];
    match (&gates.layer, &gates.hidden) {
        (Some(layer), Some(hidden)) => layer.f_unsqueeze(1)?.f_mul(hidden).map(Some),
        (Some(layer), None) => layer.f_unsqueeze(1)?.f_expand(size, false).map(Some),
        (None, Some(hidden)) => hidden.f_unsqueeze(0)?.f_expand(size, false).map(Some),
        (None, None) => Ok(None),
    }
}

/// The way from the leaves of one forward back to what its gates were made from.
#[derive(Debug)]
pub struct GateLinks {
    /// A stack with its graph, and the leaves of its rows.
    links: Vec<(Tensor, Vec<Tensor>)>,
}

impl GateLinks {
    fn new(stacks: Stacks, leaves: Vec<Tensor>, layers: usize) -> GateLinks {
        let mut leaves = leaves.into_iter();
        let links =
            stacks.in_order(layers).map(|(stack, rows)| (stack, leaves.by_ref().take(rows).collect::<Vec<_>>()));
        GateLinks { links: links.filter(|(stack, _)| stack.requires_grad()).collect() }
    }

    /// Call after the backward of the forward: adds to the gradients of the masks.
    pub fn backward(self) -> Result<(), TchError> {
        if self.links.is_empty() {
            return Ok(());
        }
        let (mut roots, mut gradients) = (Vec::new(), Vec::new());
        for (root, leaves) in self.links {
            let rows = leaves.iter().map(gradient_or_zero).collect::<Result<Vec<_>, _>>()?;
            gradients.push(Tensor::f_stack(&rows, 0)?.f_view(&root.size()[..])?);
            roots.push(root);
        }
        autograd::backward(&roots, &gradients)
    }
}

fn gradient_or_zero(leaf: &Tensor) -> Result<Tensor, TchError> {
    let gradient = leaf.grad();
    if gradient.defined() { Ok(gradient) } else { Tensor::f_zeros(leaf.size(), (Kind::Float, leaf.device())) }
}
