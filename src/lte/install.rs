//! Puts the routers of a folder into a model that reads text: from then on only the experts run that they choose.

use super::experts::Experts;
use crate::model::Decoder;
use crate::model::router::{Routed, RouterForward};

/// Gives `model` the routers of `experts`, except in `dense_layers`, which stay as they are. The weights of the model are those of
/// the folder: their units are in the order of the experts.
pub fn install(experts: &Experts, model: &mut Decoder, dense_layers: &[i64]) {
    for (layer, found) in experts.layers.iter().enumerate() {
        let router = found.router.as_ref().filter(|_| !dense_layers.contains(&(layer as i64)));
        let routed = router.map(|router| Routed::new(router.shallow_clone(), experts.expert_size, RouterForward::Hard));
        model.route(layer, routed);
    }
}
