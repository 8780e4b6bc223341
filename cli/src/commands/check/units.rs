//! Inspects the systemd units that are installed here.

use std::{collections::HashMap, path::Path, time::Duration};

use console::style;
use serde::Serialize;
use tokio::process::Command;

use crate::show::{self, count, cut, plain};

/// The units that may be installed.
const UNITS: [&str; 3] = ["eirs-web.service", "eirs-controller.service", "eirs-worker.service"];
/// Exists if systemd runs the machine (`sd_booted`).
const BOOTED: &str = "/run/systemd/system";
const PROPERTIES: &str = "--property=Id,LoadState,ActiveState,SubState,Result,NRestarts,StatusText,MainPID";
/// Time limit for systemd to respond.
const NEVER: Duration = Duration::from_secs(10);

/// A unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Unit {
    /// The name without `.service`.
    pub(super) name: String,
    /// The active state, such as `active`.
    pub(super) active: String,
    /// The substate, such as `running`.
    pub(super) sub: String,
    /// The result of the last run, such as `exit-code`; `success` while it runs.
    pub(super) result: String,
    /// Number of automatic restarts since the last manual start.
    pub(super) restarts: u64,
    pub(super) pid: Option<u32>,
    /// The status text of the service.
    pub(super) status: String,
}

/// Returns the units and their problems; empty if systemd does not run.
pub(super) async fn look() -> (Vec<Unit>, Vec<String>) {
    if !Path::new(BOOTED).exists() {
        return (Vec::new(), Vec::new());
    }
    match show_units().await {
        Ok(text) => {
            let units = read(&text);
            let problems = units.iter().filter_map(Unit::problem).collect();
            (units, problems)
        }
        Err(error) => (Vec::new(), vec![format!("systemd cannot be queried: {error}")]),
    }
}

async fn show_units() -> Result<String, String> {
    let mut systemctl = Command::new("systemctl");
    systemctl.arg("show").args(UNITS).arg(PROPERTIES).kill_on_drop(true);
    let output = tokio::time::timeout(NEVER, systemctl.output()).await;
    let output = output.map_err(|_late| "systemctl does not respond".to_owned())?;
    let output = output.map_err(|error| format!("systemctl: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Parses the output of `systemctl show`: `KEY=VALUE` lines, with an empty one between units.
fn read(text: &str) -> Vec<Unit> {
    let unit = |block: &str| {
        let values: HashMap<_, _> = block.lines().filter_map(|line| line.split_once('=')).collect();
        let value = |key: &str| values.get(key).copied().unwrap_or_default().to_owned();
        if value("LoadState") != "loaded" {
            return None;
        }
        Some(Unit {
            name: value("Id").trim_end_matches(".service").to_owned(),
            active: value("ActiveState"),
            sub: value("SubState"),
            result: value("Result"),
            restarts: value("NRestarts").parse().unwrap_or(0),
            pid: value("MainPID").parse().ok().filter(|pid| *pid != 0),
            status: value("StatusText"),
        })
    };
    text.split("\n\n").filter_map(unit).collect()
}

impl Unit {
    fn problem(&self) -> Option<String> {
        let Self { name, result, .. } = self;
        if self.active == "failed" {
            return Some(format!("{name} has failed ({result}); `journalctl -u {name}` says why"));
        }
        // Between two attempts, or during an attempt that is still starting. A first start is not a
        // restart.
        let restarts =
            self.sub.starts_with("auto-restart") || (self.active == "activating" && self.restarts > 0);
        restarts.then(|| {
            let before = match self.restarts {
                0 => String::new(),
                times => format!(", {} so far", count(times, "time")),
            };
            format!("{name} ended ({result}) and is being restarted{before}; `journalctl -u {name}` says why")
        })
    }
}

/// Formats the units as a table of at most this width.
pub(super) fn text(units: &[Unit], width: usize) -> String {
    let row = |unit: &Unit| {
        let state = format!("{} ({})", unit.active, unit.sub);
        let state = match unit.active.as_str() {
            "active" => style(state).green(),
            "failed" => style(state).red(),
            _ => style(state).yellow(),
        };
        let status = if unit.result == "success" { plain(&unit.status) } else { unit.result.clone() };
        vec![unit.name.clone(), state.to_string(), unit.restarts.to_string(), status]
    };
    let table = show::table(&["unit", "state", "restarts", ""], &units.iter().map(row).collect::<Vec<_>>());
    table.lines().map(|line| format!("{}\n", cut(line, width))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
MainPID=4711
Result=success
NRestarts=2
Id=eirs-web.service
LoadState=loaded
ActiveState=active
SubState=running
StatusText=taking uploads, 3 in flight

MainPID=0
Result=exit-code
NRestarts=5
Id=eirs-controller.service
LoadState=loaded
ActiveState=failed
SubState=failed
StatusText=

MainPID=0
Result=success
NRestarts=0
Id=eirs-worker.service
LoadState=not-found
ActiveState=inactive
SubState=dead
StatusText=
";

    #[test]
    fn installed_units_are_shown_and_a_failed_one_is_a_problem() {
        let units = read(SHOWN);
        let names: Vec<_> = units.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(names, ["eirs-web", "eirs-controller"]);
        assert_eq!((units[0].pid, units[0].restarts), (Some(4711), 2));
        let problems: Vec<_> = units.iter().filter_map(Unit::problem).collect();
        assert_eq!(
            problems,
            ["eirs-controller has failed (exit-code); `journalctl -u eirs-controller` says why"]
        );
        let page = text(&units, 80);
        let page = console::strip_ansi_codes(&page);
        assert!(
            page.contains("eirs-web         active (running)         2  taking uploads, 3 in flight\n"),
            "{page}"
        );
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
    }

    #[test]
    fn repeated_restarts_are_a_problem_and_a_first_start_is_not() {
        let unit = |active: &str, sub: &str, restarts| Unit {
            name: "eirs-web".into(),
            active: active.into(),
            sub: sub.into(),
            result: "exit-code".into(),
            restarts,
            pid: None,
            status: String::new(),
        };
        let found = unit("activating", "auto-restart", 3).problem().unwrap();
        assert_eq!(
            found,
            "eirs-web ended (exit-code) and is being restarted, 3 times so far; `journalctl -u eirs-web` \
             says why"
        );
        assert!(unit("activating", "start", 3).problem().is_some());
        assert!(unit("activating", "start", 0).problem().is_none());
        assert!(unit("active", "running", 3).problem().is_none(), "a recovered unit is not a problem");
    }
}
