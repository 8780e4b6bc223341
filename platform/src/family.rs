//! A worker that is killed cannot end the scripts that it runs, which have groups of their own. Whoever kills it does.

use std::fs;

use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};

/// Kills what a process has started. The process itself should have been stopped before, so that it starts nothing more.
pub fn kill_children_of(parent: Pid) {
    for child in children_of(parent) {
        let leads_a_group = getpgid(Some(child)).is_ok_and(|group| group == child);
        let _gone_meanwhile = match leads_a_group {
            true => kill_process_group(child, Signal::KILL),
            false => kill_process(child, Signal::KILL),
        };
    }
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

    /// One that was killed stays in the table until its new parent has looked.
    fn is_dead(pid: Pid) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }
}
