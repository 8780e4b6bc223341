use eirs_platform::queue::Depth;
use proptest::prelude::*;

use super::*;
use crate::observe::PoolView;

const GAP: Duration = Duration::from_secs(60);

fn at(second: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn seen(second: u64, backlog: Option<u64>) -> Observation {
    let depth = backlog.map(|visible| Depth { visible, in_flight: 0 });
    let pool = PoolView { depth, ..PoolView::default() };
    Observation {
        at: at(second),
        pools: BTreeMap::from([("p".to_owned(), pool)]),
        instances: None,
        hears: true,
        missing: Vec::new(),
        operator: Default::default(),
        refused: BTreeMap::new(),
        versions: BTreeMap::new(),
    }
}

fn history(looks: &[(u64, Option<u64>)]) -> History {
    looks
        .iter()
        .fold(History::new(GAP), |history, (second, backlog)| history.observe(&seen(*second, *backlog)))
}

#[track_caller]
fn check(looks: &[(u64, Option<u64>)], window: u64, expected: Option<u64>) {
    let (now, _) = looks[looks.len() - 1];
    assert_eq!(history(looks).peak_over("p", Duration::from_secs(window), at(now)), expected);
}

#[test]
fn a_peak_is_unknown_until_the_history_covers_the_window() {
    check(&[(100, Some(3))], 1, None);
    check(&[(100, Some(3)), (110, Some(0))], 11, None);
    check(&[(100, Some(3)), (110, Some(0))], 10, Some(3));
}

#[test]
fn a_backlog_lasts_until_the_next_observation() {
    check(&[(0, Some(9)), (10, Some(1)), (20, Some(0))], 10, Some(1));
    check(&[(0, Some(9)), (10, Some(1)), (20, Some(0))], 11, Some(9));
}

#[test]
fn an_unreadable_backlog_a_long_gap_and_a_clock_set_back_restart_the_history() {
    check(&[(0, Some(0)), (10, None), (20, Some(0)), (30, Some(0))], 20, None);
    check(&[(0, Some(0)), (61, Some(0)), (70, Some(0))], 20, None);
    check(&[(100, Some(0)), (50, Some(0)), (60, Some(0))], 20, None);
    check(&[(0, Some(0)), (60, Some(0))], 20, Some(0));
}

proptest! {
    #[test]
    fn the_peak_is_the_highest_of_all_observations_that_reach_into_the_window(
        steps in prop::collection::vec((1u64..50, 0u64..20), 2..40), window in 0u64..200,
    ) {
        let mut now = 0;
        let looks: Vec<_> = steps
            .iter()
            .map(|(step, backlog)| {
                now += step;
                (now, Some(*backlog))
            })
            .collect();
        let start = looks[0].0;
        let peak = history(&looks).peak_over("p", Duration::from_secs(window), at(now));
        if now - start < window {
            prop_assert_eq!(peak, None);
        } else {
            // An observation lasts until the next one, the last one until now.
            let ends = looks.iter().skip(1).map(|look| look.0).chain([now + 1]);
            let reach = looks.iter().zip(ends).filter(|(_, end)| *end > now - window.min(now));
            prop_assert_eq!(peak, reach.map(|(look, _)| look.1.unwrap()).max());
        }
    }
}
