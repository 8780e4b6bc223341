//! The documentation of log fields matches the programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};

/// The programs, each with its own crate. The crate `platform` is shared by all.
const PROGRAMS: [&str; 3] = ["controller", "web", "worker"];
/// Macros that create entries, or add fields to entries.
const MACROS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "error_span"];

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Collects the fields of events and spans in these tokens, at any depth.
fn fields(tokens: TokenStream, found: &mut BTreeSet<String>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let is = |back: usize, text: &str| at >= back && tokens[at - back].to_string() == text;
        let named = MACROS.iter().find(|name| is(2, name) && is(1, "!"));
        if let Some(name) = named {
            found.extend(arguments(group.stream(), name.ends_with("span")));
        }
        fields(group.stream(), found);
    }
}

/// Returns the fields in the arguments of such a macro: `name = value`, `%name`, `?name` or `name`.
/// After the message of an event there are none; a span has its name first.
fn arguments(tokens: TokenStream, is_span: bool) -> Vec<String> {
    let mut arguments = vec![Vec::new()];
    for token in tokens {
        match &token {
            TokenTree::Punct(comma) if comma.as_char() == ',' => arguments.push(Vec::new()),
            _ => arguments.last_mut().expect("one at least").push(token.to_string()),
        }
    }
    let mut names = Vec::new();
    for argument in arguments {
        let argument: Vec<_> = argument.iter().map(String::as_str).collect();
        let bare = argument.strip_prefix(&["%"]).or(argument.strip_prefix(&["?"])).unwrap_or(&argument[..]);
        match bare {
            [literal, ..] if literal.starts_with('"') && is_span => {}
            [literal, ..] if literal.starts_with('"') => break,
            ["target" | "parent" | "name", ":", ..] => {}
            [name] => names.push((*name).to_owned()),
            [name, "=", ..] => names.push((*name).to_owned()),
            _ => {}
        }
    }
    names
}

/// Returns each field of the journal, with the programs that write it.
fn written() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut written = BTreeMap::<_, BTreeSet<_>>::new();
    for program in PROGRAMS {
        let mut files = Vec::new();
        for folder in [program, "platform"] {
            sources(&project().join(folder).join("src"), &mut files);
        }
        let mut found = BTreeSet::new();
        for file in files {
            let text = fs::read_to_string(&file).expect("a source");
            fields(text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display())), &mut found);
        }
        for field in found {
            let field = format!("EIRS_{}", field.to_uppercase().replace('.', "_"));
            written.entry(field).or_default().insert(program);
        }
    }
    written
}

#[test]
fn the_tables_have_exactly_the_fields_that_the_programs_write() {
    let page = fs::read_to_string(project().join("docs/LOGS.md")).expect("the page");
    let mut documented = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| `EIRS_")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let of = if cells[2] == "all" { PROGRAMS.to_vec() } else { cells[2].split(", ").collect() };
        let known: BTreeSet<_> = PROGRAMS.into_iter().filter(|program| of.contains(program)).collect();
        assert_eq!(known.len(), of.len(), "{row}");
        assert!(documented.insert(cells[1].trim_matches('`').to_owned(), known).is_none(), "twice: {row}");
    }
    let written = written();
    assert!(written.len() > 30, "{written:?}");
    assert_eq!(documented, written, "docs/LOGS.md and the sources differ");
}

#[test]
fn fields_are_found_in_any_notation() {
    let mut found = BTreeSet::new();
    let source = r#"
        fn f() {
            tracing::info!(%error, id = %key.0, service_time_s = a.b(|x| x, 1), pool, ?other, "{} {pid}", count, more = 1);
            if x { error_span!(parent: None, "upload", trace_id = trace.id()); }
            debug_span!(target: TARGET, "store", image.id = 7);
            warn!("nothing");
        }
    "#;
    fields(source.parse().expect("tokens"), &mut found);
    let expected = ["error", "id", "other", "pool", "service_time_s", "trace_id"];
    assert_eq!(found, expected.map(str::to_owned).into());
}

/// Returns the words of the queries that are fields.
#[test]
fn the_queries_use_existing_fields() {
    let page = fs::read_to_string(project().join("docs/LOGS.md")).expect("the page");
    let queries = page.lines().filter(|line| line.starts_with("    "));
    let words = queries.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let asked: BTreeSet<_> = words.filter(|word| word.starts_with("EIRS_")).collect();
    assert!(asked.len() > 8, "{asked:?}");
    let written = written();
    let unknown: Vec<_> = asked.into_iter().filter(|field| !written.contains_key(*field)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
