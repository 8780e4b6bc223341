//! Kill -9, in the middle of a thousand uploads, of each process and of all of them: every image that was answered 200 or 202 has
//! exactly one result in the end.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::harness::{POLICY, Process, Site, Web, eventually, image, upload};

const UPLOADS: u32 = 1000;
const CLIENTS: usize = 8;

struct Running {
    web: Web,
    controller: Process,
}

/// Uploads, and does `calamity` to the service each time another quarter is through.
fn survive(mut calamity: impl FnMut(&Site, &mut Running)) {
    let site = Site::new().set("EIRS_CONTROLLER__TICK", "300ms");
    let mut running = Running { web: site.web(), controller: site.controller(POLICY) };
    // The web server comes back where it was.
    let address = running.web.address.clone();
    let next = AtomicU32::new(0);
    let promised: Mutex<HashSet<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= UPLOADS {
                        return;
                    }
                    // As any client does: if there was no answer, upload it again.
                    let id = eventually("the upload is taken", || {
                        let answer = upload(&address, "?wait=2s", "x", &image(number)).ok()?;
                        let taken = answer.status == 200 || answer.status == 202;
                        taken.then(|| answer.json()["id"].as_str().map(str::to_owned)).flatten()
                    });
                    promised.lock().expect("no panic").insert(id);
                }
            });
        }
        for quarter in 1..4 {
            eventually("a quarter", || (next.load(Ordering::Relaxed) >= quarter * UPLOADS / 4).then_some(()));
            calamity(&site, &mut running);
        }
    });
    let promised = promised.into_inner().expect("no panic");
    assert_eq!(promised.len(), UPLOADS as usize, "all different, all taken");
    for id in &promised {
        assert_eq!(running.web.result(id).json()["label"], "noop");
    }
    assert_eq!(site.stored_results(), UPLOADS as usize, "one result each, and none for anything else");
    eventually("nothing is left in the queue", || {
        let pools = running.web.get("/status").json()["controller"]["pools"][0].clone();
        (pools["visible"] == 0 && pools["in_flight"] == 0).then_some(())
    });
    // And the fleet goes, so that nothing outlives the test.
    eventually("no instance runs", || running.web.workers().is_empty().then_some(()));
    running.controller.kill();
}

fn kill_workers(running: &Running) {
    for pid in running.web.workers() {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            // It may have left by itself.
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
    survive(|site, running| {
        kill_workers(running);
        restart_controller(site, running);
        restart_web(site, running);
    });
}
