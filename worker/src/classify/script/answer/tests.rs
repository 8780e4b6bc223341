use proptest::prelude::*;

use super::*;

fn file() -> &'static Path {
    Path::new("/tmp/x/7-ab/test_00.JPEG")
}

fn check(printed: &str, expected: Result<&str, &str>) {
    let found = label_in(printed.as_bytes(), file());
    match expected {
        Ok(label) => assert_eq!(found.as_deref(), Ok(label), "{printed:?}"),
        Err(part) => assert!(found.as_ref().is_err_and(|e| e.contains(part)), "{printed:?}: {found:?}"),
    }
}

#[test]
fn once_the_label_follows_the_name_or_is_the_only_line() {
    check("dog\n", Ok("dog"));
    check("test_00.JPEG,dog\n", Ok("dog"));
    check("test_00,dog", Ok("dog"));
    check("/tmp/x/7-ab/test_00.JPEG,dog, small\n", Ok("dog, small"));
    check("/private/tmp/x/7-ab/test_00.JPEG, dog\n", Ok("dog"));
    check("loading the model...\n\ntest_00.JPEG, dog \n\n", Ok("dog"));
    check("hot dog, hotdog\n", Ok("hot dog, hotdog"));
}

#[test]
fn once_a_line_that_is_a_configured_label_keeps_what_resembles_the_name() {
    let labels = HashSet::from(["tench, Tinca tinca".to_owned(), "cat".to_owned()]);
    let file = Path::new("/tmp/x/7-ab/tench.jpg");
    for (printed, expected) in [
        ("tench, Tinca tinca\n", "tench, Tinca tinca"),
        ("\"tench, Tinca tinca\"\r\n", "tench, Tinca tinca"),
        ("tench.jpg,tench, Tinca tinca", "tench, Tinca tinca"),
        ("tench,tench, Tinca tinca", "tench, Tinca tinca"),
        ("tench,cat", "cat"),
        // Other labels than the configured ones are read as before.
        ("tench, dog", "dog"),
        ("loading\ntench, Tinca tinca", "Tinca tinca"),
    ] {
        let answer = answer_in(printed.as_bytes(), file, &labels, 1);
        let guess = Guess { label: expected.to_owned(), confidence: 1.0 };
        assert_eq!(answer, Line::Answer(vec![guess]), "{printed:?}");
    }
}

#[test]
fn once_a_line_is_read_with_the_quotation_marks_and_separators_that_libraries_write() {
    for (printed, expected) in [
        ("\"test_00.JPEG\",\"dog\"", "dog"),
        ("test_00.JPEG,\"golden, retriever\"\r\n", "golden, retriever"),
        ("test_00.JPEG,\"a 12\"\" disc\"", "a 12\" disc"),
        ("'/tmp/x/7-ab/test_00.JPEG', dog", "dog"),
        ("test_00.JPEG;dog", "dog"),
        ("test_00.JPEG\tdog", "dog"),
        ("test_00\tdog", "dog"),
        ("TEST_00.jpeg,dog", "dog"),
        ("test_00.JPEG,dog,", "dog"),
        ("test_00.JPEG,dog,,", "dog"),
        ("\"golden, retriever\"", "golden, retriever"),
        ("\"Big\" Ben", "\"Big\" Ben"),
        ("test_00", "test_00"),
        ("(unknown)", "(unknown)"),
        ("[UNK]", "[UNK]"),
        ("it's", "it's"),
    ] {
        check(printed, Ok(expected));
    }
}

#[test]
fn once_what_looks_like_a_named_line_or_a_value_of_a_program_is_never_a_label_as_a_whole() {
    for (printed, part) in [
        ("other.JPEG,dog", "another image"),
        ("/tmp/x/6-cd/other.png;dog", "another image"),
        ("\"other.jpg\",\"dog\"", "another image"),
        ("test_00.JPEG: dog", "without a comma"),
        ("/tmp/x/7-ab/test_00.JPEG dog", "without a comma"),
        ("test_00.JPEG=dog", "without a comma"),
        (",dog", "no name"),
        ("\"test_00.JPEG\",\"dog\",\"0.9\"", "more cells"),
        ("{'label': 'dog', 'confidence': 0.5}", "a structure"),
        ("['dog', 'cat']", "a structure"),
        ("('dog', 0.5)", "a structure"),
        ("test_00.JPEG,{'label': 'dog'}", "a structure"),
    ] {
        check(printed, Err(part));
    }
}

#[test]
fn a_reason_of_several_lines_or_beyond_bounds_is_shown_as_one_line() {
    let long = format!(r#"{{"error": "{}"}}"#, "ä ".repeat(3000));
    let Line::Refusal(why) = stream(&long) else { panic!("a refusal") };
    assert!(why.starts_with("ä ä") && why.ends_with('…') && why.len() <= 1003, "{}", why.len());
    assert_eq!(
        stream(r#"{"error": "Traceback:\n\tno\u0000 face\n"}"#),
        Line::Refusal("Traceback: no face".into())
    );
    assert_eq!(stream(r#"{"retry": "busy\nnow"}"#), Line::Later("busy now".into()));
    assert_eq!(stream(r#"{"retry": true, "error": "busy\nnow"}"#), Line::Later("busy now".into()));
}

#[test]
fn a_confidence_that_is_there_is_a_number_and_all_labels_have_one_or_none_has() {
    for wrong in [
        r#"{"label": "cat", "confidence": null}"#,
        r#"{"label": "cat", "confidence": true}"#,
        r#"{"top": [{"label": "cat", "confidence": null}]}"#,
        r#"{"top": [["cat", null]]}"#,
        r#"{"top": [{"label": "cat"}, {"label": "dog", "confidence": 0.3}]}"#,
    ] {
        assert!(matches!(stream(wrong), Line::Wrong(why) if why.contains("confidence")), "{wrong}");
    }
    assert_eq!(stream(r#"{"top": [["cat", 0.5]]}"#), answer(&[("cat", 0.5)]));
    assert_eq!(stream(r#"{"top": [{"label": "b"}, {"label": "a"}]}"#), answer(&[("b", 1.0), ("a", 1.0)]));
    assert!(
        matches!(stream(r#"{"top": ["cat"]}"#), Line::Wrong(why) if why.contains("an object with `label`"))
    );
}

#[test]
fn once_other_lines_do_not_become_the_label() {
    for noise in [
        "done in 20 ms",
        "Using the CPU backend.",
        "a, b",
        "100%|####|\r",
        "{\"label\": \"x\"}",
        "\u{1b}[32mok\u{1b}[0m",
    ] {
        check(&format!("{noise}\ntest_00.JPEG,dog\n"), Ok("dog"));
        check(&format!("test_00.JPEG,dog\r\n{noise}\r\n"), Ok("dog"));
    }
    check("  0%|    |\r100%|####|\rtest_00.JPEG,dog\n", Ok("dog"));
    check("\u{feff}test_00.JPEG,dog\r\n", Ok("dog"));
    check("\u{1b}]0;title\u{7}\u{1b}[1mtest_00.JPEG\u{1b}[0m,\u{1b}[31mdog\u{1b}[0m\n", Ok("dog"));
    // The full name takes precedence over a stem, with which a sentence may start.
    check("test_00, is being read\ntest_00.JPEG,dog\n", Ok("dog"));
}

#[test]
fn control_sequences_are_not_part_of_a_label() {
    for printed in [
        // The output of `tput sgr0`.
        "\u{1b}[32mdog\u{1b}(B\u{1b}[m\n",
        "\u{1b}[?25l\u{1b}[1;32mdog\u{1b}[0m\u{1b}[?25h\u{1b}[K\n",
        "\u{9b}32mdog\u{9b}0m\n",
        "\u{1b}]0;C:\\model\u{7}dog\n",
        "\u{1b}]8;;http://x\u{1b}\\dog\u{1b}]8;;\u{1b}\\\n",
        "\u{1b}P1;2|x\u{1b}\\\u{1b}=\u{1b}7dog\u{1b}8\u{1b}#8\n",
        "\u{1b}]0;a title without an end\ndog\n",
        "dog\u{1b}[\n",
        "dog\u{1b}\n",
    ] {
        check(printed, Ok("dog"));
    }
}

#[test]
fn once_json_is_a_result_or_refused_but_never_a_label() {
    let once = |printed: &str| answer_in(printed.as_bytes(), file(), &HashSet::new(), 2);
    assert_eq!(once("{\"label\": \"dog\", \"confidence\": 0.5}\n"), answer(&[("dog", 0.5)]));
    assert_eq!(once("{\n  \"label\": \"dog\",\n  \"confidence\": 0.5\n}\n"), answer(&[("dog", 0.5)]));
    assert_eq!(once("{\"error\": \"no dog\"}"), Line::Refusal("no dog".into()));
    assert_eq!(once("{\"retry\": \"busy\"}"), Line::Later("busy".into()));
    for (printed, part) in [
        ("[{\"label\": \"dog\"}]", "JSON without `label`"),
        ("{\"class\": \"dog\"}", "JSON without `label`"),
        ("{\"label\": \"dog\", \"confidence\": 97}", "an invalid result"),
        ("{\"label\": \"dog\", \"path\": \"/tmp/other.jpg\"}", "another image"),
    ] {
        assert!(matches!(once(printed), Line::Wrong(why) if why.contains(part)), "{printed}");
    }
    assert_eq!(once("{\"label\": \"x\"}\ntest_00.JPEG,dog\n"), answer(&[("dog", 1.0)]));
    assert_eq!(once("dog\n"), answer(&[("dog", 1.0)]));
}

#[test]
fn once_unclear_output_is_refused_with_its_lines() {
    check("dog\ndone in 20 ms\n", Err("\"dog\", \"done in 20 ms\""));
    check("test_00.JPEG,dog\ntest_00.JPEG,cat\n", Err("several results: \"dog\", \"cat\""));
    check("test_00.JPEG,dog\ntest_00.JPEG,dog\n", Ok("dog"));
    check(&"line\n".repeat(50), Err("45 more"));
    check("", Err("nothing"));
    check(" \n\n\u{1b}[0m\n", Err("nothing"));
    check("test_00.JPEG,", Err("empty label"));
    check("a\u{7}b", Err("control characters"));
    check(&"x".repeat(1001), Err("1001 bytes"));
    assert!(label_in(&[0xff, 0xfe], file()).is_err_and(|why| why.contains("UTF-8")));
}

fn stream(line: &str) -> Line {
    read(line, file(), 2)
}

fn answer(guesses: &[(&str, f32)]) -> Line {
    Line::Answer(
        guesses
            .iter()
            .map(|(label, confidence)| Guess { label: (*label).into(), confidence: *confidence })
            .collect(),
    )
}

#[test]
fn stream_a_response_is_a_label_a_list_an_error_or_retry() {
    assert_eq!(stream(r#"{"label": "cat", "confidence": 0.5}"#), answer(&[("cat", 0.5)]));
    assert_eq!(stream(r#"{"label": "cat", "extra": [1], "error": null}"#), answer(&[("cat", 1.0)]));
    let three = r#"{"top": [{"label": "a", "confidence": 0.1}, {"label": "b", "confidence": 0.7},
                            {"label": "c", "confidence": 0.2}], "path": "/tmp/x/7-ab/test_00.JPEG"}"#;
    assert_eq!(stream(three), answer(&[("b", 0.7), ("c", 0.2)]));
    let resolved = r#"{"path": "/private/tmp/x/7-ab/test_00.JPEG", "label": "a"}"#;
    assert_eq!(stream(resolved), answer(&[("a", 1.0)]));
    assert_eq!(stream(r#"{"error": "no face in it"}"#), Line::Refusal("no face in it".into()));
    assert_eq!(stream(r#"{"retry": "the GPU is busy"}"#), Line::Later("the GPU is busy".into()));
    assert_eq!(stream(r#"{"retry": true, "error": "busy"}"#), Line::Later("busy".into()));
    assert_eq!(stream(r#"{"retry": false, "label": "a"}"#), answer(&[("a", 1.0)]));
    assert_eq!(stream(r#"{"path": "test_00.JPEG", "label": "a"}"#), answer(&[("a", 1.0)]));
}

#[test]
fn stream_an_empty_error_only_counts_without_a_label() {
    for error in ["\"\"", "\" \"", "false", "null"] {
        let line = stream(&format!(r#"{{"label": "a", "error": {error}}}"#));
        assert_eq!(line, answer(&[("a", 1.0)]), "{error}");
    }
    for line in [r#"{"error": ""}"#, r#"{"error": true, "label": "a"}"#] {
        assert_eq!(stream(line), Line::Refusal("the script rejects this image".into()), "{line}");
    }
    let crooked = stream(r#"{"retry": 1, "label": "a"}"#);
    assert!(matches!(crooked, Line::Wrong(why) if why.contains("true, false or a text")));
}

#[test]
fn stream_confidences_are_clamped_within_the_tolerance_and_refused_beyond() {
    for (given, taken) in
        [("1.0000001192092896", 1.0), ("1.0009765625", 1.0), ("-1e-9", 0.0), ("-0.0", 0.0), ("1", 1.0)]
    {
        let line = stream(&format!(r#"{{"label": "cat", "confidence": {given}}}"#));
        assert_eq!(line, answer(&[("cat", taken)]), "{given}");
        let Line::Answer(guesses) = line else { unreachable!("compared above") };
        assert!(guesses[0].confidence.is_sign_positive(), "{given}");
    }
    for given in ["97", "1.01", "-0.5", "NaN", "Infinity", "1e400", "\"0.9\""] {
        let line = stream(&format!(r#"{{"label": "cat", "confidence": {given}}}"#));
        assert!(matches!(line, Line::Wrong(_)), "{given}: {line:?}");
    }
}

#[test]
fn stream_other_lines_are_noise_and_malformed_responses_are_wrong() {
    for noise in [
        "Using the CPU backend.",
        "[]",
        "3",
        "null",
        "\"cat\"",
        "{}",
        r#"{"level": "info", "message": "hi"}"#,
        "cat",
        r#"INFO answered {"label": "dog"}"#,
        "{not JSON",
        r#"{"path": "/tmp/y/1-x/cat.jpg"}"#,
    ] {
        assert_eq!(stream(noise), Line::Noise, "{noise}");
    }
    assert_eq!(stream(r#"{"label": "cat", "path": "/tmp/x/6-cd/test_00.JPEG"}"#), Line::Stray);
    let late = r#"{"label": "cat", "path": "/tmp/y/cat.jpg", "confidence": 97}"#;
    assert_eq!(stream(late), Line::Stray);
    for (wrong, part) in [
        (r#"{"top": []}"#, "has no label"),
        (r#"{"label": null}"#, "has no label"),
        (r#"{"label": " "}"#, "empty label"),
        (r#"{"label": 3}"#, "expected a string"),
        (r#"{"label": "cat""#, "not JSON"),
    ] {
        assert!(matches!(stream(wrong), Line::Wrong(why) if why.contains(part)), "{wrong}");
    }
}

#[test]
fn stream_a_response_after_a_progress_bar_counts_if_it_names_the_image() {
    let line = r#"100%|####| 1/1 {"path": "/tmp/x/7-ab/test_00.JPEG", "label": "cat"}"#;
    assert_eq!(stream(line), answer(&[("cat", 1.0)]));
}

/// Returns the objects and single lines, in the order in which they end.
fn gathered(printed: &str) -> Vec<String> {
    let mut skipped = Skipped::default();
    let mut all = Vec::new();
    for line in lines(printed.as_bytes()) {
        match skipped.gathered(&line) {
            Gathered::Line => all.push(line),
            Gathered::Whole(object) => all.push(object.split_whitespace().collect()),
            Gathered::Open => {}
        }
    }
    all
}

#[test]
fn stream_json_over_several_lines_is_one_object() {
    let top = "{\n \"top\": [\n  {\"label\": \"a\"},\n  {\"label\": \"b\"}\n ]\n}\nnext";
    assert_eq!(gathered(top), [r#"{"top":[{"label":"a"},{"label":"b"}]}"#, "next"]);
    assert_eq!(gathered("{\"label\":\n\"a\"}"), ["{\"label\":\"a\"}"]);
    for alone in ["{\"label\": \"a\"}", "{not JSON", "hello"] {
        assert_eq!(gathered(alone), [alone], "{alone}");
    }
    // An incomplete object does not swallow a response.
    assert_eq!(gathered("{\n{\"label\": \"a\"}"), ["{\"label\": \"a\"}"]);
    let endless = format!("{{\n{}{{\"label\": \"a\"}}", "\"a\":\n[\n".repeat(20_000));
    assert_eq!(gathered(&endless).last().unwrap(), "{\"label\": \"a\"}");
}

#[test]
fn the_summary_of_skipped_lines_is_bounded() {
    let mut skipped = Skipped::default();
    assert_eq!(skipped.summary(), "");
    (0..1000).for_each(|n| skipped.noise(&format!("{n} {}", "x".repeat(10_000))));
    skipped.stray();
    let summary = skipped.summary();
    assert!(
        summary.contains("other images") && summary.contains("\"999 x") && summary.len() < 2000,
        "{summary}"
    );
}

proptest! {
    #[test]
    fn once_a_named_result_in_any_text_is_the_label_or_an_error(
        before in "\\PC{0,40}",
        after in "\\PC{0,40}",
    ) {
        let printed = format!("{before}\ntest_00.JPEG,dog\n{after}\n");
        let found = label_in(printed.as_bytes(), file());
        prop_assert!(found.is_err() || found == Ok("dog".into()), "{found:?}");
    }

    #[test]
    fn no_output_makes_the_parser_panic(printed: Vec<u8>) {
        for line in lines(&printed) {
            let _any = read(&line, file(), 5);
        }
        let _any = label_in(&printed, file());
    }
}
