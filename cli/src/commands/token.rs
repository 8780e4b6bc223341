//! `eirs token`: manages the tokens with which clients authenticate to the web server.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Subcommand;
use eirs_platform::{
    settings::{Settings, is_rate, units},
    tokens::{Token, Tokens},
};
use serde_json::json;

use crate::{
    Exit, Global, Stop,
    show::{self, Voice},
};

/// Create, list and revoke tokens for clients
///
/// Once `web.tokens` names their file, an upload without a token is refused. A change takes effect
/// within two or three seconds, without a restart.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    Add(Add),
    List(List),
    Revoke(Revoke),
}

/// Create a token, and print it once
///
/// The file stores only its hash: a lost token must be replaced. Clients send it as
/// `Authorization: Bearer TOKEN`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs token add camera-3 --tokens tokens.json\n  \
                        eirs token add contractor --expires 90d --rate 5 > token.txt")]
pub(crate) struct Add {
    /// A name for the token: its owner or purpose
    name: String,
    /// The token expires after this time, such as 90d [default: never]
    #[arg(long, value_name = "TIME", value_parser = units::duration::parse)]
    expires: Option<Duration>,
    /// Requests and images per second with this token, 0 for no limit [default: web.rate_per_token]
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    voice: Voice,
}

/// List the tokens with names, dates and rates
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  eirs token list --json | jq -r '.tokens[].name'")]
pub(crate) struct List {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    voice: Voice,
}

/// Revoke a token: it is refused from now on
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  eirs token revoke camera-3")]
pub(crate) struct Revoke {
    /// The name of the token
    name: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    voice: Voice,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The file of the tokens [default: web.tokens of the settings]
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| is_rate(*rate));
    rate.ok_or_else(|| "write 0, or a number from 0.001 to 1000000".to_owned())
}

impl TokenCommand {
    pub(crate) fn run(self, global: &Global) -> Result<Exit, Stop> {
        match self {
            Self::Add(add) => add.run(global),
            Self::List(list) => list.run(global),
            Self::Revoke(revoke) => revoke.run(global),
        }
    }
}

impl Add {
    fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = global.settings()?;
        let file = self.place.file(&settings)?;
        let now = Utc::now();
        let expires = match self.expires {
            Some(time) => Some(after(now, time).ok_or_else(|| {
                Stop::Usage(
                    "--expires: the date is out of \
                    range"
                        .into(),
                )
            })?),
            None => None,
        };
        let secret = change(&file, &settings, |tokens| {
            tokens.add(&self.name, now, expires, self.rate).map_err(anyhow::Error::msg)
        })?;
        let made = json!({
            "file": file, "name": self.name, "token": secret, "made": now, "expires": expires,
            "rate": self.rate,
        });
        self.voice.show(&made, || &secret);
        show::aside(format_args!("The token is shown only now: {} stores a hash.", file.display()));
        if settings.web.tokens.is_none() {
            show::aside(format_args!(
                "Tokens are not required yet: set web.tokens = {:?}",
                file.display().to_string()
            ));
        }
        Ok(Exit::Ok)
    }
}

impl List {
    fn run(self, global: &Global) -> Result<Exit, Stop> {
        let file = self.place.file(&global.settings()?)?;
        let (tokens, now) = (Tokens::read(&file).map_err(anyhow::Error::msg)?, Utc::now());
        let described = |token: &Token| {
            json!({
                "name": token.name, "made": token.made, "expires": token.expires,
                "expired": token.has_expired(now), "rate": token.rate,
            })
        };
        let all: Vec<_> = tokens.all().iter().map(described).collect();
        self.voice.show(&json!({ "file": file, "tokens": all }), || {
            let rows: Vec<_> = tokens.all().iter().map(|token| row(token, now)).collect();
            if rows.is_empty() {
                return format!("{} has no token: nobody can upload", file.display());
            }
            show::table(&["name", "made", "expires", "a second"], &rows).trim_end().to_owned()
        });
        Ok(Exit::Ok)
    }
}

impl Revoke {
    fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = global.settings()?;
        let file = self.place.file(&settings)?;
        // Checks the file before a missing one would be created.
        Tokens::read(&file).map_err(anyhow::Error::msg)?;
        change(&file, &settings, |tokens| {
            let was_there = tokens.revoke(&self.name);
            anyhow::ensure!(was_there, "unknown token `{}` in {}", self.name, file.display());
            Ok(())
        })?;
        self.voice.show(&json!({ "file": file, "revoked": self.name }), || {
            format!("`{}` is revoked; the web server knows within three seconds", self.name)
        });
        Ok(Exit::Ok)
    }
}

impl Place {
    fn file(&self, settings: &Settings) -> Result<PathBuf, Stop> {
        self.tokens.clone().or_else(|| settings.web.tokens.clone()).ok_or_else(|| {
            Stop::Usage("which file? use --tokens FILE, or set web.tokens in the settings".into())
        })
    }
}

/// Changes the file under a lock. A missing file is created.
fn change<T>(
    file: &Path,
    settings: &Settings,
    change: impl FnOnce(&mut Tokens) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let shown = file.display();
    // Locks the folder, because the file is replaced.
    let held = File::open(folder).with_context(|| format!("{shown}: its folder cannot be read"))?;
    held.lock().with_context(|| format!("{shown}: its folder cannot be locked"))?;
    let mut tokens = match file.try_exists() {
        Ok(false) => Tokens::default(),
        _ => Tokens::read(file).map_err(anyhow::Error::msg)?,
    };
    let changed = change(&mut tokens)?;
    tokens.write(file, group(settings)).with_context(|| format!("{shown}: cannot be written"))?;
    Ok(changed)
}

/// Returns the group of the file if root creates it: that of the state folder, which belongs to the
/// user of the services.
fn group(settings: &Settings) -> Option<u32> {
    let is_root = rustix::process::geteuid().is_root();
    is_root.then(|| fs::metadata(&settings.local.state).map(|folder| folder.gid()).ok()).flatten()
}

fn after(now: DateTime<Utc>, time: Duration) -> Option<DateTime<Utc>> {
    now.checked_add_signed(chrono::Duration::from_std(time).ok()?)
}

fn row(token: &Token, now: DateTime<Utc>) -> Vec<String> {
    let day = |at: DateTime<Utc>| at.format("%Y-%m-%d").to_string();
    let expires = match token.expires {
        None => "never".to_owned(),
        Some(end) if token.has_expired(now) => format!("{}, has expired", day(end)),
        Some(end) => day(end),
    };
    let rate = match token.rate {
        None => "as set".to_owned(),
        Some(0.0) => "any".to_owned(),
        Some(rate) => rate.to_string(),
    };
    vec![token.name.clone(), day(token.made), expires, rate]
}
