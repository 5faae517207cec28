//! The part of TensorBoard's protocol buffers that a run needs: an event, its summary of values, the mark of a
//! session's start. Field numbers are those of `event.proto`, `summary.proto`, `histogram.proto` and `tensor.proto`.
//!
//! Only shapes are here; what is put into them is in `summary.rs`, how they lie in a file in `event_file.rs`.

/// What the first event of a file says.
pub(super) const FILE_VERSION: &str = "brain.Event:2";
/// `SessionStatus.START`.
pub(super) const SESSION_START: i32 = 1;
/// `DataType.DT_STRING`.
pub(super) const STRING: i32 = 7;

/// One record of an event file.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub what: Option<What>,
}

/// What an event is about.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// `SessionStatus` and nothing else: a start makes a reader forget the events from this step on.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SessionLog {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// Values of one step.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Tagged>,
}

/// A value and its tag (`Summary.Value`).
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tagged {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(oneof = "Datum", tags = "2, 5, 8")]
    pub datum: Option<Datum>,
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<Metadata>,
}

/// The kinds of value that a run writes.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Datum {
    #[prost(float, tag = "2")]
    Scalar(f32),
    #[prost(message, tag = "5")]
    Histogram(Histogram),
    #[prost(message, tag = "8")]
    Tensor(StringTensor),
}

/// Counts in buckets; bucket i ends at `bucket_limit[i]` and begins where the one before it ends.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Histogram {
    #[prost(double, tag = "1")]
    pub min: f64,
    #[prost(double, tag = "2")]
    pub max: f64,
    #[prost(double, tag = "3")]
    pub num: f64,
    #[prost(double, tag = "4")]
    pub sum: f64,
    #[prost(double, tag = "5")]
    pub sum_squares: f64,
    #[prost(double, repeated, tag = "6")]
    pub bucket_limit: Vec<f64>,
    #[prost(double, repeated, tag = "7")]
    pub bucket: Vec<f64>,
}

/// Which plugin shows a tag (`SummaryMetadata`).
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Metadata {
    #[prost(message, optional, tag = "1")]
    pub plugin: Option<Plugin>,
}

/// `SummaryMetadata.PluginData`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Plugin {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A `TensorProto` of strings.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StringTensor {
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub values: Vec<Vec<u8>>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Shape {
    #[prost(message, repeated, tag = "2")]
    pub dimensions: Vec<Dimension>,
}

/// `TensorShapeProto.Dim`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Dimension {
    #[prost(int64, tag = "1")]
    pub size: i64,
}
