//! Kills the processes that a worker has started. A killed worker cannot end its scripts, which
//! have their own process groups, so the process that kills it does. Processes started by a script
//! are recognized by a mark in their environment, even in another group or session, or with another
//! parent.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::{
    Pid, PidfdFlags, Signal, getpgid, kill_process, kill_process_group, pidfd_open, pidfd_send_signal,
};

/// The environment variable of the mark.
pub const MARK: &str = "SCRIPT_OF_WORKER";
/// A killed process that still exists after this time is stuck in the kernel.
const PATIENCE: Duration = Duration::from_secs(2);

/// Kills what a process has started. Stop the process itself before, so that it starts nothing
/// more.
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

/// Kills every process whose mark begins with `mark`, and waits until none is left, for a limited
/// time.
pub fn kill_marked(mark: &str) {
    until_none_is_left(|| kill_marked_now(mark, |_| true));
}

/// Like [`kill_marked`], for marked processes that were started after `first`. Reads only what is
/// that young, and nothing at all if no process is: cheap enough for each image.
pub fn kill_marked_since(mark: &str, first: Pid) {
    until_none_is_left(|| match last_pid() {
        Some(last) if last == first => 0,
        last => kill_marked_now(mark, |pid| last.is_none_or(|last| is_between(pid, first, last))),
    });
}

/// A process may have started another one just before it was killed.
fn until_none_is_left(kill: impl Fn() -> usize) {
    let deadline = Instant::now() + PATIENCE;
    while kill() > 0 && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Returns the number of the process that was started last, the last word of `/proc/loadavg`
/// (proc(5)).
fn last_pid() -> Option<Pid> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().last()?.parse().ok().and_then(Pid::from_raw)
}

/// Returns whether a number was given after `first` and not after `last`. Numbers are given in
/// order, and begin again after the greatest.
fn is_between(pid: Pid, first: Pid, last: Pid) -> bool {
    let [pid, first, last] = [pid, first, last].map(Pid::as_raw_nonzero);
    if first <= last { first < pid && pid <= last } else { first < pid || pid <= last }
}

/// Kills the marked processes with these numbers once; returns how many there were.
fn kill_marked_now(mark: &str, is_wanted: impl Fn(Pid) -> bool) -> usize {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let pids = pids.filter(|pid| is_wanted(*pid));
    let kill = |pid: &Pid| {
        // Opened before the check, so that the checked process is killed and not another one with a
        // reused id.
        let Ok(process) = pidfd_open(*pid, PidfdFlags::empty()) else { return false };
        mark_of(*pid).is_some_and(|found| found.starts_with(mark))
            && pidfd_send_signal(process, Signal::KILL).is_ok()
    };
    pids.filter(kill).count()
}

/// Returns the mark of a process, or `None` if it has ended or belongs to another user.
fn mark_of(pid: Pid) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let of = |variable: &[u8]| variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec);
    String::from_utf8(environment.split(|byte| *byte == 0).find_map(of)?).ok()
}

/// Returns the children of a process; each thread has its own list of them.
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
    fn children_are_killed_with_their_groups_but_not_the_parent() {
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
        assert_eq!(line, "over\n", "the parent keeps running");
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
    fn only_marked_processes_are_killed_even_in_another_session() {
        let start = |mark: &str| {
            // The shell that started it has ended when the id is printed.
            let script = "setsid sh -c 'sleep 600 < /dev/null > /dev/null 2>&1 & echo $!'";
            let out = Command::new("sh").args(["-c", script]).env(MARK, mark).output().unwrap();
            Pid::from_raw(String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()).unwrap()
        };
        let own = format!("test-{}-", std::process::id());
        let (first, second) = (start(&format!("{own}1.")), start(&format!("{own}12.")));
        kill_marked(&format!("{own}1."));
        assert!(is_dead(first) && !is_dead(second), "only the process with this mark");
        kill_marked(&own);
        assert!(is_dead(second));
    }

    #[test]
    fn processes_started_after_another_one_are_killed_and_older_ones_are_not() {
        let own = format!("test-{}-since-", std::process::id());
        let start = || Command::new("sleep").arg("600").env(MARK, &own).spawn().unwrap();
        let (mut old, mut first, mut young) = (start(), start(), start());
        let pid = |child: &std::process::Child| Pid::from_child(child);
        kill_marked_since(&own, pid(&first));
        assert!(is_dead(pid(&young)) && !is_dead(pid(&first)) && !is_dead(pid(&old)));
        kill_marked(&own);
        for child in [&mut old, &mut first, &mut young] {
            child.wait().unwrap();
        }
    }

    #[test]
    fn numbers_of_processes_begin_again() {
        let is_between = |pid, first, last| {
            let [pid, first, last] = [pid, first, last].map(|raw| Pid::from_raw(raw).unwrap());
            is_between(pid, first, last)
        };
        for (pid, first, last, expected) in [
            (6, 5, 9, true),
            (9, 5, 9, true),
            (5, 5, 9, false),
            (10, 5, 9, false),
            (4, 5, 9, false),
            (99, 95, 3, true),
            (2, 95, 3, true),
            (95, 95, 3, false),
            (50, 95, 3, false),
        ] {
            assert_eq!(is_between(pid, first, last), expected, "{pid} {first} {last}");
        }
    }

    /// Returns whether a process has ended; it may remain as a zombie until its new parent waits
    /// for it.
    fn is_dead(pid: Pid) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }
}
