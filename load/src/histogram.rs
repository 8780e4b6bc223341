//! Small histograms, for use in large numbers.

use hdrhistogram::Histogram;

/// Creates a histogram with two significant digits, which needs little memory.
pub(crate) fn coarse() -> Histogram<u32> {
    Histogram::new(2).expect("two digits are possible")
}

/// Records a value. (`saturating_record` would not let the histogram grow.)
pub(crate) fn note(histogram: &mut Histogram<u32>, us: u64) {
    histogram.record(us).expect("a histogram that grows takes everything");
}
