//! Routers of a whole decoder: put in, set, and what they decided.

use super::probe::Site;
use super::router::{Penalty, Routed, RouterForward};
use super::{Decoder, ForwardContext, ModelGates};
use tch::{TchError, Tensor};

impl Decoder {
    /// Gives layer `layer` a router, or makes it dense again. A packed layer keeps the one that it has.
    pub fn route(&mut self, layer: usize, routed: Option<Routed>) {
        let half = self.blocks.get_mut(layer).and_then(|block| block.feed_forward.plain_mut());
        if let Some(half) = half {
            half.routed = routed;
        }
    }

    /// Sets how all routers act from here on, and what their scores cost.
    pub fn set_routers(&mut self, forward: RouterForward, penalty: Option<Penalty>) {
        for routed in self.blocks.iter_mut().filter_map(|block| block.feed_forward.plain_mut()?.routed.as_mut()) {
            (routed.forward, routed.penalty) = (forward, penalty);
        }
    }

    /// The logits that the last forward left `[B, T, N]`, with their layers; they are gone then.
    pub fn take_router_logits(&self) -> Vec<(usize, Tensor)> {
        let layers = self.blocks.iter().enumerate();
        layers
            .filter_map(|(layer, block)| Some((layer, block.feed_forward.plain()?.routed.as_ref()?.trace.take()?)))
            .collect()
    }

    /// Weight `[D, F]` of the down projection of layer `layer`.
    ///
    /// # Errors
    /// The model has no such layer, or it is packed.
    pub fn down_projection(&self, layer: usize) -> Result<&Tensor, TchError> {
        let block = self.blocks.get(layer).ok_or_else(|| TchError::Shape(format!("there is no layer {layer}")))?;
        let half = block.feed_forward.plain();
        Ok(&half.ok_or_else(|| TchError::Shape(format!("layer {layer} is packed")))?.down.weight)
    }

    /// Runs `input_ids [B, T]` through all layers, showing `probe` what happens inside each.
    ///
    /// # Errors
    /// libtorch's, and the probe's.
    pub fn forward_probed(
        &self,
        input_ids: &Tensor,
        context: &ForwardContext,
        probe: &mut dyn FnMut(usize, Site, &Tensor) -> Result<(), TchError>,
    ) -> Result<(), TchError> {
        let (none, tokens) = (ModelGates::none(), input_ids.size()[1]);
        let mut x = self.embedding.forward(input_ids, &none)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let context = context.layer(self.model(), &none, layer as i64, tokens)?;
            x = block.forward_probed(&x, &context, &mut |site, seen| probe(layer, site, seen))?;
        }
        Ok(())
    }
}
