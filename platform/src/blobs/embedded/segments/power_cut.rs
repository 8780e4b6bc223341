//! A simulated power failure after each step: every operation on the disk is recorded, and each
//! prefix of the record is turned into a disk with only the synced bytes. SQLite syncs its own
//! commits; these tests show that no row is committed before its image is on the disk.

use std::collections::HashMap;

use super::*;

/// An operation, in order.
#[derive(Debug, Clone)]
pub(super) enum Done {
    /// Bytes were written to a segment at an offset.
    Wrote(u32, u64, Vec<u8>),
    /// A sync of a segment finished; it began when this number of operations was recorded.
    Synced(u32, usize),
    /// An image was added to the index, and this was confirmed.
    Entered(Place, Vec<u8>),
}

/// Returns the segments on a disk that lost power after these operations, in the worst case.
fn disk(done: &[Done]) -> HashMap<u32, Vec<u8>> {
    let mut disk: HashMap<u32, Vec<u8>> = HashMap::new();
    for step in done {
        let Done::Synced(synced, began) = step else { continue };
        for before in &done[..*began] {
            let Done::Wrote(number, offset, bytes) = before else { continue };
            if number == synced {
                let (segment, offset) = (disk.entry(*number).or_default(), *offset as usize);
                segment.resize(segment.len().max(offset + bytes.len()), 0);
                segment[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
    disk
}

/// Returns the first confirmed image that is not on the disk.
fn lost(done: &[Done]) -> Option<&Place> {
    let disk = disk(done);
    done.iter().find_map(|step| match step {
        Done::Entered(place, image) => {
            let from = place.offset as usize;
            let held = disk.get(&place.segment).and_then(|segment| segment.get(from..from + image.len()));
            (held != Some(&image[..])).then_some(place)
        }
        _ => None,
    })
}

/// Records several threads that store images.
fn record(sync: bool) -> Vec<Done> {
    let folder = tempfile::tempdir().unwrap();
    let segments = Segments::open(folder.path(), 0, sync).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Large images, which stay in their own files.
            for number in 0..2_u8 {
                let image = vec![number + 100; 4 << 20];
                let mut arriving = segments.arriving().unwrap();
                arriving.write(&bytes::Bytes::from(image[..3_000_000].to_vec()).into()).unwrap();
                let rest = bytes::Bytes::from(image[3_000_000..].to_vec());
                let pieces = Pieces::after_file(arriving, 3_000_000, rest.into());
                let written = segments.append(&pieces).unwrap();
                lock(&segments.0.record).push(Done::Entered(written.entry.place, image));
            }
        });
        for writer in 0..4_u8 {
            let segments = &segments;
            scope.spawn(move || {
                for number in 0..8_u8 {
                    let image = vec![writer * 8 + number + 1; 3000 + usize::from(number)];
                    let written = segments.append(&bytes::Bytes::from(image.clone()).into()).unwrap();
                    lock(&segments.0.record).push(Done::Entered(written.entry.place, image));
                }
            });
        }
    });
    std::mem::take(&mut *lock(&segments.0.record))
}

#[test]
fn every_confirmed_image_survives_a_power_failure_at_any_step() {
    let done = record(true);
    assert_eq!(done.iter().filter(|step| matches!(step, Done::Entered(..))).count(), 34);
    for cut in 0..=done.len() {
        assert_eq!(lost(&done[..cut]), None, "cut after {cut} of {} steps", done.len());
    }
}

#[test]
fn without_sync_a_power_failure_loses_images_so_the_check_can_fail() {
    assert!(lost(&record(false)).is_some());
}
