use bytes::Bytes;

use super::*;

fn append(segments: &Segments, image: &[u8]) -> Result<Written> {
    segments.append(&Bytes::copy_from_slice(image).into())
}

fn segments(folder: &Path) -> Segments {
    Segments::open(folder, 0, false).unwrap()
}

fn blocks(segments: &Segments, number: u32) -> u64 {
    fs::metadata(segments.path(number)).unwrap().blocks() * 512
}

#[test]
fn an_image_is_read_by_any_process_that_knows_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, reader) = (segments(folder.path()), segments(folder.path()));
    let images = [vec![1; 5000], vec![2; 1], Vec::new(), vec![3; 200_000]];
    let places = images.each_ref().map(|image| append(&writer, image).unwrap().entry.place);
    for (image, place) in images.iter().zip(places) {
        assert_eq!(reader.read(place).unwrap().as_ref(), Some(image));
    }
}

#[test]
fn an_image_in_many_pieces_is_written_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let segments = segments(folder.path());
    let mut pieces = Pieces::default();
    pieces.extend((0..3 * PIECES).map(|n| vec![n as u8; n % 7].into()));
    let whole = pieces.clone().joined().unwrap();
    let entry = segments.append(&pieces).unwrap().entry;
    assert_eq!(segments.read_checked(entry).unwrap(), Some((whole.to_vec(), Some(true))));
}

#[test]
fn an_image_partly_in_a_file_is_written_as_one() {
    use std::io::Write;

    let folder = tempfile::tempdir().unwrap();
    let segments = segments(folder.path());
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 600_000]).unwrap();
    let pieces = Pieces::after_file(file, 600_000, Bytes::from_static(&[8; 1000]).into());
    let entry = segments.append(&pieces).unwrap().entry;
    let whole = [vec![7; 600_000], vec![8; 1000]].concat();
    assert_eq!(segments.read_checked(entry).unwrap(), Some((whole, Some(true))));
}

#[test]
fn each_process_has_a_segment_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (segments(folder.path()), segments(folder.path()));
    let (a, b) = (append(&one, b"a").unwrap().entry.place, append(&other, b"b").unwrap().entry.place);
    assert_eq!((a.segment, b.segment), (1, 2));
    assert_eq!(append(&one, b"c").unwrap().entry.place.segment, 1);
}

#[test]
fn a_full_segment_is_followed_by_the_next_and_a_huge_image_has_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let segments = segments(folder.path());
    let large = vec![7; LONGEST as usize / 2 + 1];
    let numbers = [&large, &large, &vec![8; LONGEST as usize + 1], &vec![9; 1]]
        .map(|image| append(&segments, image).unwrap().entry.place.segment);
    assert_eq!(numbers, [1, 2, 3, 4]);
}

#[test]
fn the_space_of_a_deleted_image_is_freed_and_its_neighbours_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let segments = segments(folder.path());
    let places = [1, 2, 3].map(|n| append(&segments, &vec![n; 100_000]).unwrap().entry.place);
    let before = blocks(&segments, 1);
    segments.free(&[places[1]]);
    assert!(blocks(&segments, 1) <= before - 90_000, "{} of {before}", blocks(&segments, 1));
    assert_eq!(segments.read(places[0]).unwrap().unwrap(), vec![1; 100_000]);
    assert_eq!(segments.read(places[2]).unwrap().unwrap(), vec![3; 100_000]);
}

#[test]
fn an_empty_segment_is_deleted_once_it_is_unlocked_even_if_readers_have_it_open() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, reader) = (segments(folder.path()), segments(folder.path()));
    let place = append(&writer, &vec![1; 100_000]).unwrap().entry.place;
    let open = File::open(writer.path(1)).unwrap();
    assert!(reader.read(place).unwrap().is_some());
    assert!(!reader.delete_if(1, || Ok(true)).unwrap(), "it is being written to");
    drop(writer);
    assert!(!reader.delete_if(1, || Ok(false)).unwrap(), "it holds something");
    assert!(reader.delete_if(1, || Ok(true)).unwrap());
    assert_eq!(open.metadata().unwrap().len(), 0);
    assert_eq!(reader.read(place).unwrap(), None);
}

#[test]
fn an_image_that_is_not_in_the_index_yet_keeps_a_full_segment() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, other) = (segments(folder.path()), segments(folder.path()));
    let written = append(&writer, b"a").unwrap();
    append(&writer, &vec![0; LONGEST as usize]).unwrap();
    assert!(!other.delete_if(1, || Ok(true)).unwrap());
    drop(written);
    assert!(other.delete_if(1, || Ok(true)).unwrap());
}

#[test]
fn a_number_that_is_used_again_is_read_from_the_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let reader = segments(folder.path());
    for image in [b"old", b"new"] {
        let writer = segments(folder.path());
        let place = append(&writer, image).unwrap().entry.place;
        assert_eq!((place.segment, reader.read(place).unwrap().unwrap()), (1, image.to_vec()));
        drop(writer);
        assert!(segments(folder.path()).delete_if(1, || Ok(true)).unwrap());
    }
}

#[test]
fn a_segment_moved_by_hand_is_no_longer_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let (state, aside) = (folder.path().join("images"), folder.path().join("aside"));
    let segments = segments(&state);
    let first = append(&segments, b"a").unwrap().entry.place;
    fs::rename(segments.path(first.segment), folder.path().join("x")).unwrap();
    let place = append(&segments, b"b").unwrap().entry.place;
    assert_eq!(self::segments(&state).read(place).unwrap().unwrap(), b"b");
    fs::rename(&state, &aside).unwrap();
    let place = append(&segments, b"c").unwrap().entry.place;
    assert_eq!(self::segments(&state).read(place).unwrap().unwrap(), b"c");
}

#[test]
fn a_segment_deleted_by_hand_is_no_longer_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let segments = segments(folder.path());
    let gone = append(&segments, b"a").unwrap().entry.place;
    fs::remove_dir_all(folder.path()).unwrap();
    let place = append(&segments, b"b").unwrap().entry.place;
    assert_eq!(self::segments(folder.path()).read(place).unwrap().unwrap(), b"b");
    assert_eq!(segments.read(gone).unwrap(), None, "the new file is not read for the old image");
}

#[test]
fn the_tail_left_by_a_kill_is_cut_off_and_a_truncated_image_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let writer = segments(folder.path());
    let whole = append(&writer, &vec![1; 10_000]).unwrap().entry.place;
    let tail = append(&writer, &vec![2; 10_000]).unwrap().entry.place;
    segments(folder.path()).cut_tail(1, 10_000);
    assert!(writer.read(tail).unwrap().is_some(), "the writing process may still add it to the index");
    drop(writer);
    let other = segments(folder.path());
    other.cut_tail(1, 10_000);
    assert_eq!(other.read(tail).unwrap(), None);
    other.cut_tail(1, 9_999);
    assert_eq!(other.read(whole).unwrap(), None);
}
