//! What the machines that setup launches run at their first boot, as root: they fetch the archive,
//! unpack it over their root, and report how that went. `DESTDIR` puts everything below another
//! folder, as in `make install`.

use std::time::Duration;

use anyhow::Context;
use aws_sdk_s3::{
    presigning::{PresignedRequest, PresigningConfig},
    primitives::ByteStream,
};
use eirs_platform::aws;

use super::{
    Account,
    bundle::{Bundle, PREPARE},
};

/// How long the addresses in a script are good for: longer than any first boot takes.
const GOOD_FOR: Duration = Duration::from_secs(3600);

/// What a machine reports: whether it went well, and what its script said.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) went_well: bool,
    pub(crate) said: String,
}

/// Where the archive of this digest lies in the input bucket.
fn archive_key(digest: &str) -> String {
    format!("setup/{digest}.tar.gz")
}

/// Where the report about a machine lies. It is named before the machine is made, for the machine
/// must know it.
pub(crate) fn report_key(name: &str) -> String {
    format!("setup/{name}.report")
}

/// Uploads an archive, unless it is there.
pub(crate) async fn upload(account: &Account, bundle: &Bundle) -> anyhow::Result<()> {
    let key = archive_key(&bundle.digest);
    let head = account.s3.head_object().bucket(account.input_bucket()).key(&key).send().await;
    if head.is_ok_and(|head| head.content_length() == i64::try_from(bundle.bytes).ok()) {
        return Ok(());
    }
    let body = ByteStream::from_path(bundle.file.path()).await.context("reading the archive")?;
    // An archive is large, and its way may be slow.
    let patience = aws_sdk_s3::config::timeout::TimeoutConfig::builder()
        .operation_timeout(GOOD_FOR)
        .operation_attempt_timeout(GOOD_FOR)
        .build();
    let call = account.s3.put_object().bucket(account.input_bucket()).key(&key).body(body).customize();
    let call = call.config_override(aws_sdk_s3::config::Builder::new().timeout_config(patience));
    call.send().await.map_err(|error| aws::error("uploading the archive for the machines", &error))?;
    Ok(())
}

/// Reads the report about a machine; `None` while there is none.
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

/// Deletes the report about a machine, so that the next one is a new one.
pub(crate) async fn forget_report(account: &Account, name: &str) -> anyhow::Result<()> {
    let key = report_key(name);
    let deleted = account.s3.delete_object().bucket(account.input_bucket()).key(&key).send().await;
    deleted.map(|_| ()).map_err(|error| aws::error(format!("deleting the report {key}"), &error).into())
}

/// The script of the machine that an image is baked from. It ends with the machine powered off.
pub(crate) async fn builder(account: &Account, bundle: &Bundle, name: &str) -> anyhow::Result<String> {
    let prepare = if bundle.has_prepare { format!("sh \"$root/{PREPARE}\"\n") } else { String::new() };
    let work = format!(
        "{prepare}\
         systemctl enable eirs-worker.service\n\
         \"$root/usr/bin/eirs-worker\" --config \"$root/etc/eirs/eirs.toml\" --self-test\n\
         # Each machine that comes of this image is its own.\n\
         [ -n \"$root\" ] || truncate -s 0 /etc/machine-id\n"
    );
    script(account, bundle, name, &work, "poweroff\n").await
}

/// The script of a web host. It goes on running.
pub(crate) async fn web_host(account: &Account, bundle: &Bundle, name: &str) -> anyhow::Result<String> {
    let port = account.settings.web.listen.port();
    let work = format!(
        "systemctl enable eirs.target\n\
         systemctl restart eirs.target\n\
         for _ in $(seq 120); do\n\
         \x20   curl -fs -o /dev/null http://127.0.0.1:{port}/readyz && ready=yes && break\n\
         \x20   sleep 1\n\
         done\n\
         [ \"${{ready:-}}\" = yes ] || {{ journalctl -u eirs-web -u eirs-controller -n 40 --no-pager; false; }}\n"
    );
    script(account, bundle, name, &work, "").await
}

async fn script(
    account: &Account,
    bundle: &Bundle,
    name: &str,
    work: &str,
    end: &str,
) -> anyhow::Result<String> {
    let good_for = PresigningConfig::expires_in(GOOD_FOR)?;
    let get = account.s3.get_object().bucket(account.input_bucket()).key(archive_key(&bundle.digest));
    let archive = get.presigned(good_for.clone()).await.map_err(|error| aws::error("signing", &error))?;
    let put = account.s3.put_object().bucket(account.input_bucket()).key(report_key(name));
    let report = put.presigned(good_for).await.map_err(|error| aws::error("signing", &error))?;
    Ok(text(&address(&archive), &address(&report), &bundle.digest, work, end))
}

/// What `curl` is told of a signed request: its address, and the headers that were signed with it.
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
mkdir -p "$root/"
tar -xzf "$work/archive" --no-same-owner -C "$root/"
[ -n "$root" ] || {{ systemd-sysusers; systemd-tmpfiles --create; systemctl daemon-reload; }}
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
        let fake = "#!/bin/sh\nwhile [ $# -gt 1 ]; do\ncase $1 in -o) out=$2;; --data-binary) in=${2#@};; esac\nshift\ndone\n\
                    if [ -n \"${in:-}\" ]; then cp \"$in\" \"$1\"; else cp \"$1\" \"$out\"; fi\n";
        std::fs::write(path("curl"), fake).unwrap();
        std::fs::set_permissions(path("curl"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(path("greeting"), "hello").unwrap();
        let tar = Command::new("tar").args(["-czf", &path("archive"), "-C", &path(""), "greeting"]).status();
        assert!(tar.unwrap().success());
        let sum = Command::new("sha256sum").arg(path("archive")).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
        let digest = if digest.is_empty() { &sum } else { digest };
        let text = text(&path("archive"), &path("report"), digest, work, "");
        let environment = [("DESTDIR", path("root")), ("PATH", format!("{}:/usr/bin:/bin", path("")))];
        let done = Command::new("sh").args(["-c", &text]).envs(environment).status();
        assert!(done.unwrap().success());
        let unpacked = std::fs::read_to_string(path("root/greeting")).is_ok_and(|text| text == "hello");
        (std::fs::read_to_string(path("report")).unwrap(), unpacked)
    }

    #[test]
    fn a_machine_unpacks_the_archive_does_its_work_and_reports() {
        let (report, unpacked) = run("echo worked\n", "");
        assert!(report.starts_with("ok\n") && report.contains("\nworked\n") && unpacked, "{report}");
    }

    #[test]
    fn a_machine_whose_work_fails_reports_that_with_all_that_was_said() {
        let (report, _) = run("echo before\nfalse\necho after\n", "");
        assert!(report.starts_with("failed\n"), "{report}");
        assert!(report.contains("\nbefore\n") && !report.contains("\nafter\n"), "{report}");
    }

    #[test]
    fn an_archive_that_is_not_the_one_that_was_meant_is_not_unpacked() {
        let (report, unpacked) = run("echo worked\n", &"0".repeat(64));
        assert!(report.starts_with("failed\n") && !unpacked, "{report}");
    }
}
