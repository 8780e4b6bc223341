//! The last hour in samples of ten seconds: arrivals, jobs done, backlog and instances. Kept in
//! memory; at the start it is read from the controller's recording, if there is one.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::state_folder::{OBSERVATIONS, RECORDING};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};
use serde_json::Value;

/// Time between two samples.
pub(super) const EVERY: Duration = Duration::from_secs(10);
const EVERY_S: i64 = EVERY.as_secs() as i64;
const SAMPLES: i64 = 360;
/// The controller records an idle pool once a minute; a longer gap means that it did not run.
const MAX_GAP_S: i64 = 70;
/// Maximum number of bytes that are read, from the end of the recording. An hour of steady load
/// takes one megabyte.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// The sum of all pools at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Unix time in seconds.
    at: i64,
    arrivals_per_s: f64,
    done_per_s: f64,
    backlog: u64,
    ready: u64,
    starting: u64,
    leaving: u64,
    desired: u64,
}

/// Samples, oldest first.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Timeline(VecDeque<Sample>);

impl Sample {
    /// Takes a sample from the controller's status; `None` without a controller.
    pub(super) fn of(controller: &Value, now: DateTime<Utc>) -> Option<Self> {
        let pools = controller["pools"].as_array()?;
        let sum = |key: &str| pools.iter().filter_map(|pool| pool[key].as_u64()).sum::<u64>();
        let rate = |key: &str| pools.iter().filter_map(|pool| pool[key].as_f64()).sum::<f64>();
        Some(Self {
            at: now.timestamp(),
            arrivals_per_s: rate("arrivals_per_s"),
            done_per_s: rate("done_per_s"),
            backlog: sum("visible") + sum("in_flight"),
            ready: sum("ready"),
            starting: sum("starting"),
            leaving: sum("leaving"),
            desired: sum("desired"),
        })
    }
}

/// Serialized as rows, because objects would be mostly keys.
impl Serialize for Timeline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|s| {
                (
                    s.at,
                    rounded(s.arrivals_per_s),
                    rounded(s.done_per_s),
                    s.backlog,
                    s.ready,
                    s.starting,
                    s.leaving,
                    s.desired,
                )
            })
            .collect();
        let mut object = serializer.serialize_struct("Timeline", 3)?;
        object.serialize_field("every_s", &EVERY.as_secs())?;
        object.serialize_field(
            "columns",
            &["at", "arrivals_per_s", "done_per_s", "backlog", "ready", "starting", "leaving", "desired"],
        )?;
        object.serialize_field("rows", &rows)?;
        object.end()
    }
}

/// The fields of a line of the recording that are used here.
#[derive(Debug, Clone, Deserialize)]
struct Line {
    at: DateTime<Utc>,
    pool: String,
    arrived: Option<u64>,
    visible: Option<u64>,
    in_flight: Option<u64>,
    ready: Option<u64>,
    starting: Option<u64>,
    leaving: Option<u64>,
    desired: Option<u64>,
}

impl Line {
    fn backlog(&self) -> u64 {
        self.visible.unwrap_or(0) + self.in_flight.unwrap_or(0)
    }
}

impl Timeline {
    pub(super) fn add(&mut self, sample: Sample) {
        self.0.push_back(sample);
        while self.0.len() as i64 > SAMPLES {
            self.0.pop_front();
        }
    }

    /// Reads the last hour from the controller's recording on this machine; empty if there is none.
    pub(super) async fn of_recording(state: &Path, now: DateTime<Utc>) -> Self {
        let file = state.join(RECORDING).join(OBSERVATIONS);
        let text = tokio::task::spawn_blocking(move || read_end(&file)).await;
        Self::of_lines(&text.unwrap_or_default(), now)
    }

    fn of_lines(text: &str, now: DateTime<Utc>) -> Self {
        let since = now - TimeDelta::seconds(EVERY_S * SAMPLES);
        // The first line may be incomplete, and lines of later versions may not parse.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let mut lines = lines.filter(|line| line.at > since && line.at <= now).peekable();
        let mut last: BTreeMap<String, Line> = BTreeMap::new();
        let mut timeline = Self::default();
        let mut end = since;
        while end < now && lines.peek().is_some() {
            end += TimeDelta::seconds(EVERY_S);
            let (mut arrived, mut done) = (0, 0);
            while let Some(line) = lines.next_if(|line| line.at <= end) {
                let came = line.arrived.unwrap_or(0);
                arrived += came;
                let before = last.get(&line.pool).map_or(0, Line::backlog);
                // Jobs that arrived or were there before, and are no longer there, were done.
                done += (before + came).saturating_sub(line.backlog());
                last.insert(line.pool.clone(), line);
            }
            last.retain(|_, line| (end - line.at).num_seconds() < MAX_GAP_S);
            if last.is_empty() {
                continue;
            }
            let sum = |of: fn(&Line) -> Option<u64>| last.values().filter_map(of).sum::<u64>();
            timeline.add(Sample {
                at: end.timestamp(),
                arrivals_per_s: arrived as f64 / EVERY.as_secs_f64(),
                done_per_s: done as f64 / EVERY.as_secs_f64(),
                backlog: last.values().map(Line::backlog).sum(),
                ready: sum(|line| line.ready),
                starting: sum(|line| line.starting),
                leaving: sum(|line| line.leaving),
                desired: sum(|line| line.desired),
            });
        }
        timeline
    }
}

fn read_end(file: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn line(seconds: i64, pool: &str, arrived: u64, visible: u64, ready: u64) -> String {
        json!({ "v": 1, "at": at(seconds), "pool": pool, "arrived": arrived, "visible": visible,
            "in_flight": 0,
            "ready": ready, "starting": 0, "leaving": 0, "desired": ready })
        .to_string()
    }

    #[test]
    fn a_sample_is_the_sum_of_all_pools_and_none_without_a_controller() {
        let pool = json!({ "arrivals_per_s": 1.5, "done_per_s": 1.0, "visible": 3, "in_flight": 1, "ready": 2,
            "starting": 1, "leaving": 0, "desired": 3 });
        let blind = json!({ "arrivals_per_s": 0.5, "visible": null, "ready": 1 });
        let sample = Sample::of(&json!({ "pools": [pool, blind] }), at(7)).unwrap();
        assert_eq!((sample.at, sample.backlog, sample.ready, sample.desired), (7, 4, 3, 3));
        assert!((sample.arrivals_per_s - 2.0).abs() < 1e-9);
        assert_eq!(Sample::of(&Value::Null, at(7)), None);
    }

    #[test]
    fn the_last_hour_is_read_from_the_recording_with_its_gaps() {
        let text = [
            "half a line\"}".to_owned(),
            line(10, "a", 99, 99, 9),
            line(4001, "a", 20, 15, 1),
            line(4004, "b", 5, 5, 1),
            line(4012, "a", 0, 5, 2),
            line(4500, "a", 0, 0, 0),
        ]
        .join("\n");
        let timeline = Timeline::of_lines(&text, at(4505)).0;
        // The hour begins at 905. The first two samples, then `a` and `b` are carried forward for
        // 70 s, then there is a gap.
        assert_eq!((timeline[0].at, timeline[0].backlog, timeline[0].ready), (4005, 20, 2));
        assert!(
            (timeline[0].arrivals_per_s - 2.5).abs() < 1e-9 && (timeline[0].done_per_s - 0.5).abs() < 1e-9
        );
        assert_eq!((timeline[1].at, timeline[1].backlog, timeline[1].ready), (4015, 10, 3));
        assert!((timeline[1].done_per_s - 1.0).abs() < 1e-9);
        let last = timeline.back().unwrap();
        assert_eq!((last.at, last.backlog), (4505, 0));
        let gap = timeline.iter().zip(timeline.iter().skip(1)).map(|(one, next)| next.at - one.at).max();
        assert!(gap > Some(300), "{timeline:?}");
    }

    #[test]
    fn a_timeline_holds_one_hour() {
        let mut timeline = Timeline::default();
        let sample = Sample::of(&json!({ "pools": [] }), at(0)).unwrap();
        for at in 0..1000 {
            timeline.add(Sample { at, ..sample });
        }
        assert_eq!((timeline.0.len(), timeline.0[0].at), (360, 640));
        let json = serde_json::to_value(&timeline).unwrap();
        assert_eq!(json["rows"][0].as_array().map(Vec::len), json["columns"].as_array().map(Vec::len));
    }
}
