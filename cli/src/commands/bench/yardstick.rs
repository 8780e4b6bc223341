//! Measures a Python loop with Pillow and onnxruntime for the same images, without a service.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail};
use tokio::process::Command;

pub(super) const SCRIPT: &str = include_str!("python_loop.py");
pub(super) const PACKAGES: [&str; 3] = ["onnxruntime==1.32.0", "pillow", "numpy"];

/// Returns images per second of the Python loop on a number of processes, or the reason why it
/// could not run.
pub(super) async fn python_loop(
    model: &Path,
    images: &Path,
    threads: usize,
    rounds: usize,
) -> anyhow::Result<f64> {
    let text = self::python(SCRIPT, &[model, images], &[threads.to_string(), rounds.to_string()]).await?;
    text.trim().parse().with_context(|| format!("it printed {text:?}"))
}

/// Returns the output of a script with these arguments, in a Python with onnxruntime and Pillow.
pub(super) async fn python(script: &str, paths: &[&Path], arguments: &[String]) -> anyhow::Result<String> {
    let python = environment("bench-python", "import onnxruntime, PIL, numpy", &PACKAGES).await?;
    let output = Command::new(python)
        .args(["-c", script])
        .args(paths)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .context("starting Python")?;
    if !output.status.success() {
        bail!(
            "{}",
            String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("it failed without a word")
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the Python of a virtual environment with the packages. It is created if `test` fails,
/// which it does at first use.
pub(super) async fn environment(name: &str, test: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let folder = cache.or_else(home).context("there is no home folder")?.join("eirs").join(name);
    let python = folder.join("bin/python3");
    if quiet(Command::new(&python).args(["-c", test])).await.is_err() {
        quiet(Command::new("python3").args(["-m", "venv"]).arg(&folder))
            .await
            .context("making a virtual environment")?;
        quiet(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))
            .await
            .with_context(|| format!("installing {}", packages.join(" ")))?;
    }
    Ok(python)
}

async fn quiet(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await?;
    if !status.success() {
        bail!("it ended with {status}");
    }
    Ok(())
}
