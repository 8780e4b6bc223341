//! Ensures that no script outlives its worker, however the worker ends.
//!
//! A worker that exits kills the processes of its scripts ([`end_scripts`]). A worker that is
//! killed cannot. Therefore a guardian, a process of the same program, reads from a pipe whose
//! other end only the worker holds. When the worker dies, the kernel closes that end, and the
//! guardian kills all processes with the worker's mark.
//!
//! The kernel's own mechanism is weaker: a parent-death signal (`PR_SET_PDEATHSIG`) reaches a
//! script but not the programs that it started, and is sent as soon as the *thread* that started
//! the script ends.

use std::{
    env, io,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{
        LazyLock, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use eirs_platform::process_tree;

/// The first argument of a guardian; no program of EIRS accepts it otherwise.
const ARGUMENT: &str = "--guard-scripts";

/// Whether this program can start itself as guardian.
static ARMED: AtomicBool = AtomicBool::new(false);
/// Whether this process is about to exit.
static ENDING: AtomicBool = AtomicBool::new(false);
static RUNS: AtomicU64 = AtomicU64::new(0);
/// Started with the first script.
static GUARDIAN: OnceLock<Option<Mutex<Child>>> = OnceLock::new();
/// The prefix of all marks of this process. It is unique: a later process with the same number has
/// another one.
static OWN_MARK: LazyLock<String> = LazyLock::new(|| {
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_nanos());
    format!("{}-{now:x}-", std::process::id())
});

/// Runs the guardian if this process was started as one, and then never returns. Call it first in
/// `main`; it also allows this program to start a guardian.
pub fn enter() {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() != Some(ARGUMENT) {
        return ARMED.store(true, Ordering::Relaxed);
    }
    let _only_shown = rustix::thread::set_name(c"eirs-guardian");
    let _until_the_worker_ends = io::copy(&mut io::stdin().lock(), &mut io::sink());
    arguments.next().inspect(|mark| process_tree::kill_marked(mark));
    std::process::exit(0);
}

/// Kills all processes started by scripts of this process, and prevents new ones. Also ends the
/// guardian, since systemd would otherwise find it running after its worker and kill it.
pub fn end_scripts() {
    ENDING.store(true, Ordering::SeqCst);
    if RUNS.load(Ordering::SeqCst) > 0 {
        process_tree::kill_marked(&OWN_MARK);
    }
    if let Some(Some(guardian)) = GUARDIAN.get() {
        let mut guardian = guardian.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have exited already.
        let _ended = guardian.kill().and_then(|()| guardian.wait());
    }
}

/// Returns whether no script may run any more.
pub(super) fn is_ending() -> bool {
    ENDING.load(Ordering::SeqCst)
}

/// Returns the prefix of the marks of all runs of this process.
pub(super) fn own_mark() -> &'static str {
    &OWN_MARK
}

/// Returns the mark of a new run. The first run that is a child of this process starts the
/// guardian.
pub(super) fn mark_of_a_run(is_own_child: bool) -> String {
    if is_own_child {
        GUARDIAN.get_or_init(begin);
    }
    let run = RUNS.fetch_add(1, Ordering::SeqCst);
    format!("{}{run}.", *OWN_MARK)
}

fn begin() -> Option<Mutex<Child>> {
    if !ARMED.load(Ordering::Relaxed) {
        return None;
    }
    let started = start();
    if let Err(error) = &started {
        tracing::warn!(%error, "the guardian could not be started: if this worker is killed, \
            its scripts keep running");
    }
    started.ok().map(Mutex::new)
}

/// Starts the guardian. Its pipe is open as long as the returned value exists.
fn start() -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg0("eirs-guardian")
        .args([ARGUMENT, &OWN_MARK])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Keys typed in the worker's terminal must not end the guardian.
        .process_group(0)
        .spawn()
}
