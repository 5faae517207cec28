//! Rotary position embeddings as `config.json` describes them, in both dialects.
//!
//! - transformers 4: `rope_theta` at the top, `rope_scaling` null or `{rope_type (formerly type), factor, …}`;
//! - transformers 5: `rope_parameters` `{rope_type, rope_theta, factor, …}`; it still accepts the older keys.
//!
//! A file may carry both (ours do); they must then say the same, since each version of transformers would believe another one.

use crate::files::json::Fields;
use crate::files::{Error, Result};
use serde_json::{Map, Value, json};

const SUPPORTED: &str = "default, linear, llama3";

/// The frequencies of the rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// The base: frequency of pair j is `theta^(-2j / head_dim)`.
    pub theta: f64,
    /// How the frequencies are stretched beyond the training length.
    pub kind: RopeKind,
}

/// How rotary frequencies are scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RopeKind {
    /// Not at all.
    Default,
    /// All divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a smooth passage between.
    Llama3 {
        /// The divisor of the long wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are short.
        high_freq_factor: f64,
        /// The training length before stretching, in tokens.
        original_max_position_embeddings: i64,
    },
}

impl Rope {
    /// Reads either dialect, or both if they agree.
    pub(crate) fn read(top: &Fields, max_position_embeddings: i64) -> Result<Rope> {
        refuse_partial(top)?;
        let objects = [non_empty(top, "rope_scaling")?, non_empty(top, "rope_parameters")?];
        let mut theta = top.number_given("rope_theta")?.value();
        let mut kind = None;
        for object in objects.into_iter().flatten() {
            refuse_nested(&object)?;
            refuse_partial(&object)?;
            let inner = object.number_given("rope_theta")?.value();
            theta = agree(&object, "rope_theta", theta, inner)?;
            kind = agree(&object, "rope_type", kind, Some(read_kind(top, &object, max_position_embeddings)?))?;
        }
        let theta = theta.unwrap_or(10_000.0);
        if theta <= 0.0 {
            return Err(top.problem("rope_theta", format!("expected more than 0, found {theta}")));
        }
        Ok(Rope { theta, kind: kind.unwrap_or(RopeKind::Default) })
    }

    /// Writes both dialects into a raw configuration.
    pub(crate) fn write(&self, raw: &mut Map<String, Value>) {
        let scaling = self.kind.to_json();
        let mut parameters = scaling.clone();
        parameters.insert("rope_theta".into(), json!(self.theta));
        let scaling = if self.kind == RopeKind::Default { Value::Null } else { Value::Object(scaling) };
        raw.insert("rope_theta".into(), json!(self.theta));
        raw.insert("rope_scaling".into(), scaling);
        raw.insert("rope_parameters".into(), Value::Object(parameters));
    }
}

impl RopeKind {
    fn to_json(self) -> Map<String, Value> {
        let value = match self {
            RopeKind::Default => json!({"rope_type": "default"}),
            RopeKind::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
        };
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// An object that is absent, null or `{}` says nothing in transformers.
fn non_empty<'a>(top: &Fields<'a>, key: &'a str) -> Result<Option<Fields<'a>>> {
    Ok(top.object(key)?.filter(|object| object.values().next().is_some()))
}

/// Some architectures have one object per kind of layer; none of ours does.
fn refuse_nested(object: &Fields) -> Result<()> {
    match object.values().find(|(_, value)| value.is_object()) {
        Some((key, _)) => {
            Err(object.unsupported(key, "an object of its own", "one set of rope parameters for all layers"))
        }
        None => Ok(()),
    }
}

fn refuse_partial(fields: &Fields) -> Result<()> {
    match fields.number_given("partial_rotary_factor")?.value() {
        Some(factor) if factor != 1.0 => Err(fields.unsupported("partial_rotary_factor", factor.to_string(), "1.0")),
        _ => Ok(()),
    }
}

/// Two places that describe the same thing: either may be missing, both must be equal.
fn agree<T: PartialEq + std::fmt::Debug>(object: &Fields, key: &str, a: Option<T>, b: Option<T>) -> Result<Option<T>> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => {
            Err(object
                .problem(key, format!("says {b:?} where another rope key says {a:?}; make them equal or remove one")))
        }
        (a, b) => Ok(a.or(b)),
    }
}

fn read_type<'a>(object: &Fields<'a>) -> Result<&'a str> {
    match (object.string("rope_type")?, object.string("type")?) {
        (Some(new), Some(old)) if new != old => {
            Err(object.problem("rope_type", format!("says \"{new}\" where `type` says \"{old}\"; keep one")))
        }
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) if object.get("factor").is_some() => {
            Err(object.problem("rope_type", format!("missing; one of {SUPPORTED}")))
        }
        (None, None) => Ok("default"),
    }
}

fn read_kind(top: &Fields, object: &Fields, max_position_embeddings: i64) -> Result<RopeKind> {
    match read_type(object)? {
        "default" => Ok(RopeKind::Default),
        "linear" => Ok(RopeKind::Linear { factor: object.positive("factor")? }),
        "llama3" => read_llama3(top, object, max_position_embeddings),
        other => Err(object.unsupported("rope_type", format!("\"{other}\""), SUPPORTED)),
    }
}

fn read_llama3(top: &Fields, object: &Fields, max_position_embeddings: i64) -> Result<RopeKind> {
    const KEY: &str = "original_max_position_embeddings";
    let low_freq_factor = object.positive("low_freq_factor")?;
    let high_freq_factor = object.positive("high_freq_factor")?;
    // The smooth passage divides by their difference.
    if high_freq_factor <= low_freq_factor {
        return Err(
            object.problem("high_freq_factor", format!("expected more than low_freq_factor = {low_freq_factor}"))
        );
    }
    let length =
        |fields: &Fields| -> Result<Option<i64>, Error> { Ok(fields.integer_given(KEY, 1..=1 << 40)?.value()) };
    let original = agree(object, KEY, length(top)?, length(object)?)?;
    Ok(RopeKind::Llama3 {
        factor: object.positive("factor")?,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings: original.unwrap_or(max_position_embeddings),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(value: Value) -> Result<Rope, String> {
        let map = value.as_object().unwrap().clone();
        Rope::read(&Fields::new(Path::new("config.json"), &map), 4096).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_given_is_the_default_with_base_ten_thousand() {
        let expected = Rope { theta: 10_000.0, kind: RopeKind::Default };
        assert_eq!(read(json!({})).unwrap(), expected);
        assert_eq!(read(json!({"rope_scaling": null, "rope_parameters": null})).unwrap(), expected);
        assert_eq!(read(json!({"rope_scaling": {}})).unwrap(), expected);
    }

    #[test]
    fn both_dialects_read_alike_and_may_stand_together() {
        let expected = Rope { theta: 5e5, kind: RopeKind::Linear { factor: 2.0 } };
        let old = json!({"rope_theta": 500000, "rope_scaling": {"type": "linear", "factor": 2}});
        let new = json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}});
        assert_eq!(read(old).unwrap(), expected);
        assert_eq!(read(new).unwrap(), expected);
        let mut both = Map::new();
        expected.write(&mut both);
        assert_eq!(read(Value::Object(both)).unwrap(), expected);
    }

    #[test]
    fn llama3_falls_back_to_the_configured_length() {
        let with = |extra: Value| {
            let mut rope =
                json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
            rope.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            read(json!({"rope_scaling": rope}))
        };
        let original = |rope: Rope| match rope.kind {
            RopeKind::Llama3 { original_max_position_embeddings, .. } => original_max_position_embeddings,
            _ => -1,
        };
        assert_eq!(original(with(json!({})).unwrap()), 4096);
        assert_eq!(original(with(json!({"original_max_position_embeddings": 16})).unwrap()), 16);
        assert!(with(json!({"high_freq_factor": 1.0})).unwrap_err().contains("rope_scaling.high_freq_factor"));
    }

    #[test]
    fn disagreeing_dialects_are_refused() {
        let error = read(json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}})).unwrap_err();
        assert!(error.contains("rope_parameters.rope_theta"), "{error}");
        let error = read(
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}}),
        );
        assert!(error.unwrap_err().contains("rope_type"));
    }

    #[test]
    fn other_types_and_wrong_values_are_refused_by_name() {
        for name in ["dynamic", "yarn", "longrope", "mrope"] {
            let error = read(json!({"rope_scaling": {"rope_type": name, "factor": 2.0}})).unwrap_err();
            assert!(error.contains(name) && error.contains(SUPPORTED), "{error}");
        }
        for wrong in [
            json!({"rope_theta": -1.0}),
            json!({"rope_theta": "10000"}),
            json!({"rope_scaling": 3}),
            json!({"rope_scaling": {"rope_type": "linear"}}),
            json!({"rope_scaling": {"rope_type": "linear", "factor": 0}}),
            json!({"rope_scaling": {"factor": 2.0}}),
            json!({"partial_rotary_factor": 0.5}),
            json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
