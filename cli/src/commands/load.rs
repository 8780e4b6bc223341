//! `eirs load`

mod goals;
mod live;
mod rate;

use std::{ffi::OsStr, fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use eirs_load::{Expect, Options, Report, Truth, Url, images};
use eirs_platform::settings::units;

use self::{
    goals::Goals,
    live::{Extent, Live},
    rate::Rate,
};
use crate::{Exit, Stop, bearer, show};

/// Upload images, and report throughput, latency and accuracy
///
/// Without --rate, each of C connections uploads an image, waits for its label and takes the next
/// one. With --rate, uploads are sent when they are due, whatever the service does, and each
/// latency counts from that moment. After a 202, the result is polled until it is there; 429 and
/// 503 are obeyed. See docs/LOAD.md.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        eirs load --num-request 100 --image-folder photos --labels label.xlsx\n  \
        eirs load --image-folder photos --rate 0..200@60s,200@5m --slo-p95 2s --report load.html\n  \
        eirs load --url http://127.0.0.1:9000/predict --image-folder photos --field file \
        --expect /predictions/0/class\n\n\
        A rate is 50, 300/m, 0..200@60s, several of these in a row (50@30s,200@10s,0..100@1m), or a\n\
        trace: a CSV file (`t_seconds,count`, or one column of arrival times), the controller's\n\
        recording, or a generator of `eirs simulate`, like burst:300/10m@1h.")]
pub struct Load {
    /// Number of uploads; if N exceeds the number of images, they repeat [default: each image once,
    /// or until --duration or the rate ends]
    #[arg(long, alias = "num_request", value_name = "N")]
    num_request: Option<u64>,
    /// How long to start uploads; those in flight at the end are awaited
    #[arg(long, value_name = "TIME", value_parser = units::duration::parse)]
    duration: Option<Duration>,
    /// The service; /upload is added to a URL without a path
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    url: Url,
    /// The folder of the images, searched with its subfolders
    #[arg(long, alias = "image_folder", value_name = "FOLDER")]
    image_folder: PathBuf,
    /// Uploads in flight [default: 32]
    #[arg(
        long, value_name = "C", conflicts_with = "rate",
        value_parser = clap::value_parser!(u16).range(1..=10_000)
    )]
    concurrency: Option<u16>,
    /// The correct labels: a workbook or a CSV file with the columns Input and Result [default: the
    /// folder names, if there are several folders]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Make every upload a new image (by a comment in the file), so that no stored result is
    /// returned
    #[arg(long)]
    unique: bool,
    /// Time limit from an upload to its label; with --rate, from the time it is due
    #[arg(long, default_value = "300s", value_parser = units::duration::parse)]
    timeout: Duration,
    /// Print the report as one JSON object, without a line per image
    #[arg(long)]
    json: bool,
    /// Print the report without a line per image
    #[arg(long, short)]
    quiet: bool,
    /// Also write the report as an HTML page with plots
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    #[command(flatten)]
    rate: Rate,
    #[command(flatten)]
    goals: Goals,
    #[command(flatten)]
    service: Service,
}

/// What the service wants, and what it answers.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Other services than EIRS")]
struct Service {
    /// The name of the multipart field
    #[arg(long, default_value = "myfile")]
    field: String,
    /// Send the image as the whole body, without a form
    #[arg(long, conflicts_with = "field")]
    bare: bool,
    /// Where the label is in a 2xx response: a JSON pointer such as /predictions/0/class, or a
    /// regular expression whose first group, or else whole match, is the label
    #[arg(long, value_name = "POINTER|REGEX")]
    expect: Option<Expect>,
    /// A file with the token to send as `Authorization: Bearer` [default: $EIRS_TOKEN]
    #[arg(long, value_name = "FILE", alias = "token_file")]
    token_file: Option<PathBuf>,
}

impl Load {
    /// Runs the load; it fails if a goal is missed or, without goals, if an image fails.
    pub async fn run(self) -> Result<Exit, Stop> {
        let mut folder = images::read_folder(&self.image_folder, self.num_request)?;
        // The sheet may be in the folder of the images.
        let is_sheet = |name: &String| self.labels.as_ref().is_some_and(|sheet| sheet.ends_with(name));
        folder.passed_over.retain(|name| !is_sheet(name));
        if let Some(remark) = folder.remark().filter(|_| !self.json) {
            show::aside(remark);
        }
        let (images, passed_over) = (folder.images, folder.passed_over);
        let truth = match &self.labels {
            Some(path) => Some(Truth::from_file(path, &images)?),
            None => Truth::from_folders(&images),
        };
        if self.num_request == Some(0) {
            return Err(Stop::Usage("--num-request 0: nothing to upload".into()));
        }
        if self.duration.is_some_and(|duration| duration.is_zero()) {
            return Err(Stop::Usage("--duration 0: nothing to upload".into()));
        }
        if self.timeout.is_zero() {
            return Err(Stop::Usage("--timeout 0: no upload would be in time".into()));
        }
        let open = self.rate.open_loop().map_err(Stop::Usage)?;
        let schedule_end = open.as_ref().and_then(|open| open.schedule.end());
        let duration = self.duration.into_iter().chain(schedule_end).min();
        let each_once = duration.is_none().then_some(images.len() as u64);
        let concurrency = match open {
            Some(_) => self.rate.max_in_flight as usize,
            None => self.concurrency.unwrap_or(32).into(),
        };
        let options = Options {
            requests: self.num_request.or(each_once),
            duration: self.duration,
            concurrency,
            open,
            token: bearer::header(self.service.token_file.as_deref())?,
            field: self.service.field,
            bare: self.service.bare,
            unique: self.unique,
            expect: self.service.expect.unwrap_or_default(),
            timeout: self.timeout,
            truth,
            slo: self.goals.into(),
            ..Options::new(self.url, images)
        };
        if let Some(file) = &self.report {
            // Reports an unwritable file before the run instead of after it.
            let open = fs::OpenOptions::new().create(true).append(true).open(file);
            open.with_context(|| format!("{}: cannot be written", file.display()))?;
        }
        show::stop_on_signal(options.stop.clone());

        let began = chrono::Utc::now();
        let extent = Extent { requests: options.requests, duration };
        let live = Arc::new(Live::new(extent, !self.quiet && !self.json));
        let report = eirs_load::run(options, live.clone()).await;
        live.finish();
        let report = Report { passed_over, ..report? };
        if let Some(file) = &self.report {
            let page = eirs_load::page(&report, &command_line(std::env::args_os()), began);
            fs::write(file, page).with_context(|| format!("{}: cannot be written", file.display()))?;
        }
        if self.json {
            show::json(&report);
        } else {
            show::out(report.to_string().trim_end());
        }
        if report.images == 0 && report.stopped.is_none() {
            show::aside("nothing was uploaded: no upload was due before the end of the run");
            return Ok(Exit::Failed);
        }
        Ok(if report.is_well() { Exit::Ok } else { Exit::Failed })
    }
}

/// Formats the command so that a shell can run it again.
fn command_line(arguments: impl Iterator<Item = impl AsRef<OsStr>>) -> String {
    let quoted = |(number, argument): (usize, _)| {
        let text = AsRef::<OsStr>::as_ref(&argument).to_string_lossy().into_owned();
        let text = if number == 0 { text.rsplit('/').next().unwrap_or_default().to_owned() } else { text };
        show::quoted(&text)
    };
    arguments.enumerate().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shown_command_can_be_pasted() {
        let shown =
            command_line(["/usr/bin/eirs", "load", "--rate", "0..5@1m", "--expect", "it's (.*)", ""].iter());
        assert_eq!(shown, r"eirs load --rate 0..5@1m --expect 'it'\''s (.*)' ''");
    }
}
