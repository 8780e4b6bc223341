//! No script outlives its worker, however the worker ends.
//!
//! A worker that leaves by itself kills what its scripts started ([`end_scripts`]). One that is
//! killed cannot: beside it waits a process of the same program that reads from a pipe whose other
//! end only the worker holds. The kernel closes that end with the worker, whatever it died of, and
//! then the guardian kills what bears the worker's mark.
//!
//! The kernel's own means do less: a death signal for the parent (`PR_SET_PDEATHSIG`) reaches a
//! script but not the programs that the script started, and comes already when the *thread* that
//! started it ends.

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

/// The first argument of a guardian; no program of EIRS knows it otherwise.
const ARGUMENT: &str = "--guard-scripts";

/// Whether this program can be its own guardian.
static ARMED: AtomicBool = AtomicBool::new(false);
/// Whether this process is about to leave.
static ENDING: AtomicBool = AtomicBool::new(false);
static RUNS: AtomicU64 = AtomicU64::new(0);
/// Started with the first script.
static GUARDIAN: OnceLock<Option<Mutex<Child>>> = OnceLock::new();
/// What all marks of this process begin with: no other process has the same, also not a later one
/// with its number.
static OWN_MARK: LazyLock<String> = LazyLock::new(|| {
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_nanos());
    format!("{}-{now:x}-", std::process::id())
});

/// To be called first in `main`: where this process is to be a guardian it is one, and never
/// returns; a program that calls this can be one.
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

/// Kills whatever the scripts of this process have started; from now on none is started. The
/// guardian ends, too: systemd would otherwise find it alive after its worker and kill it.
pub fn end_scripts() {
    ENDING.store(true, Ordering::SeqCst);
    if RUNS.load(Ordering::SeqCst) > 0 {
        process_tree::kill_marked(&OWN_MARK);
    }
    if let Some(Some(guardian)) = GUARDIAN.get() {
        let mut guardian = guardian.lock().unwrap_or_else(PoisonError::into_inner);
        // It may be gone already.
        let _ended = guardian.kill().and_then(|()| guardian.wait());
    }
}

/// Whether no script may run any more.
pub(super) fn is_ending() -> bool {
    ENDING.load(Ordering::SeqCst)
}

/// What the marks of all runs of this process begin with.
pub(super) fn own_mark() -> &'static str {
    &OWN_MARK
}

/// The mark of one more run of a script. From the first one on that is a child of this process
/// there is a guardian.
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

/// The pipe is open as long as the returned value is.
fn start() -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg0("eirs-guardian")
        .args([ARGUMENT, &OWN_MARK])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // What is typed in the worker's terminal does not end it.
        .process_group(0)
        .spawn()
}
