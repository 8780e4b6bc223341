//! The environment of scripts: variables with which programs find their files, libraries and
//! devices, and additions from the settings. Credentials and settings of EIRS are not passed on.

use std::{env, ffi::OsString};

/// Variables that are passed on if the worker has them; a star matches any suffix.
/// `docs/SETTINGS.md` has the same list.
const USUAL: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "TZ",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TMPDIR",
    "TEMP",
    "TMP",
    "XDG_*",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "PYTHON*",
    "VIRTUAL_ENV",
    "CONDA_*",
    "JAVA_HOME",
    "NODE_PATH",
    "CUDA_*",
    "NVIDIA_*",
    "ROCR_*",
    "HIP_*",
    "OMP_*",
    "MKL_*",
    "OPENBLAS_*",
    "NUMEXPR_*",
    "TF_*",
    "TORCH_HOME",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
];

/// Returns the variables for a script. Entries of `more` are names, prefixes with a star, or
/// `NAME=value`.
pub(super) fn for_scripts(more: &[String]) -> Vec<(OsString, OsString)> {
    choose(env::vars_os(), more)
}

fn choose(all: impl Iterator<Item = (OsString, OsString)>, more: &[String]) -> Vec<(OsString, OsString)> {
    let (set, named): (Vec<_>, Vec<_>) =
        more.iter().map(String::as_str).partition(|entry| entry.contains('='));
    let wanted = |name: &OsString| {
        let fits = |pattern: &&str| match pattern.strip_suffix('*') {
            Some(beginning) => name.as_encoded_bytes().starts_with(beginning.as_bytes()),
            None => name == pattern,
        };
        USUAL.iter().any(fits) || named.iter().any(fits)
    };
    let set = set
        .into_iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.into(), value.into()));
    all.filter(|(name, _)| wanted(name)).chain(set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_gets_the_usual_variables_and_configured_ones_but_no_credentials() {
        let all = [
            "PATH",
            "LC_ALL",
            "PYTHONPATH",
            "CUDA_VISIBLE_DEVICES",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_REGION",
            "EIRS_WEB__LISTEN",
            "HF_TOKEN",
            "PATHS",
            "MY_URL",
            "MY_OTHER",
            "NOTIFY_SOCKET",
        ];
        let more =
            ["AWS_REGION".to_owned(), "MY_*".to_owned(), "MODE=a=b".to_owned(), "PATH=/only".to_owned()];
        let all = || all.iter().map(|name| (OsString::from(name), OsString::from("x")));
        let names = |chosen: Vec<(OsString, OsString)>| -> Vec<String> {
            chosen
                .into_iter()
                .map(|(name, value)| format!("{}={}", name.display(), value.display()))
                .collect()
        };
        assert_eq!(
            names(choose(all(), &[])),
            ["PATH=x", "LC_ALL=x", "PYTHONPATH=x", "CUDA_VISIBLE_DEVICES=x"]
        );
        let chosen = names(choose(all(), &more));
        assert_eq!(
            chosen[4..],
            ["AWS_REGION=x", "MY_URL=x", "MY_OTHER=x", "MODE=a=b", "PATH=/only"],
            "PATH from the settings comes last, so it wins"
        );
    }

    #[test]
    fn the_documentation_lists_all_variables() {
        let page = include_str!("../../../../docs/SETTINGS.md");
        for name in USUAL {
            assert!(
                page.contains(&format!("`{name}`")),
                "docs/SETTINGS.md does not say that scripts get {name}"
            );
        }
    }
}
