use std::time::Duration;

use super::*;

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Settings, BadSettings> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eirs.toml");
    std::fs::write(&path, file).unwrap();
    Layers::of(Some(&path), environment).load()
}

#[test]
fn later_layers_win_and_untouched_keys_keep_their_defaults() {
    let file = "[web]\nwait = \"5s\"\nmax_uploads = 7\n[models.dogs]\npath = \"dogs.onnx\"";
    let settings = load(file, &[("EIRS_WEB__WAIT", "7s"), ("PATH", "/bin"), ("EIRS_CONFIG", "x")]).unwrap();
    assert_eq!(settings.web.wait, Duration::from_secs(7));
    assert_eq!(settings.web.max_uploads, 7);
    assert_eq!(settings.web.max_backlog, 100_000);
    assert_eq!(settings.models.keys().collect::<Vec<_>>(), ["default", "dogs"]);
}

#[test]
fn a_flag_wins_over_everything() {
    let layers = Layers::of(None, &[("EIRS_WEB__WAIT", "7s")]).flag("web.wait", Some("9s"));
    assert_eq!(layers.load().unwrap().web.wait, Duration::from_secs(9));
}

#[test]
fn all_errors_are_reported_at_once_with_their_source_and_key() {
    let file = "backend = \"azure\"\n[web]\nlisten = \"nowhere\"\nmax_upload = 3\nwait = 5\n[telemtry]\nfilter = \"x\"";
    let BadSettings(complaints) = load(file, &[("EIRS_QUEUE__VISIBILITY", "soon")]).unwrap_err();
    let named = |key: &str, hint: &str| {
        assert!(
            complaints.iter().any(|c| c.contains(key) && c.contains(hint)),
            "{key}, {hint}: {complaints:#?}"
        );
    };
    named("eirs.toml: backend:", "azure");
    named("eirs.toml: web.listen:", "socket address");
    named("eirs.toml: unknown key `web.max_upload`", "; did you mean `web.max_uploads`?");
    named("eirs.toml: unknown key `telemtry.filter`", "; did you mean `telemetry.filter`?");
    named("EIRS_QUEUE__VISIBILITY: queue.visibility:", "is not a duration");
    assert!(complaints.iter().any(|c| c.contains("web.wait")), "{complaints:#?}");
}

#[test]
fn the_error_for_a_mistyped_key_suggests_the_right_one() {
    let check = |file: &str, environment: &[(&str, &str)], expected: &str| {
        let BadSettings(complaints) = load(file, environment).unwrap_err();
        assert!(complaints[0].ends_with(expected), "{expected}: {complaints:#?}");
    };
    check("[web]\nlisen = 'x'", &[], "eirs.toml: unknown key `web.lisen`; did you mean `web.listen`?");
    check(
        "",
        &[("EIRS_WEB__LISEN", "x")],
        "EIRS_WEB__LISEN: unknown key `web.lisen`; did you mean `web.listen`?",
    );
    check("backnd = 'aws'", &[], "unknown key `backnd`; did you mean `backend`?");
    check(
        "[models.dogs]\nlables = 'x'",
        &[],
        "unknown key `models.dogs.lables`; did you mean `models.dogs.labels`?",
    );
    check("[web]\ntick = '5s'", &[], "unknown key `web.tick`; did you mean `controller.tick`?");
    check("listen = 'x'", &[], "unknown key `listen`; did you mean `web.listen`?");
    check("[local]\nlabels = 'x'", &[], "unknown key `local.labels`; did you mean `models.default.labels`?");
    // If nothing is similar, the error lists all keys.
    let BadSettings(complaints) = load("[local]\nzzz = 1", &[]).unwrap_err();
    let [complaint] = complaints.as_slice() else { panic!("{complaints:#?}") };
    assert!(
        complaint.contains("unknown key `local.zzz`; the known ones are ")
            && complaint.contains("local.state"),
        "{complaint}"
    );
}

#[test]
fn links_of_a_cluster_are_ignored_and_a_typo_is_reported() {
    let environment = [
        ("EIRS_PORT", "tcp://10.96.12.34:8000"),
        ("EIRS_WEB_SERVICE_HOST", "10.96.12.34"),
        ("EIRS_WEB_LISTEN", "0.0.0.0:80"),
        ("EIRS_WEB__WAIT", "7s"),
    ];
    let settings = load("", &environment).unwrap();
    assert_eq!((settings.web.wait, settings.web.listen.port()), (Duration::from_secs(7), 8000));
    let strays = Layers::of(None, &environment).strays();
    assert_eq!(
        strays,
        ["EIRS_WEB_LISTEN is not a setting and is ignored; did you mean \
        EIRS_WEB__LISTEN?"]
    );
}

#[test]
fn the_error_for_a_value_says_what_would_be_right() {
    let check = |file: &str, expected: &str| {
        let BadSettings(complaints) = load(file, &[]).unwrap_err();
        assert_eq!(complaints.len(), 1, "{complaints:#?}");
        assert!(complaints[0].ends_with(expected), "{expected}: {complaints:#?}");
    };
    for listen in ["8000", "'8000'", "':8000'", "'localhost:8000'", "'0.0.0.0'", "'127.0.0.1:99999'"] {
        check(
            &format!("[web]\nlisten = {listen}"),
            "web.listen: is not a socket address; write an IP address and a port, like \"127.0.0.1:8000\"",
        );
    }
    for size in ["", "5 megabytes", "-5MB", "5_000", "1e6"] {
        check(
            &format!("[web]\nmax_image = '{size}'"),
            &format!("web.max_image: \"{size}\" is not a size; write a number and a unit, like \"16MiB\""),
        );
    }
    check(
        "[web]\nmax_image = 5.5",
        "`5.5` is not a size; write a whole number of bytes, or a number and a unit, like \"16MiB\"",
    );
    check(
        "[web]\nmax_image = -1",
        "web.max_image: integer `-1` is not a size; write a whole number of bytes, or a number and a unit, like \"16MiB\"",
    );
    check("[web]\nmax_image = 0", "web.max_image: must be at least 1 byte, or every image is refused");
    check(
        "# limits\n[web]\nmax_image = 99_999_999_999_999_999_999",
        "line 3: `max_image = 99_999_999_999_999_999_999`: a number beyond what a setting can have",
    );
    check(
        "[models.default]\nclassifier = 'script'\ncommand = 'python3 x.py'",
        "models.default.command: is string \"python3 x.py\", must be a list, like [\"one\", \"two\"]",
    );
    check("[models.default]\nmean = ['a']", "models.default.mean: is string \"a\", must be a number");
    check(
        "[models.default]\ncommand = ['true']",
        "models.default.command: goes with classifier = \"script\"",
    );
    check("[worker]\nthreads = 1025", "worker.threads: must be at most 1024; 0 is one for each core");
    check("web = 1", "web: invalid type: integer `1`, expected a table with the keys of this section");
    check(
        "[models.default]\nclassifier = 'scripts'",
        "models.default.classifier: is `scripts`, must be `onnx`, `script`, `noop`",
    );
    check("[models.default]\nprotocol = 'twice'", "protocol: is `twice`, must be `once` or `stream`");
    check("backend = 'azure'", "backend: is `azure`, must be `local` or `aws`");
    check("[models.default]\ntop = -1", "must be a whole number from 0");
    for name in ["a b", "a/b", "ü", ""] {
        check(
            &format!("[models.\"{name}\"]\npath = 'x'"),
            &format!("models.{name}: a model's name must be letters, digits and dashes, at most 60"),
        );
    }
}

#[test]
fn a_path_that_is_empty_or_left_to_a_shell_is_refused() {
    for (key, value) in [
        ("local.state", "'~/eirs'"),
        ("models.default.path", "'~/model.onnx'"),
        ("models.dogs.labels", "\"~\""),
        ("setup.include", "['/a', '~/b']"),
        ("web.tls.certificate", "'~/c.pem'"),
    ] {
        let BadSettings(complaints) = load(&format!("{key} = {value}"), &[]).unwrap_err();
        assert!(complaints[0].contains(&format!("{key}: `~")), "{complaints:#?}");
        assert!(complaints[0].ends_with("`~` has no meaning in settings; write the whole path"));
    }
    let BadSettings(complaints) = load("", &[("EIRS_LOCAL__STATE", " ")]).unwrap_err();
    assert_eq!(complaints, ["EIRS_LOCAL__STATE: local.state: is empty; write a path, or leave the key out"]);
    assert!(load("[models.default]\npath = '/home/~/a b.onnx'", &[]).is_ok());
}

#[test]
fn two_underscores_after_the_prefix_are_refused_with_a_suggestion() {
    let BadSettings(complaints) = load("", &[("EIRS__WEB__LISTEN", "x")]).unwrap_err();
    assert_eq!(complaints, ["EIRS__WEB__LISTEN: unknown key `_web.listen`; did you mean `web.listen`?"]);
}

#[test]
fn incompatible_values_are_refused() {
    let BadSettings(complaints) =
        load("[queue]\nvisibility = \"15s\"\n[models.x]\nclassifier = \"script\"", &[]).unwrap_err();
    assert!(complaints.iter().any(|c| c.starts_with("worker.heartbeat:")), "{complaints:#?}");
    assert!(complaints.iter().any(|c| c.starts_with("models.x.command:")), "{complaints:#?}");
}

#[test]
fn a_possible_credential_is_refused_without_being_repeated() {
    let key_id = ["ASIA", "0123456789", "ABCDEF"].concat();
    for (file, environment) in
        [(format!("# {key_id}\n"), None), (String::new(), Some(("EIRS_AWS__REGION", key_id.as_str())))]
    {
        let BadSettings(complaints) = load(&file, &environment.into_iter().collect::<Vec<_>>()).unwrap_err();
        let [complaint] = complaints.as_slice() else { panic!("{complaints:#?}") };
        assert!(complaint.contains("credentials come from the SDK's own chain"), "{complaint}");
        assert!(!complaint.contains(&key_id), "{complaint}");
    }
}

#[test]
fn only_a_cloud_requires_the_names_of_buckets() {
    let BadSettings(complaints) = load("backend = \"aws\"", &[]).unwrap_err();
    let keys: Vec<_> = complaints.iter().filter_map(|c| c.split(':').next()).collect();
    assert_eq!(keys, ["aws.input_bucket", "aws.output_bucket"]);
    let buckets = "backend = \"aws\"\n[aws]\ninput_bucket = \"images\"\noutput_bucket = \"results\"";
    assert!(load(buckets, &[]).is_ok());
    assert!(load("", &[]).is_ok());
}

#[test]
fn set_values_are_distinguished_from_defaults() {
    let layers = Layers::of(None, &[("EIRS_WEB__LISTEN", "127.0.0.1:8000")]).flag("web.wait", Some("1m"));
    assert!(layers.sets("web.listen") && layers.sets("web.wait"));
    assert!(!layers.sets("web.admin_listen"));
}

#[test]
fn lists_can_be_set_from_the_environment() {
    let settings = load("", &[("EIRS_MODELS__DEFAULT__MEAN", "[0.485, 0.456, 0.406]")]).unwrap();
    assert_eq!(settings.models["default"].mean, Some([0.485, 0.456, 0.406].into()));
}

#[test]
fn a_missing_file_that_was_named_is_an_error() {
    let error = Layers::of(Some(Path::new("/nowhere/eirs.toml")), &[]).load().unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/eirs.toml: cannot be read"), "{error}");
}

#[test]
fn what_is_not_toml_is_one_sentence_with_file_and_line() {
    let error = load("[web]\nlisten = \"127.0.0.1:8000\"\n[web]\n", &[]).unwrap_err().to_string();
    assert!(error.contains("eirs.toml:3: is not TOML: duplicate key: `[web]`; "), "{error}");
    let error = load("[web]\nlisten = \n", &[]).unwrap_err().to_string();
    assert!(error.contains("eirs.toml:2: is not TOML: ") && error.lines().count() == 1, "{error}");
}
