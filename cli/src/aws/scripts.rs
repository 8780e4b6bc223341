//! The scripts that machines of setup run as root at their first boot: they download the archive,
//! unpack it over the root folder, and report the result. `DESTDIR` prefixes all paths, as in `make
//! install`.

use std::time::Duration;

use anyhow::Context;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use eirs_platform::aws;

use super::{
    Account,
    bundle::{AS_SET_UP, BIN, Bundle, ETC, PREPARE},
    credentials,
    image::BAKED_WITHIN,
    upload,
};

/// The validity of the URLs in a script, longer than any first boot.
const GOOD_FOR: Duration = Duration::from_secs(3600);

/// The report of a machine: the success and the output of its script.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) went_well: bool,
    pub(crate) said: String,
}

/// Returns the key of the archive with this digest in the input bucket.
fn archive_key(digest: &str) -> String {
    format!("setup/{digest}.tar.gz")
}

/// Returns the key of a machine's report. It is known before the machine is launched, since the
/// machine needs it.
pub(crate) fn report_key(name: &str) -> String {
    format!("setup/{name}.report")
}

/// Uploads an archive, unless it exists.
pub(crate) async fn upload(account: &Account, bundle: &Bundle) -> anyhow::Result<()> {
    let key = archive_key(&bundle.digest);
    let head = account.s3.head_object().bucket(account.input_bucket()).key(&key).send().await;
    if head.is_ok_and(|head| head.content_length() == i64::try_from(bundle.bytes).ok()) {
        return Ok(());
    }
    upload::file(account, &key, bundle.file.path(), bundle.bytes, upload::PART).await
}

/// Reads the report of a machine; `None` if there is none yet.
pub(crate) async fn report(account: &Account, name: &str) -> anyhow::Result<Option<Report>> {
    let key = report_key(name);
    let got = match account.s3.get_object().bucket(account.input_bucket()).key(&key).send().await {
        Ok(got) => got,
        Err(error) if aws::code(&error) == Some("NoSuchKey") => return Ok(None),
        Err(error) => return Err(aws::error(format!("reading the report {key}"), &error).into()),
    };
    let body = got.body.collect().await.with_context(|| format!("reading the report {key}"))?.into_bytes();
    let text = String::from_utf8_lossy(&body);
    let (first, said) = text.split_once('\n').unwrap_or((&text, ""));
    Ok(Some(Report { went_well: first.trim() == "ok", said: said.trim().to_owned() }))
}

/// Deletes the report of a machine, so that an old report is not mistaken for a new one.
pub(crate) async fn forget_report(account: &Account, name: &str) -> anyhow::Result<()> {
    let key = report_key(name);
    let deleted = account.s3.delete_object().bucket(account.input_bucket()).key(&key).send().await;
    deleted.map(|_| ()).map_err(|error| aws::error(format!("deleting the report {key}"), &error).into())
}

/// Returns the script of the machine from which an image is baked. At its end, the machine powers
/// off.
pub(crate) async fn builder(account: &Account, bundle: &Bundle, name: &str) -> anyhow::Result<String> {
    let prepare = if bundle.has_prepare { format!("sh \"$root/{PREPARE}\"\n") } else { String::new() };
    let work = format!(
        "{prepare}\
         systemctl enable eirs-worker.service eirs-guard.timer\n\
         {ENABLE_LOGS}{ENABLE_SCRIPTS}\
         \"$root/usr/bin/eirs-worker\" --config \"$root/etc/eirs/eirs.toml\" --self-test\n\
         # Each machine that comes of this image is its own.\n\
         [ -n \"$root\" ] || truncate -s 0 /etc/machine-id\n"
    );
    script(account, bundle, name, &[BAKED_OR_OFF, &work].concat(), "poweroff\n").await
}

/// Enables copying of logs (`setup.ship_logs`) from the next boot on.
const ENABLE_LOGS: &str =
    "[ ! -f \"$root/usr/lib/eirs/logs\" ] || systemctl enable eirs-logs.timer eirs-logs-last.service\n";
/// Starts copying of logs at once.
const START_LOGS: &str =
    "[ ! -f \"$root/usr/lib/eirs/logs\" ] || systemctl start eirs-logs.timer eirs-logs-last.service\n";

/// Enables the service for scripts of another user, which the self-test needs, too.
const ENABLE_SCRIPTS: &str = "[ ! -f \"$root/usr/lib/systemd/system/eirs-script.socket\" ] || \
    systemctl enable --now eirs-script.socket\n";

/// Powers the machine off after an hour, if it waits for something that never happens.
const BAKED_OR_OFF: &str = r#"[ -n "$root" ] || systemd-run --quiet --on-active=1h systemctl poweroff
"#;

/// Returns the script of a web host, which keeps running.
pub(crate) async fn web_host(account: &Account, bundle: &Bundle, name: &str) -> anyhow::Result<String> {
    let port = account.settings.web.listen.port();
    let work = format!(
        "systemctl enable eirs.target\n\
         {ENABLE_LOGS}{START_LOGS}\
         systemctl restart eirs.target\n\
         for _ in $(seq 120); do\n\
         \x20   curl -fs -o /dev/null http://127.0.0.1:{port}/readyz && ready=yes && break\n\
         \x20   sleep 1\n\
         done\n\
         [ \"${{ready:-}}\" = yes ] || {{ journalctl -u eirs-web -u eirs-controller -n 40 --no-pager; \
         false; }}\n"
    );
    script(account, bundle, name, &work, "").await
}

/// Returns the script that upgrades a running web host. Changes made since it was set up are kept.
/// If it does not serve with the new programs, the old ones are restored.
pub(crate) async fn upgrade(account: &Account, bundle: &Bundle, name: &str) -> anyhow::Result<String> {
    let work = upgrading(account.settings.web.listen.port(), READY_SECONDS);
    let (archive, report) = addresses(account, bundle, name).await?;
    Ok(text(&archive, &report, &bundle.digest, &[UNPACK_ASIDE, &work].concat(), ""))
}

/// Time limit for a web host to serve, in seconds.
const READY_SECONDS: u32 = 120;

fn upgrading(port: u16, seconds: u32) -> String {
    format!(
        r#"[ -n "$root" ] && at_root= || at_root=yes
new="$work/new"; old="$work/old"
"$new/{BIN}/eirs" host-settings --as-set-up "$root/{AS_SET_UP}" --now "$root/{ETC}" --new "$new/{ETC}"
(cd "$new" && find . -type f) >"$work/files"
(cd "$root/" && while read -r file; do [ ! -f "$file" ] || echo "$file"; done) <"$work/files" >"$work/kept"
mkdir "$old"
tar -C "$root/" -cf - -T "$work/kept" | tar -C "$old" -xpf -
put() {{
    tar -C "$1" -cf - -T "$2" | tar -C "$root/" --no-same-owner -xpf -
    [ -z "$at_root" ] || {{ systemd-sysusers; systemd-tmpfiles --create; systemctl daemon-reload; }}
    {ENABLE_LOGS}    {START_LOGS}    systemctl restart eirs.target || true
}}
serves() {{
    for _ in $(seq {seconds}); do
        curl -fs -o /dev/null http://127.0.0.1:{port}/readyz && return 0
        curl -kfs -o /dev/null https://127.0.0.1:{port}/readyz && return 0
        sleep 1
    done
    return 1
}}
put "$new" "$work/files"
if ! serves; then
    echo 'it does not serve with the new programs; those of before come back'
    journalctl -u eirs-web -u eirs-controller -n 40 --no-pager || true
    put "$old" "$work/kept"
    false
fi
"#
    )
}

async fn script(
    account: &Account,
    bundle: &Bundle,
    name: &str,
    work: &str,
    end: &str,
) -> anyhow::Result<String> {
    let (archive, report) = addresses(account, bundle, name).await?;
    Ok(text(&archive, &report, &bundle.digest, &[UNPACK, work].concat(), end))
}

/// Returns the curl arguments for the archive and for the report.
async fn addresses(account: &Account, bundle: &Bundle, name: &str) -> anyhow::Result<(String, String)> {
    credentials::outlast(&account.config, BAKED_WITHIN, "a machine that loads its files").await?;
    let good_for = PresigningConfig::expires_in(GOOD_FOR)?;
    let get = account.s3.get_object().bucket(account.input_bucket()).key(archive_key(&bundle.digest));
    let archive = get.presigned(good_for.clone()).await.map_err(|error| aws::error("signing", &error))?;
    let put = account.s3.put_object().bucket(account.input_bucket()).key(report_key(name));
    let report = put.presigned(good_for).await.map_err(|error| aws::error("signing", &error))?;
    Ok((address(&archive), address(&report)))
}

/// Unpacks the archive over the root of the machine.
const UNPACK: &str = r#"mkdir -p "$root/"
tar -xzf "$work/archive" --no-same-owner -C "$root/"
[ -n "$root" ] || { systemd-sysusers; systemd-tmpfiles --create; systemctl daemon-reload; }
"#;
/// Unpacks the archive into a separate folder.
const UNPACK_ASIDE: &str = r#"mkdir "$work/new"
tar -xzf "$work/archive" --no-same-owner -C "$work/new"
"#;

/// Returns the curl arguments for a presigned request: its URL and signed headers.
fn address(signed: &PresignedRequest) -> String {
    let headers = signed.headers().map(|(name, value)| format!("-H '{name}: {value}' "));
    format!("{}'{}'", headers.collect::<String>(), signed.uri())
}

fn text(archive: &str, report: &str, digest: &str, work: &str, end: &str) -> String {
    format!(
        r#"#!/bin/sh
# EIRS, written by `eirs setup`: installs what the archive holds, and reports how that went.
root=${{DESTDIR:-}}
work=$(mktemp -d)
(
set -eu
curl -fsS --retry 10 --retry-all-errors -o "$work/archive" {archive}
echo '{digest}  '"$work/archive" | sha256sum -c -
{work}) >"$work/log" 2>&1
if [ $? -eq 0 ]; then echo ok; else echo failed; fi >"$work/report"
tail -c 20000 "$work/log" >>"$work/report"
curl -fsS --retry 10 --retry-all-errors -X PUT --data-binary "@$work/report" -H 'content-type:' {report}
rm -rf "$work"
{end}"#
    )
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    /// Runs a script on this machine, below another root, with a `curl` that copies files.
    fn run(work: &str, digest: &str) -> (String, bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let fake = "#!/bin/sh\nwhile [ $# -gt 1 ]; do\n\
                    case $1 in -o) out=$2;; --data-binary) in=${2#@};; esac\nshift\ndone\n\
                    if [ -n \"${in:-}\" ]; then cp \"$in\" \"$1\"; else cp \"$1\" \"$out\"; fi\n";
        std::fs::write(path("curl"), fake).unwrap();
        std::fs::set_permissions(path("curl"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(path("greeting"), "hello").unwrap();
        let tar = Command::new("tar").args(["-czf", &path("archive"), "-C", &path(""), "greeting"]).status();
        assert!(tar.unwrap().success());
        let sum = Command::new("sha256sum").arg(path("archive")).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
        let digest = if digest.is_empty() { &sum } else { digest };
        let text = text(&path("archive"), &path("report"), digest, &[UNPACK, work].concat(), "");
        let environment = [("DESTDIR", path("root")), ("PATH", format!("{}:/usr/bin:/bin", path("")))];
        let done = Command::new("sh").args(["-c", &text]).envs(environment).status();
        assert!(done.unwrap().success());
        let unpacked = std::fs::read_to_string(path("root/greeting")).is_ok_and(|text| text == "hello");
        (std::fs::read_to_string(path("report")).unwrap(), unpacked)
    }

    #[test]
    fn a_machine_unpacks_the_archive_runs_its_script_and_reports() {
        let (report, unpacked) = run("echo worked\n", "");
        assert!(report.starts_with("ok\n") && report.contains("\nworked\n") && unpacked, "{report}");
    }

    #[test]
    fn a_failing_script_is_reported_with_its_output() {
        let (report, _) = run("echo before\nfalse\necho after\n", "");
        assert!(report.starts_with("failed\n"), "{report}");
        assert!(report.contains("\nbefore\n") && !report.contains("\nafter\n"), "{report}");
    }

    #[test]
    fn an_archive_with_another_digest_is_not_unpacked() {
        let (report, unpacked) = run("echo worked\n", &"0".repeat(64));
        assert!(report.starts_with("failed\n") && !unpacked, "{report}");
    }

    /// The effect of a machine's guard after `up` seconds, with this state of the worker's unit and
    /// this tag.
    fn guard(up: u32, unit: &str, handed_over: Option<&str>) -> (bool, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let write = |name: &str, text: &str| {
            std::fs::write(path(name), text).unwrap();
            std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let systemctl = format!(
            "#!/bin/sh\ncase $* in is-active*) echo {unit};; show*) echo 400000000;; \
             *poweroff) echo off >{};; esac\n",
            path("off")
        );
        write("systemctl", &systemctl);
        // A fake curl as it is called there: first for a token, then for the tag, whose value is
        // written to a file.
        let answer = match handed_over {
            Some("unreadable") => "exit 7".to_owned(),
            Some(tag) => format!("printf {tag} >\"$out\"; printf 200"),
            None => "printf 404".to_owned(),
        };
        let curl = format!(
            "#!/bin/sh\nwhile [ $# -gt 1 ]; do [ $1 = -o ] && out=$2; shift; done\n\
             case $1 in */token) echo token;; *) {answer};; esac\n"
        );
        write("curl", &curl);
        write("uptime", &format!("{up}.5 1.0\n"));
        let environment = [
            ("PATH", format!("{}:/usr/bin:/bin", path(""))),
            ("UPTIME", path("uptime")),
            ("ENDED_SECONDS", "300".into()),
            ("UNCLAIMED_SECONDS", "3600".into()),
            ("TRIAL_SECONDS", "14400".into()),
        ];
        let guard = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/eirs-guard");
        let done = Command::new("sh").arg(guard).envs(environment).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        (std::fs::exists(path("off")).unwrap(), String::from_utf8(done.stdout).unwrap())
    }

    #[test]
    fn a_useful_machine_and_one_of_unknown_state_stay_on() {
        for (up, unit, tag) in [
            (1_000_000, "active", Some("yes")),
            (1_000_000, "activating", Some("yes")),
            (1_000_000, "active", Some("unreadable")),
            (3599, "active", None),
            (3599, "active", Some("no")),
            (14_399, "active", Some("trial")),
            // The unit ended after 400 seconds of uptime.
            (699, "failed", Some("yes")),
        ] {
            assert_eq!(guard(up, unit, tag), (false, String::new()), "{up} {unit} {tag:?}");
        }
    }

    #[test]
    fn a_machine_without_unit_or_owner_powers_itself_off() {
        for (up, unit, tag, why) in [
            (700, "failed", Some("yes"), "eirs-worker.service does not run, for 300 seconds"),
            (700, "inactive", None, "eirs-worker.service does not run"),
            (3600, "active", None, "nobody has taken this machine over"),
            (3600, "active", Some("no"), "nobody has taken this machine over"),
            (14_400, "active", Some("trial"), "nobody has taken this machine over"),
        ] {
            let (is_off, said) = guard(up, unit, tag);
            assert!(is_off && said.contains(why), "{up} {unit} {tag:?}: {said}");
        }
    }

    /// Upgrades a host whose program prints `before` to this program; returns the report, the
    /// output of the program, and the settings.
    fn upgrade(program: &str) -> (String, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(path(name), text).unwrap();
            std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        // It serves if its program is valid.
        write(
            "bin/curl",
            "#!/bin/sh\nwhile [ $# -gt 1 ]; do\ncase $1 in -o) out=$2;; --data-binary) in=${2#@};; esac\n\
             shift\ndone\n\
             case $1 in http*) grep -q good \"$DESTDIR/usr/bin/eirs-web\"; exit;; esac\n\
             if [ -n \"${in:-}\" ]; then cp \"$in\" \"$1\"; else cp \"$1\" \"$out\"; fi\n",
        );
        for tool in ["systemctl", "journalctl"] {
            write(&format!("bin/{tool}"), "#!/bin/sh\n");
        }
        write("root/usr/bin/eirs-web", "good, before");
        write("root/etc/eirs/eirs.toml", "own");
        write("root/etc/eirs/tokens", "secret");
        // Merging the settings is the task of `eirs host-settings`.
        write("new/usr/bin/eirs", "#!/bin/sh\necho merged >\"$7/eirs.toml\"\n");
        write("new/usr/bin/eirs-web", program);
        write("new/etc/eirs/eirs.toml", "new");
        let tar = Command::new("tar").args(["-czf", &path("archive"), "-C", &path("new"), "."]).status();
        assert!(tar.unwrap().success());
        let sum = Command::new("sha256sum").arg(path("archive")).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
        let work = [UNPACK_ASIDE, &upgrading(8000, 1)].concat();
        let text = text(&path("archive"), &path("report"), &sum, &work, "");
        let environment = [("DESTDIR", path("root")), ("PATH", format!("{}:/usr/bin:/bin", path("bin")))];
        assert!(Command::new("sh").args(["-c", &text]).envs(environment).status().unwrap().success());
        let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        assert_eq!(read("root/etc/eirs/tokens"), "secret");
        (read("report"), read("root/usr/bin/eirs-web"), read("root/etc/eirs/eirs.toml"))
    }

    #[test]
    fn an_upgraded_web_host_has_the_new_programs_and_merged_settings() {
        let (report, program, settings) = upgrade("good, after");
        assert!(report.starts_with("ok\n"), "{report}");
        assert_eq!((program.as_str(), settings.trim()), ("good, after", "merged"));
    }

    #[test]
    fn a_web_host_that_fails_with_the_new_programs_gets_the_old_ones_back() {
        let (report, program, settings) = upgrade("bad");
        assert!(report.starts_with("failed\n") && report.contains("does not serve with the new"), "{report}");
        assert_eq!((program.as_str(), settings.trim()), ("good, before", "own"));
    }
}
