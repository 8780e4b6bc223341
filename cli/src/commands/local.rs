//! `eirs local`: runs the whole service on this machine. It starts the same programs as in
//! production, with settings for one machine, waits until they are ready, shows their state, and
//! drains them in an order that loses nothing: first web, which finishes its uploads, then the
//! controller, which drains the workers.

mod live;
mod roles;

use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use eirs_load::Url;
use eirs_platform::{
    settings::{Layers, Settings},
    state_folder::{self, LOCAL_LOCK, Lock, NotLocked, Stamp},
};
use tokio::{net::TcpStream, time::Instant};

use self::{
    live::Live,
    roles::{Role, Signals, describe, is_bad_settings, stopped_well},
};
use crate::{
    Exit, Global, Stop,
    show::{self, quoted},
};

/// Run the whole service on this machine, until Ctrl-C
///
/// Starts the web server and the controller, which starts workers when images arrive, and restarts
/// them if they are killed. Ctrl-C drains everything; a second Ctrl-C kills it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  eirs local --listen 127.0.0.1:9000 --state /tmp/eirs")]
pub struct Local {
    /// The address of the web server; port 0 takes a free one [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The folder of the policies [default: ./policies if it exists, else a built-in policy]
    #[arg(long, value_name = "FOLDER")]
    policies: Option<PathBuf>,
    /// Maximum number of workers [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max: Option<u32>,
    /// Show everything that the programs log, not only warnings
    #[arg(long, short)]
    verbose: bool,
}

/// The policy that is used if the operator has none.
const BUILT_IN_POLICY: &str = include_str!("../../../policies/default.toml");
/// Time limit for the web server to become ready; it has nothing to load.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Additional time for the programs to end after their own deadlines.
const MARGIN: Duration = Duration::from_secs(15);
/// Time limit for the controller, which ends after its workers, and they by their policy's or their
/// own deadline.
const WORKERS_WITHIN: Duration = Duration::from_secs(180);

impl Local {
    /// Runs the command.
    pub async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let layers = global
            .layers()
            .flag("web.listen", self.listen)
            .flag("controller.policies", self.policies.as_ref().map(|path| path.display()))
            .flag("controller.instance_limit", self.max);
        let settings = layers.load()?;
        let state = settings.local.state.as_path();
        fs::create_dir_all(state)
            .with_context(|| format!("the state folder {} cannot be created", state.display()))?;
        let _lock = Lock::take(state, LOCAL_LOCK).map_err(|error| match error {
            NotLocked::Taken(taken) => anyhow::anyhow!(
                "`eirs local` is already running on {}{}; stop it, or use another --state",
                state.display(),
                taken.who()
            ),
            failed => failed.into(),
        })?;

        let mut signals = Signals::install()?;
        let files = AddressFiles::of(&settings);
        files.remove();
        let environment = environment(&layers, &settings, &files, self.verbose)?;
        let before = Stamp::now(&settings.status_file());
        let mut web = Role::start("eirs-web", &environment)?;
        let mut controller = match Role::start("eirs-controller", &environment) {
            Ok(controller) => controller,
            Err(error) => {
                web.kill().await;
                return Err(error.into());
            }
        };

        let limit = limit(&settings);
        let mut service = std::pin::pin!(async {
            welcome(&ready(&files, &settings).await?, &settings, &limit);
            Live::of(&settings, before).run().await
        });
        let end = loop {
            let (role, status) = tokio::select! {
                Err(error) = &mut service => break End::Failed(error),
                () = signals.next() => break End::Signal,
                status = web.ended() => (&mut web, status),
                status = controller.ended() => (&mut controller, status),
            };
            let Some(pause) = role.pause_before_next_start(status) else {
                break End::Died(role.name(), status);
            };
            if is_bad_settings(status) {
                show::aside(format_args!(
                    "{} {}; correct it, or press Ctrl-C; trying again in {pause:?}",
                    role.name(),
                    describe(status)
                ));
            } else if pause.is_zero() {
                show::aside(format_args!("{} {}; restarting it", role.name(), describe(status)));
            } else {
                show::aside(format_args!(
                    "{} {}, as several times in this minute; restarting it in {pause:?}",
                    role.name(),
                    describe(status)
                ));
            }
            if !pause.is_zero() {
                tokio::select! {
                    () = signals.next() => break End::Signal,
                    () = tokio::time::sleep(pause) => {}
                }
            }
            if let Err(error) = role.start_again(&files.keep(&environment)) {
                break End::Failed(error);
            }
        };

        let exit = match &end {
            End::Signal => Exit::Ok,
            End::Died(name, status) => {
                show::aside(format_args!("{name} {}; stopping", describe(*status)));
                if is_bad_settings(*status) { Exit::BadSettings } else { Exit::Failed }
            }
            End::Failed(error) => {
                show::aside(format_args!("{error:#}; stopping"));
                Exit::Failed
            }
        };
        let stopped = stop(web, controller, &settings, &mut signals).await;
        Ok(if exit == Exit::Ok && !stopped { Exit::Failed } else { exit })
    }
}

/// The files into which the web server writes its addresses.
struct AddressFiles {
    uploads: PathBuf,
    admin: PathBuf,
}

impl AddressFiles {
    fn of(settings: &Settings) -> Self {
        let (web, state) = (&settings.web, &settings.local.state);
        Self {
            uploads: web.address_file.clone().unwrap_or_else(|| state.join(state_folder::WEB_ADDRESS)),
            admin: web
                .admin_address_file
                .clone()
                .unwrap_or_else(|| state.join(state_folder::WEB_ADMIN_ADDRESS)),
        }
    }

    /// Returns the environment for a restart of the web server, with the same address as before,
    /// where clients look for it.
    fn keep(&self, environment: &[(&'static str, OsString)]) -> Vec<(&'static str, OsString)> {
        let mut environment = environment.to_vec();
        let bound = [("EIRS_WEB__LISTEN", &self.uploads), ("EIRS_WEB__ADMIN_LISTEN", &self.admin)];
        for (name, file) in bound {
            if let Ok(address) = fs::read_to_string(file) {
                environment.retain(|(known, _)| *known != name);
                environment.push((name, address.trim().into()));
            }
        }
        environment
    }

    /// Deletes the files of an earlier run.
    fn remove(&self) {
        for file in [&self.uploads, &self.admin] {
            let _was_not_there = fs::remove_file(file);
        }
    }
}

/// The reason for the end.
enum End {
    Signal,
    Died(&'static str, std::process::ExitStatus),
    Failed(anyhow::Error),
}

/// Returns the environment of the programs, beyond what they read themselves.
fn environment(
    layers: &Layers,
    settings: &Settings,
    files: &AddressFiles,
    verbose: bool,
) -> anyhow::Result<Vec<(&'static str, OsString)>> {
    let mut environment: Vec<(&'static str, OsString)> = vec![
        ("EIRS_LOCAL__STATE", settings.local.state.clone().into()),
        ("EIRS_WEB__LISTEN", settings.web.listen.to_string().into()),
        ("EIRS_WEB__ADDRESS_FILE", files.uploads.clone().into()),
        ("EIRS_WEB__ADMIN_ADDRESS_FILE", files.admin.clone().into()),
        ("EIRS_CONTROLLER__POLICIES", policies(settings)?.into()),
        // All processes of this service must end with it.
        ("EIRS_CONTROLLER__ON_EXIT", "drain".into()),
    ];
    // A second service on another port must work, so the admin port must not be fixed.
    if !layers.sets("web.admin_listen") {
        environment.push(("EIRS_WEB__ADMIN_LISTEN", "127.0.0.1:0".into()));
    }
    environment.extend(layers.file().map(|file| ("EIRS_CONFIG", file.into())));
    // Workers of one core each share the machine, so that the fleet really grows and shrinks. An
    // explicit number of threads is kept.
    if settings.worker.threads == 0 {
        environment.push(("EIRS_WORKER__THREADS", "1".into()));
    }
    environment.push(("EIRS_CONTROLLER__INSTANCE_LIMIT", limit(settings).into()));
    let default_filter = Settings::default().telemetry.filter;
    if verbose {
        environment.push(("EIRS_TELEMETRY__FILTER", "info".into()));
    } else if settings.telemetry.filter == default_filter {
        environment.push(("EIRS_TELEMETRY__FILTER", "warn".into()));
    }
    Ok(environment)
}

/// Returns the maximum number of workers.
fn limit(settings: &Settings) -> String {
    match settings.controller.instance_limit {
        0 => std::thread::available_parallelism().map_or(1, usize::from).to_string(),
        limit => limit.to_string(),
    }
}

/// Returns the configured policies, else those in the current folder, else the built-in one, which
/// is written to the state folder.
fn policies(settings: &Settings) -> anyhow::Result<PathBuf> {
    let set = &settings.controller.policies;
    if *set != Settings::default().controller.policies || set.is_dir() {
        return Ok(set.clone());
    }
    let folder = settings.local.state.join(state_folder::POLICIES);
    let file = folder.join("default.toml");
    // An existing file may have been edited.
    if !file.exists() {
        let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&file, BUILT_IN_POLICY));
        written.with_context(|| format!("the built-in policy cannot be written to {}", file.display()))?;
    }
    Ok(folder)
}

/// The addresses of the web server that is ready.
struct Ready {
    url: String,
    admin: Option<SocketAddr>,
}

/// Waits until the web server has written its addresses and is ready.
async fn ready(files: &AddressFiles, settings: &Settings) -> anyhow::Result<Ready> {
    let deadline = Instant::now() + READY_WITHIN;
    let said = |file: &Path| {
        let bound: Option<SocketAddr> = fs::read_to_string(file).ok()?.trim().parse().ok();
        bound.map(reachable)
    };
    let is_encrypted = settings.web.tls.certificate.is_some();
    loop {
        if let Some(address) = said(&files.uploads) {
            // The admin address is written first.
            let admin = said(&files.admin);
            // Readiness is checked over HTTP on the admin address. If there is only HTTPS, a
            // connection must suffice.
            let answers = match (admin, is_encrypted) {
                (None, true) => TcpStream::connect(address).await.is_ok(),
                _ => is_ready(admin.unwrap_or(address)).await?,
            };
            if answers {
                let scheme = if is_encrypted { "https" } else { "http" };
                return Ok(Ready { url: format!("{scheme}://{address}"), admin });
            }
        }
        anyhow::ensure!(Instant::now() < deadline, "the web server was not ready within {READY_WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn is_ready(address: SocketAddr) -> anyhow::Result<bool> {
    let url: Url = format!("http://{address}").parse().map_err(anyhow::Error::msg)?;
    let answer = tokio::time::timeout(Duration::from_secs(2), url.get("/readyz")).await;
    Ok(matches!(answer, Ok(Ok(answer)) if answer.status.is_success()))
}

/// Returns an address at which a server that listens on all addresses can be reached from here.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

fn welcome(Ready { url, admin }: &Ready, settings: &Settings, limit: &str) {
    let samples =
        fs::read_dir("models/shapes/samples").into_iter().flatten().flatten().map(|entry| entry.path());
    let sample = samples.filter(|path| path.extension().is_some_and(|extension| extension == "jpg")).min();
    let image = sample.map_or_else(|| "photo.jpg".to_owned(), |path| path.display().to_string());
    show::out(format_args!("EIRS is ready at {url} (at most {limit} workers; Ctrl-C stops it)"));
    show::out(format_args!("Try it:  {}", try_it(settings, &image, url)));
    if let Some(tokens) = &settings.web.tokens {
        let file = quoted(&tokens.display().to_string());
        show::out(format_args!("A token: export EIRS_TOKEN=$(eirs token add NAME --tokens {file})"));
    }
    if let Some(admin) = admin {
        show::out(format_args!("Live view: http://{admin}/; /status and /metrics are for programs"));
    }
}

/// Returns the command for an upload, with the required token and certificate.
fn try_it(settings: &Settings, image: &str, url: &str) -> String {
    let mut command = "curl".to_owned();
    if let Some(certificate) = &settings.web.tls.certificate {
        command += &format!(" --cacert {}", quoted(&certificate.display().to_string()));
    }
    if settings.web.tokens.is_some() {
        command += " -H \"Authorization: Bearer $EIRS_TOKEN\"";
    }
    format!("{command} -F {} {url}/upload", quoted(&format!("myfile=@{image}")))
}

/// Drains web first: then every accepted image is in the queue or has a result, and the controller
/// can drain the workers. Returns whether all programs ended by themselves.
async fn stop(web: Role, controller: Role, settings: &Settings, signals: &mut Signals) -> bool {
    let steps = [
        (web, "the uploads in flight are finished", settings.web.drain_deadline + MARGIN),
        (
            controller,
            "the workers finish their jobs",
            WORKERS_WITHIN.max(settings.worker.drain_deadline) + MARGIN,
        ),
    ];
    let mut steps = steps.into_iter();
    let mut in_time = true;
    while let Some((mut role, what, deadline)) = steps.next() {
        if role.has_ended() {
            continue;
        }
        show::aside(format_args!("stopping {}: {what} (Ctrl-C now kills everything)", role.name()));
        role.ask_to_stop();
        tokio::select! {
            status = role.ended() => in_time &= stopped_well(status),
            () = tokio::time::sleep(deadline) => {
                show::aside(format_args!("{} did not stop within {deadline:?}: killed", role.name()));
                role.kill().await;
                in_time = false;
            }
            () = signals.next() => {
                show::aside("killing everything; jobs in flight are done again after the next start");
                role.kill().await;
                for (mut other, _, _) in steps {
                    other.kill().await;
                }
                // After the controller, which would start them again.
                roles::kill_workers(&settings.local.state);
                return false;
            }
        }
    }
    // A controller that was killed, or had ended by itself, has drained no worker.
    if roles::kill_workers(&settings.local.state) > 0 {
        in_time = false;
        show::aside(
            "killed the workers that no controller drained; their jobs are done again after the next start",
        );
    }
    in_time
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(settings: &Settings, verbose: bool) -> Vec<(&'static str, String)> {
        let layers = Layers::of(Some(Path::new("/some/eirs.toml")), &[]);
        let environment = environment(&layers, settings, &AddressFiles::of(settings), verbose).unwrap();
        environment.into_iter().map(|(key, value)| (key, value.into_string().unwrap())).collect()
    }

    #[test]
    fn the_programs_get_settings_for_one_machine_unless_they_are_set() {
        let mut settings = Settings::default();
        settings.controller.policies = "mine".into();
        let usual = variables(&settings, false);
        for expected in [
            ("EIRS_CONFIG", "/some/eirs.toml"),
            ("EIRS_WORKER__THREADS", "1"),
            ("EIRS_CONTROLLER__ON_EXIT", "drain"),
            ("EIRS_CONTROLLER__POLICIES", "mine"),
            ("EIRS_TELEMETRY__FILTER", "warn"),
            ("EIRS_WEB__LISTEN", "127.0.0.1:8000"),
            ("EIRS_WEB__ADMIN_LISTEN", "127.0.0.1:0"),
        ] {
            assert!(
                usual.iter().any(|(key, value)| (*key, value.as_str()) == expected),
                "{expected:?} in {usual:?}"
            );
        }
        settings.worker.threads = 4;
        settings.controller.instance_limit = 7;
        settings.telemetry.filter = "eirs_web=debug".into();
        let said = variables(&settings, false);
        assert!(said.contains(&("EIRS_CONTROLLER__INSTANCE_LIMIT", "7".into())), "{said:?}");
        assert!(
            !said.iter().any(|(key, _)| matches!(*key, "EIRS_WORKER__THREADS" | "EIRS_TELEMETRY__FILTER")),
            "{said:?}"
        );
        assert!(variables(&settings, true).contains(&("EIRS_TELEMETRY__FILTER", "info".into())));
    }

    #[test]
    fn without_policies_the_built_in_one_is_written_once_and_edits_stay() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.local.state = folder.path().to_owned();
        // The tests run in the folder of the package, which has no policies.
        let written = policies(&settings).unwrap();
        assert_eq!(written, folder.path().join("policies"));
        assert_eq!(fs::read_to_string(written.join("default.toml")).unwrap(), BUILT_IN_POLICY);
        fs::write(written.join("default.toml"), "[pool]\n").unwrap();
        policies(&settings).unwrap();
        assert_eq!(fs::read_to_string(written.join("default.toml")).unwrap(), "[pool]\n");
    }

    #[test]
    fn the_example_upload_has_the_required_token_and_certificate() {
        let mut settings = Settings::default();
        let url = "http://127.0.0.1:8000";
        assert_eq!(try_it(&settings, "photo.jpg", url), format!("curl -F myfile=@photo.jpg {url}/upload"));
        settings.web.tokens = Some("tokens.json".into());
        settings.web.tls.certificate = Some("my own.pem".into());
        assert_eq!(
            try_it(&settings, "a b.jpg", "https://127.0.0.1:8000"),
            "curl --cacert 'my own.pem' -H \"Authorization: Bearer $EIRS_TOKEN\" -F 'myfile=@a b.jpg' \
             https://127.0.0.1:8000/upload"
        );
    }

    #[test]
    fn a_restarted_web_server_listens_at_the_same_address() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.local.state = folder.path().to_owned();
        let files = AddressFiles::of(&settings);
        fs::write(&files.uploads, "127.0.0.1:43210").unwrap();
        let kept = files.keep(&[("EIRS_WEB__LISTEN", "127.0.0.1:0".into()), ("EIRS_CONFIG", "x".into())]);
        assert_eq!(kept, [("EIRS_CONFIG", "x".into()), ("EIRS_WEB__LISTEN", "127.0.0.1:43210".into())]);
    }

    #[test]
    fn a_server_on_all_addresses_is_reached_on_the_loopback() {
        let asked = |bound: &str| reachable(bound.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(asked("[::]:80"), "[::1]:80");
        assert_eq!(asked("10.1.2.3:80"), "10.1.2.3:80");
    }
}
