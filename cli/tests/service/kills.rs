//! Kills each process and all of them with SIGKILL during many uploads: every image that got a 200
//! or 202 has exactly one result in the end. `make soak` does so for a long time.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use eirs_harness::{POLICY, Process, Site, Web, eventually, eventually_within, image, upload};

const UPLOADS: u32 = 1000;
const CLIENTS: usize = 8;
/// Time limit for a quarter of the uploads, which usually takes seconds.
const LONG: Duration = Duration::from_secs(600);

struct Running {
    web: Web,
    controller: Process,
}

/// The times of the kills.
#[derive(Clone, Copy)]
enum When {
    /// After each quarter of the uploads.
    Quarters,
    /// At intervals until all uploads are done.
    Every(Duration),
}

impl When {
    /// How long an upload waits for its label. At full speed most do not wait.
    fn wait(self, number: u32) -> &'static str {
        match self {
            Self::Every(_) if !number.is_multiple_of(10) => "?wait=0",
            Self::Quarters | Self::Every(_) => "?wait=2s",
        }
    }
}

/// Uploads a thousand images, and calls `disturb` after each quarter.
fn survive(disturb: impl FnMut(&Site, &mut Running)) {
    survive_all(UPLOADS, When::Quarters, disturb);
}

/// Uploads images, and calls `disturb` at the given times; returns the number of calls.
fn survive_all(uploads: u32, when: When, mut disturb: impl FnMut(&Site, &mut Running)) -> u32 {
    let site = Site::new().set("EIRS_CONTROLLER__TICK", "300ms");
    let mut running = Running { web: site.web(), controller: site.controller(POLICY) };
    // The web server restarts with the same address.
    let address = running.web.address.clone();
    let next = AtomicU32::new(0);
    let promised: Mutex<HashSet<String>> = Mutex::default();
    let mut calamities = 0;
    std::thread::scope(|scope| {
        let client = |_| {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= uploads {
                        return;
                    }
                    // Without an answer, the client uploads the image again.
                    let id = eventually("the upload is taken", || {
                        let answer = upload(&address, when.wait(number), "x", &image(number)).ok()?;
                        let taken = answer.status == 200 || answer.status == 202;
                        taken.then(|| answer.json()["id"].as_str().map(str::to_owned)).flatten()
                    });
                    promised.lock().expect("no panic").insert(id);
                }
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        // Also if clients panicked, whose failure is that of the test.
        let are_done = || clients.iter().all(|client| client.is_finished());
        loop {
            let before = Instant::now();
            let is_time = || match when {
                When::Quarters => {
                    calamities < 3 && next.load(Ordering::Relaxed) >= (calamities + 1) * uploads / 4
                }
                When::Every(time) => before.elapsed() >= time,
            };
            let ends = || (are_done() || is_time()).then(&are_done);
            if eventually_within(LONG, "another quarter is through, or all is", ends) {
                return;
            }
            disturb(&site, &mut running);
            calamities += 1;
        }
    });
    let promised = promised.into_inner().expect("no panic");
    assert_eq!(promised.len(), uploads as usize, "all different, all taken");
    for id in &promised {
        assert_eq!(running.web.result(id).json()["label"], "noop");
    }
    assert_eq!(site.stored_results(), uploads as usize, "one result each, and none for anything else");
    eventually("nothing is left in the queue", || {
        let pools = running.web.get("/status").json()["controller"]["pools"][0].clone();
        (pools["visible"] == 0 && pools["in_flight"] == 0).then_some(())
    });
    // The workers must end, too, so that nothing outlives the test.
    eventually("no instance runs", || running.web.workers().is_empty().then_some(()));
    running.controller.kill();
    calamities
}

fn kill_all_three(site: &Site, running: &mut Running) {
    kill_workers(running);
    restart_controller(site, running);
    restart_web(site, running);
}

fn kill_workers(running: &Running) {
    for pid in running.web.workers() {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            // It may have exited by itself.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn restart_web(site: &Site, running: &mut Running) {
    running.web.process.kill();
    let address = running.web.address.clone();
    running.web = site.web_on(&address);
}

fn restart_controller(site: &Site, running: &mut Running) {
    running.controller.kill();
    running.controller = site.controller(POLICY);
}

#[test]
fn a_thousand_uploads_survive_the_kill_of_the_workers() {
    survive(|_, running| kill_workers(running));
}

#[test]
fn a_thousand_uploads_survive_the_kill_of_web() {
    survive(restart_web);
}

#[test]
fn a_thousand_uploads_survive_the_kill_of_the_controller() {
    survive(restart_controller);
}

#[test]
fn a_thousand_uploads_survive_the_kill_of_all_three() {
    survive(kill_all_three);
}

/// No accepted image is lost, and the queue's log stays small.
fn soak(uploads: u32, every: Duration) {
    let mut largest = 0;
    let kills = survive_all(uploads, When::Every(every), |site, running| {
        let log = std::fs::metadata(site.state().join("queue.db-wal")).map_or(0, |log| log.len());
        largest = largest.max(log);
        kill_all_three(site, running);
    });
    println!("{uploads} uploads, {kills} kills of everything, the largest log had {largest} bytes");
    assert!(kills > 1, "the service must have been killed");
    assert!(largest < 16 << 20, "the queue's log had {largest} bytes");
}

#[test]
fn uploads_at_full_speed_survive_the_kill_of_everything_every_two_seconds() {
    soak(6000, Duration::from_secs(2));
}

#[test]
#[ignore = "it takes minutes: make soak"]
fn fifty_thousand_uploads_at_full_speed_survive_the_kill_of_everything_every_few_seconds() {
    soak(50_000, Duration::from_secs(4));
}
