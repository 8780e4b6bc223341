//! Counters of connections: open, refused, and closed by this server.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

pub(crate) use super::catalogue::{Closed, NotAccepted};

/// The counters of one listener. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    pub(super) open: Gauge,
    pub(super) refused: Family<RefusedLabels, Counter>,
    pub(super) closed: Family<ClosedLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RefusedLabels {
    limit: NotAccepted,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ClosedLabels {
    reason: Closed,
}

impl Connections {
    /// Creates the counters with every series at zero.
    pub(super) fn new() -> Self {
        let counters = Self::default();
        for limit in NotAccepted::ALL {
            drop(counters.refused.get_or_create(&RefusedLabels { limit: *limit }));
        }
        for reason in Closed::ALL {
            drop(counters.closed.get_or_create(&ClosedLabels { reason: *reason }));
        }
        counters
    }

    /// Counts a connection that was opened.
    pub(crate) fn opened(&self) {
        self.open.inc();
    }

    /// Counts a connection that has ended, for whatever reason.
    pub(crate) fn ended(&self) {
        self.open.dec();
    }

    /// Counts a connection that was refused.
    pub(crate) fn refused(&self, limit: NotAccepted) {
        self.refused.get_or_create(&RefusedLabels { limit }).inc();
    }

    /// Counts a connection that this server closed before its client was done.
    pub(crate) fn closed(&self, reason: Closed) {
        self.closed.get_or_create(&ClosedLabels { reason }).inc();
    }
}
