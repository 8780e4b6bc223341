//! Checks that the state folder is on a disk of the machine. On network file systems, locks and
//! shared memory do not work, and the database would be damaged.

use std::path::Path;

use rustix::fs::statfs;

use crate::error::{Error, Result};

/// Network file systems by their magic number in `statfs` (`linux/magic.h` and the headers of
/// modules).
const OVER_A_NETWORK: [(u32, &str); 9] = [
    (0x6969, "NFS, as EFS is"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB"),
    (0x5346_414F, "AFS"),
    (0x00C3_6400, "Ceph"),
    (0x0BD0_0BD0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636F, "OCFS2"),
];

/// Returns an error for a folder on a network file system.
pub fn expect_local(state: &Path) -> Result<()> {
    let Ok(seen) = statfs(state) else { return Ok(()) };
    // The type differs in width and sign between platforms; the numbers have 32 bits.
    match network(seen.f_type as u32) {
        None => Ok(()),
        Some(kind) => Err(Error::broken(
            format!("the state folder {}", state.display()),
            format!(
                "is on a network file system ({kind}), which would damage the queue; use a folder \
                on a disk of this machine (local.state)"
            ),
        )),
    }
}

fn network(kind: u32) -> Option<&'static str> {
    OVER_A_NETWORK.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_file_systems_are_accepted_and_network_file_systems_refused() {
        expect_local(Path::new("/")).unwrap();
        expect_local(Path::new("/dev/shm")).unwrap();
        expect_local(Path::new("/no/such/folder")).unwrap();
        assert_eq!(network(0x6969), Some("NFS, as EFS is"));
        for of_the_machine in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630] {
            assert_eq!(network(of_the_machine), None, "ext4, XFS, Btrfs, tmpfs, overlayfs");
        }
    }
}
