use bytesize::ByteSize;
use eirs_platform::queue::Depth;

use super::*;
use crate::decide::PoolPlan;

struct Rig {
    folder: tempfile::TempDir,
    recording: Recording,
}

impl Rig {
    fn new(size: ByteSize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let recording = Recording::of(&settings(folder.path(), size));
        Self { folder, recording }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(FOLDER)
    }

    fn look(&mut self, second: i64, arrived: u64, visible: u64, desired: u32) {
        let at = DateTime::UNIX_EPOCH + TimeDelta::seconds(second);
        let depth = Some(Depth { visible, in_flight: 1 });
        let view = PoolView { depth, arrived, ..PoolView::default() };
        let seen = Observation {
            at,
            pools: BTreeMap::from([("p".to_owned(), view)]),
            instances: None,
            hears: true,
            missing: Vec::new(),
            operator: Default::default(),
            refused: BTreeMap::new(),
            versions: BTreeMap::new(),
        };
        let part = PoolPlan { desired, ready: 1, ..PoolPlan::default() };
        let plan = Plan { at, pools: BTreeMap::from([("p".to_owned(), part)]) };
        self.recording.note(&seen, &plan, |_| (Some(0.210_000_4), Some(25.0)), None);
    }

    fn lines(&self) -> Vec<Line> {
        read(&self.path()).map(|line| line.unwrap()).collect()
    }
}

fn settings(state: &Path, size: ByteSize) -> Settings {
    let mut settings = Settings::default();
    settings.local.state = state.to_owned();
    settings.controller.recording_size = size;
    settings
}

#[test]
fn a_line_is_written_when_something_changes_and_arrivals_add_up_exactly() {
    let mut rig = Rig::new(ByteSize::mib(1));
    // Time, total arrivals, waiting jobs, desired instances.
    for (second, arrived, visible, desired) in [
        (0, 7, 0, 1),
        (5, 7, 0, 1),
        (10, 19, 0, 1),
        (10, 20, 5, 1),
        (10, 20, 5, 2),
        (11, 21, 5, 2),
        (70, 21, 5, 2),
        (71, 21, 5, 2),
    ] {
        rig.look(second, arrived, visible, desired);
    }
    let short: Vec<_> = rig
        .lines()
        .into_iter()
        .map(|line| (line.at.timestamp(), line.arrived, line.visible, line.desired))
        .collect();
    assert_eq!(
        short,
        [
            (0, 0, Some(0), 1),
            (10, 12, Some(0), 1),
            (10, 1, Some(5), 2),
            (11, 1, Some(5), 2),
            // Without a change, a line is written every minute.
            (71, 0, Some(5), 2),
        ]
    );
}

#[test]
fn a_line_has_the_documented_format() {
    let mut rig = Rig::new(ByteSize::mib(1));
    rig.look(0, 7, 3, 2);
    assert_eq!(
        fs::read_to_string(rig.path().join(CURRENT)).unwrap(),
        "{\"v\":1,\"at\":\"1970-01-01T00:00:00Z\",\"pool\":\"p\",\"arrived\":0,\"visible\":3,\"in_flight\":1,\
         \"ready\":1,\"starting\":0,\"leaving\":0,\"desired\":2,\"service_s\":0.21,\"start_delay_s\":25.0}\n"
    );
}

#[test]
fn all_files_together_stay_below_the_limit_and_the_oldest_are_deleted_first() {
    let mut rig = Rig::new(ByteSize::kib(16));
    let count = 500;
    for second in 0..count {
        rig.look(second * 10, second as u64 * 3, 0, 1);
    }
    let files = read::files(&rig.path()).unwrap();
    let bytes: u64 = files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!((10 << 10..=16 << 10).contains(&bytes), "{bytes}");
    let lines = rig.lines();
    assert_eq!(lines.last().unwrap().at.timestamp(), (count - 1) * 10);
    assert!(lines.windows(2).all(|pair| (pair[1].at - pair[0].at).num_seconds() == 10), "without a gap");
}

#[test]
fn a_line_that_a_crash_cut_off_is_left_out_and_the_next_controller_continues_after_the_complete_ones() {
    let mut rig = Rig::new(ByteSize::mib(1));
    rig.look(0, 0, 0, 1);
    rig.look(10, 1, 0, 1);
    let file = rig.path().join(CURRENT);
    let whole = fs::read(&file).unwrap();
    let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for end in second..whole.len() {
        fs::write(&file, &whole[..end]).unwrap();
        // A line without its newline may still be complete.
        let expected = if end == whole.len() - 1 { 2 } else { 1 };
        assert_eq!(rig.lines().len(), expected, "cut at {end}");
        let settings = settings(rig.folder.path(), ByteSize::mib(1));
        rig.recording = Recording::of(&settings);
        rig.look(20, 1, 0, 1);
        assert_eq!(rig.lines().iter().map(|line| line.at.timestamp()).collect::<Vec<_>>(), [0, 20]);
    }
}

#[test]
fn an_invalid_line_is_named_and_the_rest_is_read() {
    let mut rig = Rig::new(ByteSize::mib(1));
    rig.look(0, 0, 0, 1);
    let file = rig.path().join(CURRENT);
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{good}nonsense\n{}{good}", good.replace("\"v\":1", "\"v\":9"))).unwrap();
    let read: Vec<_> = read(&file).map(|line| line.map_err(|error| error.to_string())).collect();
    assert_eq!(read.len(), 4);
    assert!(read[0].is_ok() && read[3].is_ok());
    let [second, third] = [&read[1], &read[2]].map(|read| read.as_ref().unwrap_err());
    assert!(second.contains("observations.jsonl:2: is not a line of a recording"), "{second}");
    assert!(third.contains("observations.jsonl:3: has version 9"), "{third}");
    assert!(super::read(Path::new("/nowhere")).next().unwrap().is_err());
}

#[test]
fn a_recording_that_is_off_or_cannot_be_written_does_no_harm() {
    let mut rig = Rig::new(ByteSize::mib(1));
    let mut off = settings(rig.folder.path(), ByteSize::mib(1));
    off.controller.recording = false;
    rig.recording = Recording::of(&off);
    rig.look(0, 0, 0, 1);
    assert!(!rig.path().exists());

    fs::write(rig.path(), "in the way").unwrap();
    rig.recording = Recording::of(&settings(rig.folder.path(), ByteSize::mib(1)));
    rig.look(0, 0, 0, 1);
    fs::remove_file(rig.path()).unwrap();
    rig.look(10, 4, 0, 1);
    let arrived: Vec<_> = rig.lines().iter().map(|line| line.arrived).collect();
    assert_eq!(arrived, [4], "arrivals that were not written are in the next line");
}
