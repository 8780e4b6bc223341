use std::process::Command;

use crate::harness::{Site, image};

/// A file system of two megabytes under the state folder; `None` where that is not allowed.
struct SmallDisk<'a>(&'a Site);

impl<'a> SmallDisk<'a> {
    fn under(site: &'a Site) -> Option<Self> {
        std::fs::create_dir_all(site.state()).expect("a folder");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(site.state()).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(site));
        }
        println!(
            "not run, for want of the right to mount: sudo -E cargo test -p eirs --test service full_disk"
        );
        None
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _left = Command::new("umount").arg("-l").arg(self.0.state()).output();
    }
}

#[test]
fn a_full_disk_is_503_and_what_was_promised_is_kept() {
    let site = Site::new();
    let Some(_disk) = SmallDisk::under(&site) else { return };
    let web = site.web();
    let mut promised = Vec::new();
    let mut refused = None;
    for number in 0..100 {
        let mut large = image(number);
        large.resize(100_000, 1);
        let answer = web.upload("?wait=0", "x", &large);
        match answer.status {
            202 => promised.push(answer.json()["id"].as_str().expect("an id").to_owned()),
            _ => refused = refused.or(Some(answer)),
        }
    }
    let refused = refused.expect("two megabytes are not enough for ten");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.problem().contains("no space left"), "{refused:?}");
    assert!(refused.header("retry-after").is_some());
    assert!(!promised.is_empty());
    assert_eq!(web.get("/livez").status, 200, "the server lives");

    // The operator makes room.
    std::fs::write(site.folder.path().join("note"), "").expect("a file elsewhere");
    let grown = Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(site.state())
        .output()
        .expect("mount runs");
    assert!(grown.status.success());
    let _worker = site.worker();
    for id in promised {
        assert_eq!(web.result(&id).json()["label"], "noop", "a 202 is a promise");
    }
    assert_eq!(web.upload("", "x", &image(1000)).status, 200, "and new ones are taken");
}
