//! `eirs host-settings`, which an upgrade runs on a web host: combines the new settings and
//! policies with changes that were made on the host since it was set up.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use toml_edit::{DocumentMut, Item, Table};

use crate::{Exit, Stop};

/// Put what was changed on a web host into the settings and policies that it gets
#[derive(Debug, clap::Args)]
pub(crate) struct HostSettings {
    /// The folder of those that setup wrote
    #[arg(long)]
    as_set_up: PathBuf,
    /// The folder of those that are in force
    #[arg(long)]
    now: PathBuf,
    /// The folder of the new ones, which are changed
    #[arg(long)]
    new: PathBuf,
}

impl HostSettings {
    pub(crate) fn run(self) -> Result<Exit, Stop> {
        let name = "eirs.toml";
        if let Some(now) = read(&self.now.join(name))? {
            let before = read(&self.as_set_up.join(name))?;
            let new = read(&self.new.join(name))?.unwrap_or_default();
            write(&self.new.join(name), &merged(before.as_deref(), &now, &new)?)?;
        }
        let policies = self.new.join("policies");
        for entry in fs::read_dir(&policies).map_err(anyhow::Error::from)? {
            let name = Path::new("policies").join(entry.map_err(anyhow::Error::from)?.file_name());
            let Some(now) = read(&self.now.join(&name))? else { continue };
            // A policy that was not edited is replaced.
            if read(&self.as_set_up.join(&name))?.as_ref() != Some(&now) {
                write(&self.new.join(&name), &now)?;
            }
        }
        Ok(Exit::Ok)
    }
}

fn read(file: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// Returns the settings in force, with new keys from the upgrade. A key that was changed on the
/// host keeps its value; if it is unknown what setup wrote, all existing keys do. The versions of
/// the models always come from the upgrade.
fn merged(before: Option<&str>, now: &str, new: &str) -> anyhow::Result<String> {
    let read = |text: &str, whose: &str| {
        text.parse::<DocumentMut>().with_context(|| format!("the settings {whose} cannot be read"))
    };
    let before = before.map(|text| read(text, "that setup wrote")).transpose()?;
    let mut now = read(now, "of this host")?;
    let new = read(new, "of the upgrade")?;
    merge(before.as_deref(), &mut now, &new, &mut Vec::new());
    Ok(now.to_string())
}

fn merge(before: Option<&Table>, now: &mut Table, new: &Table, path: &mut Vec<String>) {
    for (key, item) in new {
        path.push(key.to_owned());
        let was = before.and_then(|before| before.get(key));
        match (now.get_mut(key).and_then(Item::as_table_mut), item.as_table()) {
            (Some(now), Some(new)) => merge(was.and_then(Item::as_table), now, new, path),
            _ => {
                let is_own = now.get(key).is_some_and(|here| !is_same(was, Some(here)));
                // A key that was removed here was removed on purpose.
                let is_out = !now.contains_key(key) && was.is_some();
                if is_version(path) || !(is_own || is_out) {
                    now.insert(key, item.clone());
                }
            }
        }
        path.pop();
    }
    let is_gone = |key: &str, here: &Item| {
        !new.contains_key(key) && is_same(before.and_then(|b| b.get(key)), Some(here))
    };
    let gone: Vec<_> =
        now.iter().filter(|(key, here)| is_gone(key, here)).map(|(key, _)| key.to_owned()).collect();
    gone.iter().for_each(|key| _ = now.remove(key));
}

/// Returns whether this is `models.NAME.digest`.
fn is_version(path: &[String]) -> bool {
    matches!(path, [models, _, digest] if models == "models" && digest == "digest")
}

fn is_same(one: Option<&Item>, other: Option<&Item>) -> bool {
    let text = |item: &Item| item.to_string().trim().to_owned();
    one.map(text) == other.map(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "backend = \"aws\"\n[web]\nlisten = \"0.0.0.0:8000\"\nmax_backlog = 1\n\
        [models.default]\n\
        classifier = \"noop\"\ndigest = \"1\"\n";
    const NEW: &str = "backend = \"aws\"\n[web]\nlisten = \"0.0.0.0:8000\"\n[queue]\nvisibility = \"60s\"\n\
        [models.default]\n\
        classifier = \"noop\"\ndigest = \"2\"\n";

    #[test]
    fn keys_changed_on_the_host_stay_and_others_are_upgraded() {
        assert_eq!(
            merged(Some(BEFORE), BEFORE, NEW).unwrap().parse::<toml::Table>(),
            NEW.parse::<toml::Table>()
        );
        let own =
            BEFORE.replace("[models", "# as our gateway has it\ntokens = \"/etc/eirs/tokens\"\n[models");
        let own =
            own.replace("max_backlog = 1", "max_backlog = 7").replace("digest = \"1\"", "digest = \"9\"");
        let kept = merged(Some(BEFORE), &own, NEW).unwrap();
        let read: toml::Table = kept.parse().unwrap();
        assert_eq!(read["web"]["tokens"].as_str(), Some("/etc/eirs/tokens"));
        assert_eq!(read["web"]["max_backlog"].as_integer(), Some(7));
        assert_eq!(read["queue"]["visibility"].as_str(), Some("60s"));
        assert_eq!(read["models"]["default"]["digest"].as_str(), Some("2"), "what workers answer with");
        assert!(kept.contains("# as our gateway has it"));
    }

    #[test]
    fn without_the_original_settings_everything_stays_but_the_versions() {
        let kept: toml::Table = merged(None, BEFORE, NEW).unwrap().parse().unwrap();
        assert_eq!(kept["web"]["max_backlog"].as_integer(), Some(1));
        assert_eq!(kept["models"]["default"]["digest"].as_str(), Some("2"));
    }

    #[test]
    fn an_edited_policy_stays_and_others_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = |place: &str| folder.path().join(place);
        for place in ["was", "now", "new"] {
            fs::create_dir_all(file(place).join("policies")).unwrap();
            for name in ["a.toml", "b.toml"] {
                fs::write(
                    file(place).join("policies").join(name),
                    if place == "new" { "new" } else { "old" },
                )
                .unwrap();
            }
        }
        fs::write(file("now/policies/b.toml"), "edited").unwrap();
        let run = HostSettings { as_set_up: file("was"), now: file("now"), new: file("new") };
        run.run().unwrap();
        let read = |name: &str| fs::read_to_string(file("new/policies").join(name)).unwrap();
        assert_eq!((read("a.toml").as_str(), read("b.toml").as_str()), ("new", "edited"));
    }
}
