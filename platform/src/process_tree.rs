//! A worker that is killed cannot end the scripts that it runs, which have groups of their own. The
//! process that kills it does. What a script started is known by a mark in its environment,
//! wherever it went: into another group or session, or to another parent.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::{
    Pid, PidfdFlags, Signal, getpgid, kill_process, kill_process_group, pidfd_open, pidfd_send_signal,
};

/// The variable that holds the mark.
pub const MARK: &str = "SCRIPT_OF_WORKER";
/// A process that was killed and is not gone by then is stuck in the kernel.
const PATIENCE: Duration = Duration::from_secs(2);

/// Kills what a process has started. The process itself should have been stopped before, so that it
/// starts nothing more.
pub fn kill_children_of(parent: Pid) {
    let children = children_of(parent);
    let marks: Vec<_> = children.iter().filter_map(|child| mark_of(*child)).collect();
    for child in children {
        let leads_a_group = getpgid(Some(child)).is_ok_and(|group| group == child);
        let _gone_meanwhile = match leads_a_group {
            true => kill_process_group(child, Signal::KILL),
            false => kill_process(child, Signal::KILL),
        };
    }
    marks.iter().for_each(|mark| kill_marked(mark));
}

/// Kills every process whose mark begins like this, and waits until none is left, as far as that
/// can be waited for.
pub fn kill_marked(mark: &str) {
    let deadline = Instant::now() + PATIENCE;
    // One that is killed may have started another a moment before.
    while kill_marked_now(mark) > 0 && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// How many it found.
fn kill_marked_now(mark: &str) -> usize {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let kill = |pid: &Pid| {
        // Opened before the look: what is killed is what was looked at, and not a stranger with its
        // number.
        let Ok(process) = pidfd_open(*pid, PidfdFlags::empty()) else { return false };
        mark_of(*pid).is_some_and(|found| found.starts_with(mark))
            && pidfd_send_signal(process, Signal::KILL).is_ok()
    };
    pids.filter(kill).count()
}

/// The mark of a process; of one that has ended, or is somebody else's, there is none.
fn mark_of(pid: Pid) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let of = |variable: &[u8]| variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec);
    String::from_utf8(environment.split(|byte| *byte == 0).find_map(of)?).ok()
}

/// Every thread has a list of those that it started.
fn children_of(parent: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<_> =
        lists.flat_map(|list| list.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    pids.iter().filter_map(|pid| pid.trim().parse().ok().and_then(Pid::from_raw)).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn a_child_goes_with_its_whole_group_and_the_parent_stays() {
        let script = "setsid sh -c 'sleep 600; true' & wait; echo over; read line";
        let mut parent = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&parent);
        let deadline = Instant::now() + Duration::from_secs(20);
        let grandchildren = loop {
            let found: Vec<_> = children_of(pid).into_iter().flat_map(children_of).collect();
            if !found.is_empty() {
                break found;
            }
            assert!(Instant::now() < deadline, "the shell starts its command");
            std::thread::yield_now();
        };
        kill_children_of(pid);
        let mut out = std::io::BufReader::new(parent.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert_eq!(line, "over\n", "the parent goes on");
        for gone in grandchildren {
            while rustix::process::test_kill_process(gone).is_ok() && !is_dead(gone) {
                assert!(Instant::now() < deadline, "{gone} is gone");
                std::thread::yield_now();
            }
        }
        drop(parent.stdin.take());
        parent.wait().unwrap();
    }

    #[test]
    fn what_is_marked_is_found_in_another_session_with_another_parent_and_nothing_else_is() {
        let start = |mark: &str| {
            // The shell that started it has gone when its number is printed.
            let script = "setsid sh -c 'sleep 600 < /dev/null > /dev/null 2>&1 & echo $!'";
            let out = Command::new("sh").args(["-c", script]).env(MARK, mark).output().unwrap();
            Pid::from_raw(String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()).unwrap()
        };
        let own = format!("test-{}-", std::process::id());
        let (first, second) = (start(&format!("{own}1.")), start(&format!("{own}12.")));
        kill_marked(&format!("{own}1."));
        assert!(is_dead(first) && !is_dead(second), "only the one that is meant");
        kill_marked(&own);
        assert!(is_dead(second));
    }

    /// One that was killed stays in the table until its new parent has looked.
    fn is_dead(pid: Pid) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }
}
