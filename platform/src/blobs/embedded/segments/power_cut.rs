//! A cut of the power after each step: what was done to the disk is recorded, and of every
//! beginning of the record a disk is made that holds only what was synced by then. SQLite's commits
//! are synced by SQLite; that a row is not committed before its image is on the disk is ours to
//! show.

use std::collections::HashMap;

use super::*;

/// What was done, in order.
#[derive(Debug, Clone)]
pub(super) enum Done {
    /// Bytes were written to a segment at an offset.
    Wrote(u32, u64, Vec<u8>),
    /// A sync of a segment came back, which had begun when so much was recorded.
    Synced(u32, usize),
    /// An image was entered into the index, and somebody was told so.
    Entered(Place, Vec<u8>),
}

/// The segments as a disk holds them that lost its power after these steps, in the worst case.
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

/// The first image that was promised by then and is not on the disk.
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

/// Several threads store images; what was done.
fn record(sync: bool) -> Vec<Done> {
    let folder = tempfile::tempdir().unwrap();
    let segments = Segments::open(folder.path(), 0, sync).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Large ones, which stay where they arrive.
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
fn what_was_promised_is_on_the_disk_wherever_the_power_is_cut() {
    let done = record(true);
    assert_eq!(done.iter().filter(|step| matches!(step, Done::Entered(..))).count(), 34);
    for cut in 0..=done.len() {
        assert_eq!(lost(&done[..cut]), None, "cut after {cut} of {} steps", done.len());
    }
}

#[test]
fn without_sync_the_same_cuts_lose_images_so_that_the_check_can_fail() {
    assert!(lost(&record(false)).is_some());
}
