//! Histograms that are kept in large numbers.

use hdrhistogram::Histogram;

/// Two figures that matter, and small: there are many of them.
pub(crate) fn coarse() -> Histogram<u32> {
    Histogram::new(2).expect("two digits are possible")
}

/// One more value. (`saturating_record` would not let the histogram grow.)
pub(crate) fn note(histogram: &mut Histogram<u32>, us: u64) {
    histogram.record(us).expect("a histogram that grows takes everything");
}
