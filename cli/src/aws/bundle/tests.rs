use eirs_platform::settings::Layers;

use super::*;

fn settings(folder: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.aws.input_bucket = Some("images".into());
    settings.aws.output_bucket = Some("results".into());
    let (path, labels) = (folder.join("dogs.onnx"), folder.join("labels.txt"));
    for file in [&path, &labels, &folder.join("dogs.onnx.data")] {
        std::fs::write(file, "x").unwrap();
    }
    let engine = eirs_platform::settings::Engine::Rten;
    settings.models.insert("dogs".into(), Model { path: Some(path), engine, ..Model::default() });
    settings.models.insert("default".into(), Model { engine, ..Model::default() });
    settings
}

/// Parses settings as a machine would.
fn read(text: &str) -> Settings {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("eirs.toml");
    std::fs::write(&file, text).unwrap();
    Layers::of(Some(&file), &[]).load().unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn a_worker_finds_its_models_where_the_archive_puts_them() {
    let folder = tempfile::tempdir().unwrap();
    let (text, files) = worker_settings(&settings(folder.path())).unwrap();
    let read = read(&text);
    assert_eq!(read.models["dogs"].path.as_deref(), Some(Path::new("/usr/share/eirs/models/dogs/dogs.onnx")));
    assert_eq!(
        read.models["dogs"].labels.as_deref(),
        Some(Path::new("/usr/share/eirs/models/dogs/labels.txt"))
    );
    assert_eq!(read.models["default"].path, None, "the built-in one needs no file");
    let web = self::read(&web_settings(&settings(folder.path())).unwrap());
    for name in ["default", "dogs"] {
        let here = version::of(&settings(folder.path()).models[name]).unwrap();
        assert_eq!(version::of(&read.models[name]), Ok(here.clone()), "the version of the files");
        assert_eq!(version::of(&web.models[name]), Ok(here), "a web host expects what workers answer with");
    }
    let mut places: Vec<_> = files.iter().map(|(place, _)| place.as_str()).collect();
    places.sort_unstable();
    let dogs = "usr/share/eirs/models/dogs";
    assert_eq!(
        places,
        [format!("{dogs}/dogs.onnx"), format!("{dogs}/dogs.onnx.data"), format!("{dogs}/labels.txt")]
    );
}

#[test]
fn scripts_run_as_another_user_unless_isolation_is_disabled() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    let command = vec!["sh".to_owned()];
    let script = Model { classifier: Classifier::Script, command, ..Model::default() };
    settings.models.insert("script".into(), script);
    let socket_of = |settings: &Settings, model: &str| {
        read(&worker_settings(settings).unwrap().0).models[model].script_socket.clone()
    };
    let socket = socket_of(&settings, "script").unwrap();
    let [_, (_, unit)] = SCRIPT_UNITS;
    assert!(unit.contains(&format!("\nListenSequentialPacket={}\n", socket.display())), "{unit}");
    assert_eq!(socket_of(&settings, "dogs"), None);
    settings.setup.isolate_scripts = false;
    assert_eq!(socket_of(&settings, "script"), None);
}

#[test]
fn a_web_host_listens_to_the_network_and_knows_every_model_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let read = read(&web_settings(&settings(folder.path())).unwrap());
    assert_eq!(read.web.listen.to_string(), "0.0.0.0:8000");
    assert_eq!(read.models.keys().collect::<Vec<_>>(), ["default", "dogs"]);
    assert_eq!(read.controller.policies, Path::new("/etc/eirs/policies"));
    assert_eq!(read.local.state, Path::new("/var/lib/eirs"));
    assert_eq!(read.aws.output_bucket.as_deref(), Some("results"));
}

#[test]
fn symlinks_remain_symlinks_even_if_dangling() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("venv")).unwrap();
    std::fs::write(path("venv/python3"), "x").unwrap();
    std::os::unix::fs::symlink("python3", path("venv/python")).unwrap();
    std::os::unix::fs::symlink("/no/such/place", path("venv/gone")).unwrap();
    let mut entries = Entries::new();
    include(&path("venv"), &mut entries).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    for (path, entry) in &entries {
        entry.append(&mut archive, path).unwrap();
    }
    let bytes = archive.into_inner().unwrap();
    let out = path("out");
    tar::Archive::new(bytes.as_slice()).unpack(&out).unwrap();
    let place =
        |name: &str| out.join(path("venv").canonicalize().unwrap().strip_prefix("/").unwrap()).join(name);
    assert_eq!(std::fs::read_link(place("python")).unwrap(), Path::new("python3"));
    assert_eq!(std::fs::read_to_string(place("python")).unwrap(), "x");
    assert_eq!(std::fs::read_link(place("gone")).unwrap(), Path::new("/no/such/place"));
}

#[test]
fn equal_contents_give_equal_archives_with_executable_bits() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("run.sh");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    let mut entries = Entries::new();
    include(folder.path(), &mut entries).unwrap();
    assert!(matches!(entries.values().next(), Some(Entry::File(_))));
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    include(folder.path(), &mut entries).unwrap();
    let [(path, Entry::Program(_))] = entries.iter().collect::<Vec<_>>()[..] else { panic!("{entries:?}") };
    assert!(path.ends_with("/run.sh") && !path.starts_with('/'), "{path}");
    let archive = || {
        let mut bytes = Vec::new();
        let mut archive = tar::Builder::new(&mut bytes);
        for (path, entry) in &entries {
            entry.append(&mut archive, path).unwrap();
        }
        drop(archive);
        bytes
    };
    assert_eq!(archive(), archive());
}
