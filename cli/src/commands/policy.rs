//! `eirs policy`

mod trial;

use std::{collections::BTreeMap, path::PathBuf};

use clap::Subcommand;
use eirs_controller::policy::{Policy, load_checked};
use serde_json::json;

use crate::{
    Exit, Global, Stop,
    show::{self, Voice},
};

/// Check policies, or try a new one on the recording
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    Check(Check),
    Try(trial::Try),
}

/// Read policy files as the controller would, and report every error
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  eirs policy check policies && systemctl reload eirs-controller")]
pub struct Check {
    /// The folder, or one file [default: the folder of the settings]
    #[arg(value_name = "FOLDER|FILE")]
    path: Option<PathBuf>,
    #[command(flatten)]
    voice: Voice,
}

impl PolicyCommand {
    /// Runs the command.
    pub fn run(self, global: &Global) -> Result<Exit, Stop> {
        match self {
            Self::Check(check) => check.run(global),
            Self::Try(trial) => trial.run(global),
        }
    }
}

impl Check {
    fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = global.settings()?;
        let folder = self.path.unwrap_or_else(|| settings.controller.policies.clone());
        let (pools, complaints) = match load_checked(&folder, &settings) {
            Ok(policies) => (policies.pools, Vec::new()),
            Err(complaints) => (BTreeMap::new(), complaints.iter().map(ToString::to_string).collect()),
        };
        self.voice.show(&json!({ "pools": pools, "complaints": complaints }), || {
            if !complaints.is_empty() {
                return complaints.join("\n");
            }
            let rows: Vec<_> = pools.iter().map(|(name, policy)| row(name, policy)).collect();
            let head = ["pool", "model", "min", "max", "spare", "rules", "scale in"];
            show::table(&head, &rows).trim_end().to_owned()
        });
        Ok(if complaints.is_empty() { Exit::Ok } else { Exit::BadSettings })
    }
}

fn row(name: &str, policy: &Policy) -> Vec<String> {
    let pool = &policy.pool;
    let rules: Vec<_> = policy.rules.iter().map(ToString::to_string).collect();
    vec![
        name.to_owned(),
        pool.model.clone(),
        pool.min.to_string(),
        pool.max.to_string(),
        pool.spare.to_string(),
        if rules.is_empty() { "none".into() } else { rules.join(", ") },
        format!(
            "idle {}, window {}",
            humantime::format_duration(policy.scale_in.idle),
            humantime::format_duration(policy.scale_in.window)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn check(text: &str) -> Exit {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("dogs.toml"), text).unwrap();
        let global = Global { config: None, state: None };
        let check = |path: PathBuf| Check { path: Some(path), voice: Voice::default() }.run(&global).unwrap();
        let said = check(folder.path().to_owned());
        assert_eq!(check(folder.path().join("dogs.toml")), said, "a file is checked like its folder");
        said
    }

    #[test]
    fn a_valid_policy_passes_and_an_invalid_one_is_bad_settings() {
        assert_eq!(check("[pool]\nmax = 3\n[[rule]]\nkind = \"backlog\"\nper_instance = 10\n"), Exit::Ok);
        assert_eq!(check("[pool]\nmaximum = 3\n"), Exit::BadSettings);
        assert_eq!(check("[pool]\nmodel = \"nobody-described-it\"\n"), Exit::BadSettings);
    }

    #[test]
    fn a_folder_without_policies_is_refused_as_the_controller_refuses_it() {
        let folder = tempfile::tempdir().unwrap();
        let global = Global { config: None, state: None };
        let check = Check { path: Some(folder.path().to_owned()), voice: Voice::default() };
        assert_eq!(check.run(&global).unwrap(), Exit::BadSettings);
    }
}
