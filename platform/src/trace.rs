//! The trace of a piece of work. The W3C Trace Context comes with an upload or begins with it, and
//! is passed to the worker in the job and back in the reply, even if no spans are collected: logs
//! can be searched for its id.
//!
//! Only spans of [`TARGET`] are collected. They are not part of the log, so traces may be detailed;
//! without a collector they are disabled at their call sites. For reasons, see
//! docs/decisions/0010-traces.md.

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use opentelemetry::{
    Context, KeyValue, global,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{Span as _, SpanBuilder, SpanContext, SpanKind, TraceContextExt, TraceFlags, TraceState, Tracer},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{IdGenerator, RandomIdGenerator},
};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
use tracing::{Instrument, Span, instrument::Instrumented};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of collected spans.
pub const TARGET: &str = "eirs::trace";

/// Maximum length of a `tracestate`, in bytes. W3C permits dropping longer ones, and it must fit
/// into a job.
const LONGEST_STATE: usize = 512;

/// A place in a trace: the trace, the current span, and whether it is sampled. Always valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Texts")]
pub struct TraceContext {
    traceparent: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    tracestate: String,
}

/// A piece of work in a trace: the span for the collector, and the span whose fields are logged.
#[derive(Debug, Clone)]
pub struct Scope {
    collected: Span,
    logged: Span,
    context: TraceContext,
}

impl Scope {
    /// Begins work in the trace `from`, or in a new one. `collected` is a span of [`TARGET`]
    /// without a parent; `logged` creates the span with the fields for the log, at level ERROR so
    /// that it passes every filter.
    pub fn begin(
        collected: Span,
        from: Option<&TraceContext>,
        logged: impl FnOnce(&TraceContext) -> Span,
    ) -> Self {
        let context = TraceContext::join(&collected, from);
        Self { collected, logged: logged(&context), context }
    }

    /// Creates a scope that is neither collected nor logged.
    pub fn silent() -> Self {
        Self::begin(Span::none(), None, |_| Span::none())
    }

    /// Begins a part of this work, whose span `collected` was created within it.
    pub fn part(&self, collected: Span) -> Self {
        let context = TraceContext::of(&collected).unwrap_or_else(|| self.context.clone());
        Self { collected, logged: self.logged.clone(), context }
    }

    /// Returns the context to pass on with the trace.
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Returns the collected span, to add fields to it.
    pub fn span(&self) -> &Span {
        &self.collected
    }

    /// Runs `work` in this scope, on any thread.
    pub fn run<F: Future>(&self, work: F) -> Instrumented<Instrumented<F>> {
        work.instrument(self.logged.clone()).instrument(self.collected.clone())
    }

    /// Like [`run`](Self::run), for synchronous work.
    pub fn run_now<T>(&self, work: impl FnOnce() -> T) -> T {
        self.collected.in_scope(|| self.logged.in_scope(work))
    }
}

/// The texts of a context in headers and messages.
#[derive(Debug, Default, Deserialize)]
struct Texts {
    traceparent: String,
    #[serde(default)]
    tracestate: String,
}

impl TryFrom<Texts> for TraceContext {
    type Error = &'static str;

    fn try_from(texts: Texts) -> Result<Self, Self::Error> {
        Self::read(&texts.traceparent, &texts.tracestate).ok_or("not a trace context of W3C")
    }
}

/// Deserializes the context of a message. An invalid one becomes `None`, so that no job is lost
/// because of it.
pub(crate) fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TraceContext>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Lenient {
        Good(TraceContext),
        Bad(IgnoredAny),
    }
    Ok(match Lenient::deserialize(deserializer)? {
        Lenient::Good(context) => Some(context),
        Lenient::Bad(_) => None,
    })
}

impl TraceContext {
    /// Parses the headers of these names; `None` if they are invalid.
    pub fn read(traceparent: &str, tracestate: &str) -> Option<Self> {
        let traceparent = traceparent.trim();
        // The library also accepts shorter numbers and signs.
        let fields: Vec<_> = traceparent.get(..55)?.split('-').collect();
        let is_hex = |field: &&str| field.bytes().all(|b| b.is_ascii_hexdigit());
        if !fields.iter().map(|field| field.len()).eq([2, 32, 16, 2]) || !fields.iter().all(is_hex) {
            return None;
        }
        let tracestate = if tracestate.len() > LONGEST_STATE { "" } else { tracestate };
        Self::of_context(
            &Texts { traceparent: traceparent.to_owned(), tracestate: tracestate.to_owned() }.context(),
        )
    }

    /// Begins a trace that is not sampled.
    pub fn begin() -> Self {
        let ids = RandomIdGenerator::default();
        let (trace, span) = (ids.new_trace_id(), ids.new_span_id());
        let context = SpanContext::new(trace, span, TraceFlags::default(), true, TraceState::NONE);
        Self::of_context(&Context::new().with_remote_span_context(context)).expect("random ids are not zero")
    }

    /// Returns the context of a span, if it has one.
    fn of(span: &Span) -> Option<Self> {
        Self::of_context(&span.context())
    }

    /// Returns the id of the trace, 32 hexadecimal digits, which appears in logs.
    pub fn trace_id(&self) -> &str {
        self.traceparent.split('-').nth(1).unwrap_or_default()
    }

    /// Makes `span` part of the trace `from`, or of a new one; returns its context.
    fn join(span: &Span, from: Option<&Self>) -> Self {
        if let Some(from) = from {
            // Fails if no spans are collected.
            let _collected = span.set_parent(from.context());
        }
        Self::of(span).or_else(|| from.cloned()).unwrap_or_else(Self::begin)
    }

    /// Adds a span for a time in the past, such as that in a queue. Clocks of two machines differ,
    /// so one that would end before its start gets zero length.
    pub fn add_past_span(&self, name: &'static str, from: DateTime<Utc>, until: DateTime<Utc>, image: &str) {
        let parent = self.context();
        if !parent.span().span_context().is_sampled() {
            return;
        }
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(SystemTime::from(from))
            .with_attributes([KeyValue::new("image.id", image.to_owned())]);
        let mut span = global::tracer("eirs").build_with_context(builder, &parent);
        span.end_with_timestamp(SystemTime::from(until.max(from)));
    }

    fn context(&self) -> Context {
        Texts { traceparent: self.traceparent.clone(), tracestate: self.tracestate.clone() }.context()
    }

    fn of_context(context: &Context) -> Option<Self> {
        let mut texts = Texts::default();
        TraceContextPropagator::new().inject_context(context, &mut texts);
        let Texts { traceparent, tracestate } = texts;
        (!traceparent.is_empty()).then_some(Self { traceparent, tracestate })
    }
}

impl Texts {
    fn context(&self) -> Context {
        // Independent of the current context of this thread.
        TraceContextPropagator::new().extract_with_context(&Context::new(), self)
    }
}

impl Extractor for Texts {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(&self.traceparent),
            "tracestate" => Some(&self.tracestate),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

impl Injector for Texts {
    fn set(&mut self, key: &str, value: String) {
        match key {
            "traceparent" => self.traceparent = value,
            "tracestate" => self.tracestate = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn headers_are_parsed_as_specified_and_others_are_refused() {
        let context = TraceContext::read(PARENT, "a=1,b=2").unwrap();
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((context.traceparent.as_str(), context.tracestate.as_str()), (PARENT, "a=1,b=2"));
        // A later version may have more fields.
        assert!(TraceContext::read(&format!("cc{}-more", &PARENT[2..]), "").is_some());
        for wrong in [
            "",
            "00",
            &PARENT.to_uppercase(),
            &format!("{PARENT}-more"),
            &PARENT.replace("00-", "ff-"),
            &PARENT.replace("00f067aa0ba902b7", "0000000000000000"),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "4bf9"),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("4bf9", "+bf9"),
        ] {
            assert_eq!(TraceContext::read(wrong, "a=1"), None, "{wrong}");
        }
    }

    #[test]
    fn an_invalid_or_long_state_is_dropped_and_the_trace_is_kept() {
        for state in ["nonsense", &format!("a={}", "x".repeat(600))] {
            let context = TraceContext::read(PARENT, state).unwrap();
            assert_eq!(serde_json::to_value(&context).unwrap(), serde_json::json!({ "traceparent": PARENT }));
        }
    }

    #[test]
    fn new_traces_are_unique_and_not_sampled() {
        let (one, other) = (TraceContext::begin(), TraceContext::begin());
        assert_ne!(one.trace_id(), other.trace_id());
        assert_eq!(one.trace_id().len(), 32);
        assert!(one.traceparent.ends_with("-00"), "{one:?}");
    }

    #[test]
    fn without_a_collector_the_clients_context_is_passed_on_unchanged() {
        let span = tracing::debug_span!(target: TARGET, "upload");
        let context = TraceContext::read(PARENT, "a=1").unwrap();
        assert_eq!(TraceContext::join(&span, Some(&context)), context);
        assert_eq!(TraceContext::of(&span), None);
    }
}
