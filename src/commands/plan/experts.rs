//! What routers will add to the model of a run of `lte train`, and what they leave to compute and to read when decoding.

use crate::cli::table::grouped;
use crate::config::{Lte, LteMode};
use crate::model::count::{ParameterCount, decoding_weight_bytes};
use crate::model::routed_count::{RoutedCount, dense_gib_flops_per_token};
use crate::train::Outline;
use crate::words::{counted, thousands};
use serde_json::{Value, json};

/// Steps of stage 1 below which routers have hardly learned.
const FEWEST_ROUTER_STEPS: u64 = 20;

/// The routers of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ExpertPlan {
    routers: RoutedCount,
    expert_size: i64,
    /// Of all parameters of the dense model.
    share: f64,
    router_steps: u64,
    steps: u64,
    /// Asked for, with what it comes to; none under the paper's penalties.
    asked: Option<Asked>,
    dense_gib_flops: f64,
    dense_bytes: f64,
}

/// What a density comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Asked {
    density: f64,
    density_steps: u64,
    gib_flops: f64,
    decoding_bytes: f64,
}

impl ExpertPlan {
    /// None for a run of another stage; `element_bytes` is of the weights as they will be written.
    pub(super) fn of(outline: &Outline, element_bytes: i64) -> Option<ExpertPlan> {
        let (lte, model, steps) = (outline.config.lte.as_ref()?, &outline.model, outline.config.train.steps);
        let layers = (0..model.num_hidden_layers).filter(|layer| lte.routes(*layer)).count() as i64;
        let routers = RoutedCount::new(model, layers, lte.expert_size);
        let asked = (lte.mode == LteMode::Robust).then(|| Asked {
            density: lte.density,
            density_steps: lte.density_steps(steps),
            gib_flops: routers.gib_flops_per_token(model, lte.density),
            decoding_bytes: routers.decoding_bytes(model, lte.density, element_bytes),
        });
        Some(ExpertPlan {
            routers,
            expert_size: lte.expert_size,
            share: routers.parameters as f64 / ParameterCount::of(model).total() as f64,
            router_steps: lte.router_steps(steps),
            steps,
            asked,
            dense_gib_flops: dense_gib_flops_per_token(model),
            dense_bytes: decoding_weight_bytes(model, element_bytes),
        })
    }

    pub(super) fn text(&self) -> String {
        let RoutedCount { layers, experts, parameters } = self.routers;
        let mut text = format!(
            "routers: {layers} × {experts} experts of {} units, {} parameters ({:.2} % of the model)\n\
             stage 1: {} steps with routers in training, stage 2: {} with routers frozen\n",
            self.expert_size,
            grouped(parameters),
            100.0 * self.share,
            thousands(self.router_steps),
            thousands(self.steps.saturating_sub(self.router_steps)),
        );
        let Some(asked) = self.asked else {
            text.push_str("density: follows from lte.efficiency and lte.separability, no share is asked for\n");
            return text;
        };
        let gigabytes = |bytes: f64| format!("{:.4} GB", bytes / 1e9);
        text.push_str(&format!(
            "density: {:.1} % asked, {}\n\
             a token then takes {:.4} GiFLOP in the layers' projections, {:.4} dense ({:.2}×)\n\
             and decoding one row reads {} of weights, {} dense ({:.2}×); rows decoded together need more\n",
            100.0 * asked.density,
            reached(asked.density_steps),
            asked.gib_flops,
            self.dense_gib_flops,
            self.dense_gib_flops / asked.gib_flops,
            gigabytes(asked.decoding_bytes),
            gigabytes(self.dense_bytes),
            self.dense_bytes / asked.decoding_bytes,
        ));
        text
    }

    pub(super) fn json(&self) -> Value {
        let asked = self.asked;
        json!({
            "layers": self.routers.layers,
            "experts_per_layer": self.routers.experts,
            "expert_size": self.expert_size,
            "router_parameters": self.routers.parameters,
            "router_share": self.share,
            "router_steps": self.router_steps,
            "density": asked.map(|asked| asked.density),
            "density_steps": asked.map(|asked| asked.density_steps),
            "gib_flops_per_token": asked.map(|asked| asked.gib_flops),
            "dense_gib_flops_per_token": self.dense_gib_flops,
            "decoding_bytes": asked.map(|asked| asked.decoding_bytes),
            "dense_decoding_bytes": self.dense_bytes,
        })
    }
}

/// When the asked density holds.
fn reached(steps: u64) -> String {
    match steps {
        0 => "from the first step".to_string(),
        steps => format!("reached over {}", counted(steps, "step")),
    }
}

/// What may be a mistake in `[lte]`.
pub(super) fn warnings(outline: &Outline) -> Vec<String> {
    outline.config.lte.as_ref().map_or(Vec::new(), |lte| of_table(lte, outline.config.train.steps))
}

fn of_table(lte: &Lte, steps: u64) -> Vec<String> {
    let (routing, falling) = (lte.router_steps(steps), lte.density_steps(steps));
    let robust = lte.mode == LteMode::Robust;
    let mut warnings = Vec::new();
    if routing < FEWEST_ROUTER_STEPS {
        let left =
            if routing == 0 { "they stay as they start" } else { "they have hardly learned which experts matter" };
        warnings.push(format!("routers train for lte.router_steps = {routing} of {steps} steps: {left}"));
    }
    if routing == steps {
        warnings.push(format!(
            "lte.router_steps = {routing} leaves no step of stage 2: the weights never adapt to frozen routers"
        ));
    }
    if robust && falling > routing {
        warnings.push(format!(
            "lte.density_steps = {falling} is above lte.router_steps = {routing}: the density still falls when routers are \
             frozen, and only the common shift, which then follows slowly, brings it down"
        ));
    }
    if robust && lte.density == 1.0 {
        warnings.push("lte.density = 1: nothing is skipped, and routers cost their own products".to_string());
    }
    let (efficiency, separability) = (lte.efficiency(), lte.separability());
    if !robust && separability > 0.0 && efficiency < 8.0 * separability {
        warnings.push(format!(
            "lte.efficiency = {efficiency} is below 8 · lte.separability = {:.3}: the two penalties together push every score above \
             ½ up to 1, so that they alone turn no expert off; lte.mode = \"robust\" holds the share that lte.density asks for",
            8.0 * separability
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_shares_that_come_to_nothing_are_told() {
        let robust = Lte::default();
        assert_eq!(of_table(&robust, 200), Vec::<String>::new());
        let told = |lte: Lte, key: &str| {
            let warnings = of_table(&lte, 200);
            assert!(warnings.len() == 1 && warnings[0].contains(key), "{warnings:?}");
        };
        told(Lte { router_steps: Some(10), ..robust.clone() }, "hardly learned");
        told(Lte { router_steps: Some(200), ..robust.clone() }, "no step of stage 2");
        told(Lte { density_steps: Some(150), ..robust.clone() }, "still falls");
        told(Lte { density: 1.0, ..robust.clone() }, "nothing is skipped");
        let paper = Lte { mode: LteMode::Paper, ..robust };
        told(paper.clone(), "turn no expert off");
        let strong = Lte { efficiency: Some(4.5), ..paper.clone() };
        assert_eq!(of_table(&strong, 200), Vec::<String>::new());
        assert_eq!(of_table(&Lte { separability: Some(0.0), density: 1.0, ..paper }, 200), Vec::<String>::new());
    }
}
