use eirs_platform::{clock::SystemClock, settings::Simulate};
use tokio::time::Instant;

use super::*;
use crate::{
    fleet::{SharedFleet, contract},
    policy::Launch,
};

const LONG: Duration = Duration::from_secs(20);

/// A fleet of [the fake worker](../../../tests/fixtures/worker.sh) in its own folder. Remaining
/// processes are killed at the end.
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
        // The process catches or ignores signal 15.
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

    /// The worker ends by itself.
    async fn leave(&self, _instance: &Instance) {}
}

fn pool(model: &str) -> [PoolSpec; 1] {
    [PoolSpec { name: "p".to_owned(), model: model.to_owned(), max: 1, launch: Launch::default() }]
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
async fn a_record_exists_as_long_as_its_process_and_names_it() {
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
async fn crashes_in_a_row_are_counted_and_known_to_the_next_controller() {
    let rig = Rig::new();
    for crashes in 1..4 {
        start(&rig.fleet, "broken").await;
        let dead = until_stopped(&rig.fleet, "broken").await;
        assert!(dead.last_error.unwrap().starts_with("exited with code 78: wrong settings or model"));
        assert_eq!(dead.crashes, crashes);
    }
    let adopted = only(&open(rig.folder.path(), fake_worker()), "broken").await;
    assert_eq!(adopted.crashes, 3);
}

/// A fleet with simulated faults.
fn with_faults(state: &Path, simulate: Simulate) -> ProcessFleet {
    let mut settings = Settings::default();
    settings.local.state = state.to_owned();
    settings.controller.worker_program = Some(fake_worker());
    settings.controller.simulate = simulate;
    ProcessFleet::open(&settings, None, Arc::new(SystemClock), Arc::default()).unwrap()
}

fn delayed(text: &str) -> Simulate {
    Simulate { start_delay: text.parse().unwrap(), ..Simulate::default() }
}

async fn until_process_runs(fleet: &ProcessFleet) -> Instance {
    let deadline = Instant::now() + LONG;
    loop {
        let instance = only(fleet, "default").await;
        if instance.pid.is_some() {
            return instance;
        }
        assert!(Instant::now() < deadline, "{instance:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_simulated_start_delay_starts_the_process_later_in_the_same_generation() {
    let mut rig = Rig::new();
    rig.fleet = with_faults(rig.folder.path(), delayed("300ms"));
    let began = Instant::now();
    let started = start(&rig.fleet, "default").await;
    assert_eq!((started.state, started.pid), (State::Running, None));
    let up = until_process_runs(&rig.fleet).await;
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!((up.generation, up.since), (started.generation, started.since));
    assert_eq!(rig.record("p-1").unwrap().boot, None);
}

/// Runs in paused time, so that the delay has certainly passed after this time. No process is
/// started.
#[tokio::test(start_paused = true)]
async fn a_start_that_is_cancelled_during_its_delay_stops_at_once() {
    let mut rig = Rig::new();
    for stops in [false, true] {
        rig.fleet = with_faults(rig.folder.path(), delayed("100ms"));
        start(&rig.fleet, "default").await;
        if stops {
            rig.fleet.stop("p-1").await.unwrap();
        } else {
            rig.fleet.drain("p-1", LONG).await.unwrap();
        }
        for wait in [Duration::ZERO, Duration::from_millis(200)] {
            tokio::time::sleep(wait).await;
            let gone = only(&rig.fleet, "default").await;
            assert_eq!((gone.state, gone.pid, gone.crashes), (State::Stopped, None, 0), "{wait:?}");
            assert_eq!(rig.record("p-1"), None);
        }
    }
}

#[tokio::test]
async fn a_delayed_start_is_adopted_by_the_next_controller() {
    let mut rig = Rig::new();
    let first = with_faults(rig.folder.path(), delayed("300ms"));
    let started = start(&first, "default").await;
    drop(first);
    rig.fleet = open(rig.folder.path(), fake_worker());
    let adopted = only(&rig.fleet, "default").await;
    assert_eq!(adopted, started);
    assert_eq!(until_process_runs(&rig.fleet).await.generation, started.generation);
}

#[tokio::test]
async fn simulated_starts_die_hang_and_are_refused_for_capacity() {
    let mut rig = Rig::new();
    rig.fleet = with_faults(rig.folder.path(), Simulate { boot_failure: 1.0, ..delayed("1ms") });
    let (mut died, mut hung) = (0, 0);
    while died == 0 || hung == 0 {
        let instance = start(&rig.fleet, "default").await;
        if rig.record("p-1").is_some_and(|record| record.boot.is_some_and(|boot| boot.end == BootEnd::Hangs))
        {
            hung += 1;
            assert_eq!(instance.state, State::Running);
            rig.fleet.drain("p-1", LONG).await.unwrap();
        } else {
            died += 1;
            let dead = until_stopped(&rig.fleet, "default").await;
            assert!(dead.crashes >= 1, "{dead:?}");
            assert!(dead.last_error.unwrap().contains("did not start (simulated"));
        }
        assert!(died + hung < 100);
    }
    rig.fleet = with_faults(rig.folder.path(), Simulate { capacity_error: 1.0, ..Simulate::default() });
    only(&rig.fleet, "default").await;
    let refused = rig.fleet.start(&["p-1".to_owned()]).await;
    assert!(matches!(refused[0].error, Error::NoCapacity { .. }), "{refused:?}");
    let still = only(&rig.fleet, "default").await;
    assert_eq!((still.state, still.pid), (State::Stopped, None));
}

#[tokio::test]
async fn a_read_only_fleet_lists_the_same_and_refuses_orders() {
    let rig = Rig::new();
    let mut settings = Settings::default();
    settings.local.state = rig.folder.path().to_owned();
    let peek = Peek::new(&settings, Arc::new(SystemClock));
    assert_eq!(peek.list(&[]).await.unwrap(), []);
    let started = start(&rig.fleet, "default").await;
    let two = [PoolSpec { max: 2, ..pool("default")[0].clone() }];
    let seen = peek.list(&two).await.unwrap();
    assert_eq!((seen.len(), &seen[0], seen[1].state), (2, &started, State::Stopped));
    assert!(peek.stop("p-1").await.is_err() && peek.start(&["p-2".to_owned()]).await.len() == 1);
    rig.fleet.drain("p-1", LONG).await.unwrap();
    until_stopped(&rig.fleet, "default").await;
    assert_eq!(peek.list(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_missing_program_is_a_refusal_and_a_crash() {
    let rig = Rig::new();
    let fleet = open(rig.folder.path(), PathBuf::from("/no/such/worker"));
    only(&fleet, "default").await;
    let refused = fleet.start(&["p-1".to_owned()]).await;
    assert!(refused[0].error.to_string().contains("/no/such/worker cannot be run"), "{refused:?}");
    let instance = only(&fleet, "default").await;
    assert_eq!(instance.crashes, 1);
    assert!(instance.last_error.unwrap().contains("/no/such/worker"));
}

#[tokio::test]
async fn a_process_whose_pid_was_not_recorded_is_found_by_its_generation() {
    let rig = Rig::new();
    let before = start(&rig.fleet, "default").await;
    let without_pid = Record { process: None, ..rig.record("p-1").unwrap() };
    state_file::write(&rig.fleet.shared.record_of("p-1"), &without_pid).unwrap();
    assert_eq!(only(&open(rig.folder.path(), fake_worker()), "default").await, before);
}

#[tokio::test]
async fn a_record_of_an_ended_or_other_process_is_deleted() {
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
async fn an_adopted_process_can_be_drained_and_its_end_is_noticed() {
    let rig = Rig::new();
    start(&rig.fleet, "default").await;
    let successor = open(rig.folder.path(), fake_worker());
    assert_eq!(only(&successor, "default").await.state, State::Running);
    successor.drain("p-1", LONG).await.unwrap();
    assert_eq!(until_stopped(&successor, "default").await.crashes, 0);
}
