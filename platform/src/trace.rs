//! Which trace a piece of work belongs to. The W3C Trace Context comes with an upload or is begun
//! with it, and travels in the job to the worker and in the answer back, whether or not anybody
//! collects spans: its id is what logs are searched for.
//!
//! Spans that are collected are those of [`TARGET`]. They are no part of any log, so that a trace
//! may be as fine as it likes; with no collector they are switched off at their call sites. Why
//! like this: docs/decisions/0010-traces.md.

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

/// The target of the spans that are collected.
pub const TARGET: &str = "eirs::trace";

/// A `tracestate` that is longer may be dropped, says W3C, and it must fit into a job.
const LONGEST_STATE: usize = 512;

/// A place in a trace: the trace, the span that asks for more work, and whether anybody collects
/// it. Always a valid one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Texts")]
pub struct TraceContext {
    traceparent: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    tracestate: String,
}

/// A piece of work in a trace: what the collector gets of it, and what the log says of everything
/// that happens in it.
#[derive(Debug, Clone)]
pub struct Scope {
    collected: Span,
    logged: Span,
    context: TraceContext,
}

impl Scope {
    /// Work that begins here, in the trace `from` or in a new one. `collected` is a span of
    /// [`TARGET`] without a parent; `logged` makes the one whose fields the log must have, at the
    /// level of errors, so that every filter lets it pass.
    pub fn begin(
        collected: Span,
        from: Option<&TraceContext>,
        logged: impl FnOnce(&TraceContext) -> Span,
    ) -> Self {
        let context = TraceContext::join(&collected, from);
        Self { collected, logged: logged(&context), context }
    }

    /// Work that nobody asked for, and that neither a collector nor the log gets.
    pub fn untold() -> Self {
        Self::begin(Span::none(), None, |_| Span::none())
    }

    /// A part of this work: `collected` was made within it.
    pub fn part(&self, collected: Span) -> Self {
        let context = TraceContext::of(&collected).unwrap_or_else(|| self.context.clone());
        Self { collected, logged: self.logged.clone(), context }
    }

    /// What others need to know to go on with the trace.
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    /// The span that is collected, to add to it.
    pub fn span(&self) -> &Span {
        &self.collected
    }

    /// Works in this scope, on whatever thread.
    pub fn run<F: Future>(&self, work: F) -> Instrumented<Instrumented<F>> {
        work.instrument(self.logged.clone()).instrument(self.collected.clone())
    }

    /// The same for work that does not wait.
    pub fn run_now<T>(&self, work: impl FnOnce() -> T) -> T {
        self.collected.in_scope(|| self.logged.in_scope(work))
    }
}

/// As it is written, in headers and messages.
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

/// Reads the context of a message. One that cannot be read is as good as none: no job is lost for
/// it.
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
    /// Of the headers of these names; `None` where they are no trace context.
    pub fn read(traceparent: &str, tracestate: &str) -> Option<Self> {
        let traceparent = traceparent.trim();
        // The library takes shorter numbers and signs, too.
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

    /// A new trace that nobody collects.
    pub fn begin() -> Self {
        let ids = RandomIdGenerator::default();
        let (trace, span) = (ids.new_trace_id(), ids.new_span_id());
        let context = SpanContext::new(trace, span, TraceFlags::default(), true, TraceState::NONE);
        Self::of_context(&Context::new().with_remote_span_context(context)).expect("random ids are not zero")
    }

    /// Of a span that is collected, or belongs to a trace that could have been.
    fn of(span: &Span) -> Option<Self> {
        Self::of_context(&span.context())
    }

    /// The id of the trace, 32 hexadecimal digits: what logs are searched for.
    pub fn trace_id(&self) -> &str {
        self.traceparent.split('-').nth(1).unwrap_or_default()
    }

    /// Makes `span` a part of the trace `from`, or of a new one; answers its place there.
    fn join(span: &Span, from: Option<&Self>) -> Self {
        if let Some(from) = from {
            // It fails where nobody collects spans.
            let _collected = span.set_parent(from.context());
        }
        Self::of(span).or_else(|| from.cloned()).unwrap_or_else(Self::begin)
    }

    /// Adds a span that was nobody's while it lasted, such as the time in a queue. Two machines'
    /// clocks differ: one that would end before it began has no length.
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
        // Not in the context of whatever this thread does now.
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
    fn headers_are_read_as_w3c_says_and_anything_else_is_no_context() {
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
    fn a_state_that_is_broken_or_would_not_fit_into_a_job_is_dropped_and_the_trace_is_kept() {
        for state in ["nonsense", &format!("a={}", "x".repeat(600))] {
            let context = TraceContext::read(PARENT, state).unwrap();
            assert_eq!(serde_json::to_value(&context).unwrap(), serde_json::json!({ "traceparent": PARENT }));
        }
    }

    #[test]
    fn traces_that_begin_here_are_all_different_and_nobody_collects_them() {
        let (one, other) = (TraceContext::begin(), TraceContext::begin());
        assert_ne!(one.trace_id(), other.trace_id());
        assert_eq!(one.trace_id().len(), 32);
        assert!(one.traceparent.ends_with("-00"), "{one:?}");
    }

    #[test]
    fn without_a_collector_the_context_of_the_client_is_passed_on_as_it_came() {
        let span = tracing::debug_span!(target: TARGET, "upload");
        let context = TraceContext::read(PARENT, "a=1").unwrap();
        assert_eq!(TraceContext::join(&span, Some(&context)), context);
        assert_eq!(TraceContext::of(&span), None);
    }
}
