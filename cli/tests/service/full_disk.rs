use std::{
    fs::{self, File},
    io::Write,
    process::Command,
};

use crate::metrics::value;
use eirs_harness::{Site, eventually, image};

/// A small file system for the state folder; `None` without the permission to mount one.
pub struct SmallDisk<'a>(&'a Site);

impl<'a> SmallDisk<'a> {
    pub fn under(site: &'a Site, size: &str) -> Option<Self> {
        fs::create_dir_all(site.state()).expect("a folder");
        let size = format!("size={size}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(site.state()).output();
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
fn a_full_disk_is_507_and_accepted_images_are_kept() {
    let site = Site::new();
    let Some(_disk) = SmallDisk::under(&site, "2m") else { return };
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
    assert_eq!(refused.status, 507, "{refused:?}");
    assert!(refused.problem().contains("no space left"), "{refused:?}");
    assert!(refused.header("retry-after").is_some());
    assert!(!promised.is_empty());
    assert_eq!(web.get("/livez").status, 200, "the server lives");

    // The operator frees space.
    fs::write(site.folder.path().join("note"), "").expect("a file elsewhere");
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

#[test]
fn below_the_floor_new_images_are_507_until_space_is_freed() {
    let site = Site::new();
    // A tenth of the disk must stay free.
    let Some(_disk) = SmallDisk::under(&site, "64m") else { return };
    let web = site.web();
    let promised: Vec<_> = (0..20)
        .map(|number| {
            let answer = web.upload("?wait=0", "x", &image(number));
            assert_eq!(answer.status, 202, "{answer:?}");
            answer.json()["id"].as_str().expect("an id").to_owned()
        })
        .collect();
    let filler = site.state().join("filler");
    let mut file = File::create(&filler).expect("a file");
    while web.get("/readyz").status == 200 {
        file.write_all(&[1; 500_000]).expect("there is room: it is kept free");
    }
    let ready = web.get("/readyz");
    assert_eq!(ready.status, 507, "{ready:?}");
    let refused = web.upload("?wait=0", "x", &image(100));
    assert_eq!(refused.status, 507, "{refused:?}");
    assert!(refused.problem().contains("no space left"), "{refused:?}");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(value(&web, "eirs_store_full"), Some(1.0));
    let check = site.command("eirs").arg("check").output().expect("eirs runs");
    assert!(String::from_utf8_lossy(&check.stdout).contains("new images are refused"), "{check:?}");
    assert_eq!(check.status.code(), Some(1));

    let _worker = site.worker();
    for id in promised {
        assert_eq!(web.result(&id).json()["label"], "noop", "a 202 is a promise");
    }
    assert_eq!(web.upload("", "x", &image(0)).status, 200, "a known image still gets its result");
    fs::remove_file(filler).expect("deleted");
    drop(file);
    eventually("it takes images again", || (web.get("/readyz").status == 200).then_some(()));
    assert_eq!(web.upload("", "x", &image(100)).status, 200);
}

#[test]
fn a_second_web_server_on_a_state_folder_is_refused_in_one_sentence() {
    let site = Site::new();
    let first = site.web();
    let second = site.command("eirs-web").env("EIRS_WEB__LISTEN", "127.0.0.1:0").output().expect("it runs");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    let sentence = format!("another eirs-web runs on the state folder {}, process", site.state().display());
    assert!(said.contains(&sentence), "{said}");
    assert_eq!(first.get("/livez").status, 200);
}

/// Fills the disk with a file except for this number of bytes. Concurrent writes may reduce it
/// further, which is fine.
pub fn leave_free(filler: &File, bytes: u64) {
    let seen = rustix::fs::fstatvfs(filler).expect("a file system");
    let (free, size) = (seen.f_bavail * seen.f_frsize, filler.metadata().expect("a file").len());
    let wanted = (size + free).saturating_sub(bytes);
    if wanted < size {
        filler.set_len(wanted).expect("shorter");
    } else {
        let _full = rustix::fs::fallocate(filler, rustix::fs::FallocateFlags::empty(), size, wanted - size);
    }
}

#[test]
fn a_disk_that_fills_at_any_point_of_an_upload_loses_nothing() {
    let site = Site::new().set("EIRS_LOCAL__KEEP_FREE", "0B");
    let Some(_disk) = SmallDisk::under(&site, "32m") else { return };
    let web = site.web();
    let _worker = site.worker();
    let filler = site.state().join("filler");
    let file = File::create(&filler).expect("a file");
    let (mut promised, mut refused) = (Vec::new(), 0);
    // In some rounds, each kind of write fails: the image, the database's log, its index, the
    // segment's first page.
    for round in 0..48_u32 {
        leave_free(&file, u64::from(round) * 4096);
        let mut body = image(round);
        body.resize(20_000, 1);
        let answer = web.upload("?wait=0", "x", &body);
        match answer.status {
            200 | 202 => promised.push(answer.json()["id"].as_str().expect("an id").to_owned()),
            503 | 507 => {
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
                assert_eq!(answer.problem().lines().count(), 1, "{answer:?}");
                refused += 1;
            }
            _ => panic!("round {round}: {answer:?}"),
        }
    }
    assert!(refused > 0 && !promised.is_empty(), "{refused} refused, {} promised", promised.len());
    fs::remove_file(filler).expect("deleted");
    drop(file);
    for id in promised {
        assert_eq!(web.result(&id).json()["label"], "noop", "a 202 is a promise");
    }
    assert_eq!(web.upload("", "x", &image(1000)).status, 200, "and new ones are taken");
}
