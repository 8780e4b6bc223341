//! The service for scripts, `eirs-worker --run-scripts`: it has its own user, and starts the
//! commands of a worker that has another one. systemd provides the socket, to which only the worker
//! may connect, and blocks the address of EC2's credentials for the service and its children
//! (`systemd/eirs-script.service`). systemd starts a service even if it cannot block addresses, so
//! the service checks that before each run, and refuses to run if the address is reachable.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::Child,
    sync::{LazyLock, Mutex, PoisonError},
    thread,
};

use eirs_platform::process_tree;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::retry_on_intr,
    net::{SocketFlags, accept_with, sockopt::socket_peercred},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

use super::{
    order::Order,
    wire::{Ask, Reply, receive, send},
};

/// The addresses of EC2's credentials ("Instance metadata" in the EC2 user guide).
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Serves the socket on standard input until it fails.
///
/// # Errors
///
/// Fails if standard input is not a listening socket.
pub fn serve() -> io::Result<()> {
    serve_on(io::stdin().as_fd(), open_metadata)
}

/// `open` returns an address that is reachable although it must be blocked, if any.
pub(super) fn serve_on(socket: BorrowedFd, open: fn() -> Option<IpAddr>) -> io::Result<()> {
    loop {
        let connection = retry_on_intr(|| accept_with(socket, SocketFlags::CLOEXEC))?;
        // Errors are ignored: a worker that has gone cannot receive a reply.
        thread::Builder::new().name("run".to_owned()).spawn(move || run(&connection, open))?;
    }
}

fn run(connection: &OwnedFd, open: fn() -> Option<IpAddr>) -> io::Result<()> {
    let Some((order, _)) = receive::<Order>(connection)? else { return Ok(()) };
    let started = match open() {
        Some(address) => Err(format!(
            "{address} can be reached, where it could read the credentials of this machine; \
             eirs-script.service needs IPAddressDeny=, cgroup v2 and a kernel with CONFIG_CGROUP_BPF"
        )),
        None => end_with(&order.worker, connection)
            .and_then(|()| order.spawn())
            .map_err(|error| error.to_string()),
    };
    match started {
        Ok((child, pipes)) => attend(child, pipes, &order.mark, connection),
        Err(why) => send(connection, &Reply::Refused(why), &[]),
    }
}

/// Attends a run until its end.
fn attend(mut child: Child, pipes: Vec<OwnedFd>, mark: &str, connection: &OwnedFd) -> io::Result<()> {
    let group = Pid::from_child(&child);
    let lent: Vec<_> = pipes.iter().map(AsFd::as_fd).collect();
    let sent = send(connection, &Reply::Started, &lent);
    drop(pipes);
    let left = sent.is_err() || until_it_goes(group, connection);
    // It is not reaped yet, so its number cannot belong to another process.
    let _gone_already = kill_process_group(group, Signal::KILL);
    process_tree::kill_marked_since(mark, group);
    let status = child.wait()?;
    if left {
        process_tree::kill_marked(mark);
        return sent;
    }
    send(connection, &Reply::Ended(status.into_raw()), &[])?;
    while let Some((ask, _)) = receive::<Ask>(connection)? {
        if ask == Ask::PutDown {
            process_tree::kill_marked(mark);
            send(connection, &Reply::Gone, &[])?;
        }
    }
    Ok(())
}

/// Waits until the command exits or must end; returns whether the worker has gone.
fn until_it_goes(command: Pid, connection: &OwnedFd) -> bool {
    let Ok(command) = pidfd_open(command, PidfdFlags::empty()) else { return true };
    let mut look = [PollFd::new(connection, PollFlags::IN), PollFd::new(&command, PollFlags::IN)];
    if retry_on_intr(|| poll(&mut look, None)).is_err() {
        return true;
    }
    // Requests after the exit of the command are read later.
    look[1].revents().is_empty() && !matches!(receive::<Ask>(connection), Ok(Some(_)))
}

/// On the first run of a worker, starts to wait for the worker's end; then all processes of its
/// runs are killed.
fn end_with(worker: &str, connection: &OwnedFd) -> io::Result<()> {
    static WORKERS: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let workers = || WORKERS.lock().unwrap_or_else(PoisonError::into_inner);
    if !workers().insert(worker.to_owned()) {
        return Ok(());
    }
    // The worker waits for the reply, so its number is valid.
    let process = pidfd_open(socket_peercred(connection)?.pid, PidfdFlags::empty())?;
    let worker = worker.to_owned();
    thread::Builder::new().name("worker".to_owned()).spawn(move || {
        let mut look = [PollFd::new(&process, PollFlags::IN)];
        let _ended = retry_on_intr(|| poll(&mut look, None));
        process_tree::kill_marked(&worker);
        workers().remove(&worker);
    })?;
    Ok(())
}

/// Returns the first of the addresses to which a packet can be sent. A filter of systemd refuses it
/// at once, and so does a machine without a route.
fn open_metadata() -> Option<IpAddr> {
    METADATA.into_iter().find(|address| {
        let own: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let sent = UdpSocket::bind((own, 0)).and_then(|socket| socket.send_to(b"?", (*address, 80)));
        sent.map_or_else(|error| !is_refusal(&error), |_| true)
    })
}

/// Returns whether the error means that the address is unreachable; any other error says nothing
/// about the next attempt.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkUnreachable, PermissionDenied};
    let no_such_network = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    matches!(error.kind(), AddrNotAvailable | HostUnreachable | NetworkUnreachable | PermissionDenied)
        || error.raw_os_error() == Some(no_such_network)
}
