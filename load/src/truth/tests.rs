use bytes::Bytes;

use super::*;

fn images(names: &[&str]) -> Vec<ImageFile> {
    names.iter().map(|name| ImageFile::in_memory(name, Bytes::new())).collect()
}

fn read(csv: impl AsRef<[u8]>, names: &[&str]) -> Result<Truth, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.csv");
    fs::write(&path, csv).unwrap();
    Truth::from_file(&path, &images(names))
}

fn texts(truth: &Truth) -> Vec<&str> {
    truth.labels.iter().map(|label| label.as_ref().map_or("", |label| label.text.as_str())).collect()
}

#[track_caller]
fn check(csv: impl AsRef<[u8]>, names: &[&str], expected: &[&str]) {
    let truth = read(csv, names).unwrap();
    assert_eq!(texts(&truth), expected);
    assert_eq!(truth.remarks, [""; 0]);
}

#[track_caller]
fn refused(csv: impl AsRef<[u8]>, names: &[&str], hint: &str) {
    let error = format!("{:#}", read(csv, names).unwrap_err());
    assert!(error.contains(hint), "{error}");
}

#[test]
fn an_image_is_found_with_or_without_folder_and_ending() {
    let csv = "\u{feff}Input, result ,more\na/1.jpg, cat,x\n2.JPEG,dog\n3,bird\n./d/4.png,fish\n";
    check(
        csv,
        &["a/1.jpg", "1.jpg", "b/2.JPEG", "2.jpg", "3.webp", "d/4.png", "5.jpg"],
        &["cat", "", "dog", "", "bird", "fish", ""],
    );
}

#[test]
fn an_empty_sheet_and_a_compressed_one_are_refused_as_such() {
    refused("", &["1.jpg"], "are empty");
    refused("\n \n\n", &["1.jpg"], "are empty");
    refused(b"\x1f\x8b\x08\x00\x00", &["1.jpg"], "unpack it");
}

#[test]
fn an_ods_file_whose_cells_have_no_type_is_refused_with_what_to_do() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/untyped.ods");
    refused(std::fs::read(path).unwrap(), &["a.jpg"], "open the file in a spreadsheet program");
}

#[test]
fn only_images_in_the_sheet_have_a_label() {
    check("Input,Result\na/1.jpg,cat\n", &["a/1.jpg", "b/1.jpg"], &["cat", ""]);
    check(
        "Input,Result\na/1.jpg,cat\nb/1.jpg,dog\n",
        &["a/1.jpg", "b/1.jpg", "c/1.jpg"],
        &["cat", "dog", ""],
    );
    check("Input,Result\n1.jpg,fish\na/1.jpg,cat\n", &["a/1.jpg", "c/1.jpg"], &["cat", "fish"]);
}

#[test]
fn contradictory_rows_are_reported_and_ignored() {
    let truth =
        read("Input,Result\n1.jpg,cat\n2.jpg,cat\n1.jpg,dog\n2.jpg,Cat\n", &["1.jpg", "2.jpg"]).unwrap();
    assert_eq!(texts(&truth), ["", "cat"]);
    assert_eq!(truth.remarks, ["rows 2 and 4 contradict each other: 1.jpg is ignored"]);
}

#[test]
fn columns_are_found_by_name_anywhere_in_the_first_rows() {
    let names = ["a.jpg", "b.jpg"];
    check("Labels of May\n\n,RESULT,input\n0,star,a.jpg\n1,arrow,b.jpg\n", &names, &["star", "arrow"]);
    check("Result;Input\nstar;a.jpg\n\"a, b\";b.jpg\n", &names, &["star", "a, b"]);
    check("sep=;\nInput;Result\na.jpg;star\nb.jpg;#N/A\n", &names, &["star", ""]);
}

#[test]
fn a_sheet_without_header_needs_exactly_one_column_besides_the_images() {
    let names = ["a.jpg", "b.jpg", "c.jpg"];
    check("a.jpg,star\nb.jpg,arrow\n", &names, &["star", "arrow", ""]);
    check("0,a.jpg,star\n1,b.jpg,arrow\n", &names, &["star", "arrow", ""]);
    check("file;label\na.jpg;star\nb.jpg;arrow\n", &names, &["star", "arrow", ""]);
    refused(
        "a.jpg,star,0.5\nb.jpg,arrow,0.7\n",
        &names,
        "have no column `Input`; the first line holds `a.jpg`, `star`, `0.5`",
    );
    refused(
        "Input,Label\na.jpg,star\n",
        &names,
        "have no column `Result`; the first line holds `Input`, `Label`",
    );
}

#[test]
fn the_separator_is_the_one_that_keeps_image_names_whole() {
    check("a,1.jpg;star\nb,2.jpg;arrow\n", &["a,1.jpg", "b,2.jpg"], &["star", "arrow"]);
    check("My labels\na.jpg;star\nb.jpg;arrow\n", &["a.jpg", "b.jpg"], &["star", "arrow"]);
}

#[test]
fn quotes_may_follow_spaces_and_unclosed_ones_are_refused() {
    let names = ["a.jpg", "b.jpg"];
    check(
        "\"Input\", \"Result\"\n\"a.jpg\",  \"star, \"\"new\"\"\"\n \"b.jpg\" , arrow\n",
        &names,
        &["star, \"new\"", "arrow"],
    );
    check("Input,Result\n5\" nail.jpg,star\n", &["5\" nail.jpg"], &["star"]);
    check("Input;Result\na.jpg;5\" nail\n", &["a.jpg"], &["5\" nail"]);
    refused("Input,Result\na.jpg,star\nb.jpg,\"arrow\nc.jpg,x\n", &names, "row 3: a quotation mark");
    refused("\"a.jpg,star\nb.jpg,arrow\n", &names, "row 1: a quotation mark");
}

#[test]
fn rows_of_other_images_are_counted_and_must_not_be_the_only_ones() {
    let truth = read("Input,Result\na.jpg,star\nx.jpg,cat\ny.jpg,dog\n", &["a.jpg"]).unwrap();
    assert_eq!(truth.remarks, ["2 of 3 rows name none of these images, first row 3: x.jpg"]);
    refused(
        "Input,Result\nx.jpg,cat\ny.jpg,dog\n",
        &["a.jpg"],
        "none of the 2 rows names one of the images: row 2 has `x.jpg`, and the first image is `a.jpg`",
    );
    refused("Input,Result\n", &["a.jpg"], "no row with the name of an image");
}

#[test]
fn two_columns_with_the_same_name_are_refused() {
    refused(
        "No,Input,Result,Result\n1,a.jpg,star,arrow\n",
        &["a.jpg"],
        "row 1: several columns are called `Result`; rename all but one",
    );
}

#[test]
fn a_number_and_its_spelling_do_not_contradict_each_other() {
    let rows =
        [Cell::Number(1.1), Cell::Text("1.10".into())].map(|label| [Cell::Text("a.jpg".into()), label]);
    let (labels, remarks) = of_cells(&rows, &["a.jpg"]).unwrap();
    assert!(labels[0].as_ref().is_some_and(|label| label.is("1.10")));
    assert_eq!(remarks, [""; 0]);
}

#[test]
fn a_formula_without_value_is_refused_with_its_row() {
    let refused = |cells: [Cell; 2]| format!("{:#}", of_cells(&[cells], &["a.jpg"]).unwrap_err());
    let formula = || Cell::Formula("UPPER(C2)".into());
    for cells in [[Cell::Text("a.jpg".into()), formula()], [formula(), Cell::Text("star".into())]] {
        let said = refused(cells);
        assert!(said.starts_with("row 2: the workbook has no value of the formula =UPPER(C2); "), "{said}");
    }
}

#[test]
fn a_workbook_is_read_as_it_is_shown() {
    // A hidden sheet with other labels comes first; `a.jpg` and `c.jpg` share one merged label.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hidden-and-merged.xlsx");
    let truth = Truth::from_file(&path, &images(&["a.jpg", "b.jpg", "c.jpg"])).unwrap();
    assert_eq!(texts(&truth), ["star", "arrow", "star"]);
}

#[test]
fn an_index_column_is_ignored_with_and_without_a_header() {
    for head in ["", "id,image,label\n", ",image,label\n"] {
        check(format!("{head}0,1.jpg,cat\n1,2.jpg,dog\n"), &["1.jpg", "2.jpg"], &["cat", "dog"]);
    }
}

#[test]
fn the_error_names_the_missing_column_and_the_existing_ones() {
    refused(
        "file,Result\n",
        &[],
        "labels.csv: have no column `Input`; the first line holds `file`, `Result`",
    );
}

fn row(number: u64, cells: [Cell; 2]) -> Row {
    Row { number, cells: cells.into() }
}

fn of_cells(rows: &[[Cell; 2]], names: &[&str]) -> anyhow::Result<(Vec<Option<Label>>, Vec<String>)> {
    let rows: Vec<_> = (2..).zip(rows).map(|(number, cells)| row(number, cells.clone())).collect();
    let images = images(names);
    Columns { input: 0, result: 1, first: 0 }.truth(&rows, &Names::of(&images), &images)
}

#[test]
fn a_numeric_label_matches_any_spelling_and_a_word_only_itself() {
    let (labels, _) = of_cells(&[[Cell::Text("a.jpg".into()), Cell::Number(1.1)]], &["a.jpg"]).unwrap();
    let label = labels[0].as_ref().unwrap();
    assert!(label.is("1.10") && label.is("1.1") && !label.is("1.11") && !label.is("star"));
    assert!(!Label::from("1.1").is("1.10"));
}

#[test]
fn a_date_matches_an_image_name_or_is_refused_with_its_row() {
    let date = |day| Cell::Date(dates::Date { day: [2026, 3, day], time: [0; 3] });
    let star = || Cell::Text("star".into());
    let (labels, _) = of_cells(&[[date(4), star()], [date(5), star()]], &["2026-03-04.jpg"]).unwrap();
    assert_eq!(labels, [Some("star".into())]);
    let refused = |cells: [Cell; 2], names: &[&str]| format!("{:#}", of_cells(&[cells], names).unwrap_err());
    let said = refused([date(4), star()], &["a.jpg"]);
    assert!(
        said.starts_with(
            "row 2: a spreadsheet turned the image's name into a date or time: \
            2026-03-04; "
        ),
        "{said}"
    );
    let said = refused([Cell::Text("a.jpg".into()), date(4)], &["a.jpg"]);
    assert!(
        said.starts_with("row 2: a spreadsheet turned the label into a date or time: 2026-03-04; "),
        "{said}"
    );
    let said = refused([Cell::Number(1.1), star()], &["1.1.jpg", "1.10.jpg"]);
    assert!(said.contains("it may have been `1.1` or `1.10`"), "{said}");
    // Dates do not matter for images that are not in the folder.
    assert!(of_cells(&[[Cell::Text("b.jpg".into()), date(4)]], &["a.jpg"]).is_ok());
}

#[test]
fn the_shipped_workbook_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/label.xlsx");
    let images = images(&["test_0.JPEG", "test_1.JPEG", "test_2.JPEG", "test_3.JPEG"]);
    assert_eq!(texts(&Truth::from_file(&path, &images).unwrap()), ["tench", "goldfish", "3", ""]);
}

#[test]
fn folders_are_labels_if_every_image_is_in_one_of_several() {
    let truth = Truth::from_folders(&images(&["cat/1.jpg", "x/dog/2.jpg"])).unwrap();
    assert_eq!(texts(&truth), ["cat", "dog"]);
    assert!(Truth::from_folders(&images(&["cat/1.jpg", "2.jpg"])).is_none());
    assert!(Truth::from_folders(&images(&["all/1.jpg", "all/2.jpg"])).is_none());
}

#[test]
fn labels_are_compared_ignoring_case_spaces_and_underscores() {
    assert!(same_label("Egyptian_cat", " egyptian cat"));
    assert!(same_label("Ka\u{308}tzchen", "K\u{e4}tzchen"));
    assert!(!same_label("cat", "cats"));
}

proptest::proptest! {
    #[test]
    fn no_file_content_makes_the_reader_panic(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        text in "[ab,;\t\"\r\n#\u{feff}0-9.=/-]{0,60}",
    ) {
        let images = images(&["a.jpg", "b/2024-01-05.jpg", "1.10.png"]);
        for bytes in [bytes.as_slice(), text.as_bytes()] {
            if let Ok(rows) = sheet::rows(bytes, |rows| Columns::by_name(rows).is_some()) {
                let names = Names::of(&images);
                let truth = |columns: Columns| columns.truth(&rows, &names, &images);
                let _complaint = Columns::of(&rows, &names).and_then(truth);
            }
        }
    }

    #[test]
    fn every_image_is_found_only_by_its_own_path(
        names in proptest::collection::btree_set("[a-c][a-c0-9._ü-]{0,5}(/[a-c][a-c0-9._-]{0,5})?\\.(jpg|png)", 1..8),
    ) {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let images = images(&names);
        let index = Names::of(&images);
        for (place, name) in names.iter().enumerate() {
            let found = index.find(&Cell::Text((*name).to_owned()), "").unwrap();
            proptest::prop_assert_eq!(found.images, [place]);
        }
    }
}
