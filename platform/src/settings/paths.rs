//! Paths in settings that mean something else than they say: no shell reads them.

use config::Value;

/// The last parts of the keys that are paths; `include` is a list of them.
const KEYS: [&str; 20] = [
    "state",
    "policies",
    "status_file",
    "worker_program",
    "path",
    "labels",
    "onnxruntime",
    "preset_file",
    "check_image",
    "script_socket",
    "include",
    "prepare",
    "check_images",
    "check_labels",
    "address_file",
    "admin_address_file",
    "tokens",
    "upload_folder",
    "certificate",
    "key",
];

/// Says why the value of a key is no path, if it is none.
pub(super) fn complaint(key: &str, value: &Value) -> Option<String> {
    if !KEYS.contains(&key.rsplit('.').next()?) {
        return None;
    }
    let paths = match value.clone().into_array() {
        Ok(list) => list,
        Err(_) => vec![value.clone()],
    };
    let texts = paths.into_iter().filter_map(|path| path.into_string().ok());
    texts.map(|path| of_path(&path)).find_map(|why| why)
}

fn of_path(path: &str) -> Option<String> {
    if path.trim().is_empty() {
        return Some("is empty; write a path, or leave the key out".to_owned());
    }
    (path == "~" || path.starts_with("~/"))
        .then(|| format!("`{path}`: `~` has no meaning in settings; write the whole path"))
}
