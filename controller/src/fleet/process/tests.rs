use eirs_platform::clock::SystemClock;
use tokio::time::Instant;

use super::*;
use crate::fleet::{SharedFleet, contract};

const LONG: Duration = Duration::from_secs(20);

/// A fleet of [the fake worker](../../../tests/fixtures/worker.sh) in a folder of its own; what is left of it is killed at the end.
struct Rig {
    folder: tempfile::TempDir,
    fleet: ProcessFleet,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fleet = open(folder.path(), fake_worker());
        Self { folder, fleet }
    }

    fn record(&self, id: &str) -> Option<Record> {
        let read = fs::read(self.folder.path().join(format!("instances/{id}.json"))).ok()?;
        Some(serde_json::from_slice(&read).unwrap())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for slot in self.fleet.shared.table().slots.values() {
            slot.process.iter().for_each(|process| process.signal(Signal::KILL).unwrap());
        }
    }
}

fn fake_worker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/worker.sh")
}

fn open(state: &Path, program: PathBuf) -> ProcessFleet {
    let mut settings = Settings::default();
    settings.local.state = state.to_owned();
    settings.controller.worker_program = Some(program);
    ProcessFleet::open(&settings, None, Arc::new(SystemClock), Arc::default()).unwrap()
}

#[async_trait]
impl contract::Rig for Rig {
    fn fleet(&self) -> SharedFleet {
        Arc::new(self.fleet.clone())
    }

    async fn reopen(&mut self) {
        self.fleet = open(self.folder.path(), fake_worker());
    }

    async fn ready(&self, instance: &Instance) {
        let status = format!("/proc/{}/status", instance.pid.unwrap());
        let deadline = Instant::now() + LONG;
        // It catches or ignores signal 15.
        let is_ready = |status: &str| {
            let masks =
                status.lines().filter(|line| line.starts_with("SigIgn:") || line.starts_with("SigCgt:"));
            let masks = masks.map(|line| u64::from_str_radix(line[7..].trim(), 16).unwrap());
            masks.fold(0, |all, mask| all | mask) & (1 << 14) != 0
        };
        while !is_ready(&fs::read_to_string(&status).unwrap()) {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn kill(&self, instance: &Instance) {
        let process = self.fleet.shared.table().slots[&instance.id].process.clone();
        process.unwrap().signal(Signal::KILL).unwrap();
    }

    /// It does so by itself.
    async fn leave(&self, _instance: &Instance) {}
}

fn pool(model: &str) -> [PoolSpec; 1] {
    [PoolSpec { name: "p".to_owned(), model: model.to_owned(), max: 1 }]
}

async fn only(fleet: &ProcessFleet, model: &str) -> Instance {
    let mut instances = fleet.list(&pool(model)).await.unwrap();
    assert_eq!(instances.len(), 1);
    instances.remove(0)
}

async fn start(fleet: &ProcessFleet, model: &str) -> Instance {
    only(fleet, model).await;
    let refused = fleet.start(&["p-1".to_owned()]).await;
    assert!(refused.is_empty(), "{refused:?}");
    only(fleet, model).await
}

async fn until_stopped(fleet: &ProcessFleet, model: &str) -> Instance {
    let deadline = Instant::now() + LONG;
    loop {
        let instance = only(fleet, model).await;
        if instance.state == State::Stopped {
            return instance;
        }
        assert!(Instant::now() < deadline, "{instance:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_process_fleet_keeps_the_contract() {
    contract::suite(&async || Rig::new()).await;
}

#[tokio::test]
async fn a_record_lives_as_long_as_its_process_and_names_it() {
    let rig = Rig::new();
    let instance = start(&rig.fleet, "default").await;
    let record = rig.record("p-1").unwrap();
    assert_eq!((record.process.map(|mark| mark.pid), record.generation), (instance.pid, instance.generation));
    rig.fleet.drain("p-1", LONG).await.unwrap();
    assert_eq!(rig.record("p-1").map(|record| record.state), Some(State::Draining));
    until_stopped(&rig.fleet, "default").await;
    assert_eq!(rig.record("p-1"), None);
}

#[tokio::test]
async fn a_worker_that_crashes_at_its_start_is_left_alone_for_longer_each_time() {
    let rig = Rig::new();
    let mut waits = Vec::new();
    for _ in 0..3 {
        start(&rig.fleet, "broken").await;
        let dead = until_stopped(&rig.fleet, "broken").await;
        assert!(
            dead.last_error.unwrap().starts_with("exited with code 78: its settings or its model are bad")
        );
        waits.push((dead.not_before.unwrap() - dead.since).num_seconds());
    }
    assert_eq!(waits, [1, 2, 4]);
    let adopted = only(&open(rig.folder.path(), fake_worker()), "broken").await;
    assert_eq!((adopted.crashes, (adopted.not_before.unwrap() - adopted.since).num_seconds()), (3, 4));
    let most = Crashes { count: u32::MAX, last: DateTime::UNIX_EPOCH };
    assert_eq!(most.not_before() - most.last, chrono_duration(LONGEST_BACK_OFF));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_refusal_and_a_back_off() {
    let rig = Rig::new();
    let fleet = open(rig.folder.path(), PathBuf::from("/no/such/worker"));
    only(&fleet, "default").await;
    let refused = fleet.start(&["p-1".to_owned()]).await;
    assert!(refused[0].error.to_string().contains("/no/such/worker cannot be run"), "{refused:?}");
    let instance = only(&fleet, "default").await;
    assert!(instance.not_before.is_some() && instance.last_error.unwrap().contains("/no/such/worker"));
}

#[tokio::test]
async fn a_process_whose_pid_was_never_written_down_is_found_by_its_generation() {
    let rig = Rig::new();
    let before = start(&rig.fleet, "default").await;
    let without_pid = Record { process: None, ..rig.record("p-1").unwrap() };
    state_file::write(&rig.fleet.shared.record_of("p-1"), &without_pid).unwrap();
    assert_eq!(only(&open(rig.folder.path(), fake_worker()), "default").await, before);
}

#[tokio::test]
async fn a_record_of_a_process_that_is_gone_or_of_a_stranger_is_put_away() {
    let rig = Rig::new();
    start(&rig.fleet, "default").await;
    let mut record = serde_json::to_value(rig.record("p-1").unwrap()).unwrap();
    record["process"]["started_ticks"] = 1.into();
    fs::write(rig.fleet.shared.record_of("p-1"), record.to_string()).unwrap();
    fs::write(rig.folder.path().join("instances/nonsense.json"), "{").unwrap();
    let found = only(&open(rig.folder.path(), fake_worker()), "default").await;
    assert_eq!((found.state, found.pid), (State::Stopped, None));
    assert_eq!(fs::read_dir(rig.folder.path().join("instances")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_adopted_process_is_drained_and_its_end_is_noticed() {
    let rig = Rig::new();
    start(&rig.fleet, "default").await;
    let heir = open(rig.folder.path(), fake_worker());
    assert_eq!(only(&heir, "default").await.state, State::Running);
    heir.drain("p-1", LONG).await.unwrap();
    assert_eq!(until_stopped(&heir, "default").await.crashes, 0);
}
