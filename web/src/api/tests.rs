use std::collections::BTreeSet;

use poem_openapi::types::ToJSON;
use serde::Serialize;
use serde_json::Value;

use super::*;
use crate::{
    operator::{controller::Written, status::Status},
    problem::Problem,
    upload::answer::{Failed, Line, Pending},
};

fn spec<Api: Listener>() -> Value {
    serde_json::from_slice(&Description::of::<Api>().spec).expect("JSON")
}

/// The operations of a description: path, method, operation.
fn operations(spec: &Value) -> Vec<(String, String, Value)> {
    let paths = spec["paths"].as_object().expect("paths");
    let of_path = |(path, item): (&String, &Value)| {
        let methods = item.as_object().expect("methods").clone();
        methods.into_iter().map(|(method, operation)| (path.clone(), method, operation)).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

/// Compares the two derivations of a type: serde's writes the bytes, poem-openapi's describes them.
fn assert_agree(value: &(impl Serialize + ToJSON)) {
    let sent = serde_json::to_value(value).expect("JSON");
    assert_eq!(value.to_json(), Some(sent), "described and sent values");
}

#[test]
fn the_description_matches_what_is_sent() {
    let reply = images::example();
    let (cut_short, draining) = (Problem::rejected(reply.id, "the JPEG ends early"), Problem::draining());
    for line in [
        Line::Finished(images::example_result(&reply)),
        Line::Pending(Pending::new(reply.id, Some("heart.jpg"), "dogs", 5.0)),
        Line::Pending(Pending::new(reply.id, None, "default", 5.0)),
        Line::Failed(Failed::new("star.jpg", &cut_short)),
        Line::Failed(Failed::new("star.jpg", &draining)),
    ] {
        assert_agree(&line);
    }
    // The two format a time differently, both valid in RFC 3339.
    let without_time = |mut status: Value| (status["at"].take().is_string(), status);
    let sent = serde_json::to_value(Status::example(Written::example())).expect("JSON");
    let described = Status::example(Written::example()).to_json().expect("JSON");
    assert_eq!(without_time(sent), without_time(described));
}

#[test]
fn routes_and_description_have_the_same_paths_and_methods() {
    let source = include_str!("../routes.rs");
    let routed: BTreeSet<_> = source
        .split(".at(\"")
        .skip(1)
        .filter_map(|rest| {
            let (path, rest) = rest.split_once("\", ")?;
            let (methods, _) = rest.split_once('(')?;
            Some(methods.split("_or_").map(move |method| (path.replace(":id", "{id}"), method.to_owned())))
        })
        .flatten()
        // Without the page and the description itself.
        .filter(|(path, _)| !["/", "/assets/:name", "/openapi.json", "/docs"].contains(&path.as_str()))
        .collect();
    let described: BTreeSet<_> = operations(&spec::<(Public, Watch, GuardedAdmin, Health)>())
        .into_iter()
        .map(|(path, method, _)| (path, method))
        .collect();
    assert_eq!(routed, described);
}

#[test]
fn each_listener_describes_exactly_its_own_paths() {
    let paths = |spec: Value| operations(&spec).into_iter().map(|(path, _, _)| path).collect::<BTreeSet<_>>();
    let (public, admin) = (paths(spec::<(Public, Health)>()), paths(spec::<(Admin, Health)>()));
    assert!(public.contains("/upload") && !admin.contains("/upload"), "{admin:?}");
    assert!(admin.contains("/events") && !public.contains("/events"), "{public:?}");
    assert!(paths(spec::<(Public, Watch, Health)>()).contains("/events"));
    for (spec, port, other) in [
        (spec::<(Admin, Health)>(), ":8001/", ":8000/"),
        (spec::<(Public, Watch, GuardedAdmin, Health)>(), ":8000/", ":8001/"),
    ] {
        let text = spec.to_string();
        assert!(text.contains(port) && !text.contains(other), "its examples have its own port: {text}");
    }
    assert!(admin.contains("/status") && !public.contains("/status"), "{public:?}");
    assert_eq!(paths(spec::<(Public, Watch, GuardedAdmin, Health)>()), &public | &admin);
}

#[test]
fn only_guarded_paths_describe_tokens_and_rates() {
    let turned_away = |spec: Value| {
        let guarded = operations(&spec).into_iter().filter(|(_, _, operation)| {
            let asks = |status: &str| operation["responses"][status].is_object();
            assert_eq!(asks("401"), operation["security"].is_array(), "{operation}");
            asks("401") || asks("429")
        });
        let paths = guarded.map(|(path, _, _)| path).collect::<BTreeSet<_>>();
        (paths, spec["components"]["securitySchemes"]["bearer"].is_object())
    };
    let named = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        turned_away(spec::<(Admin, Health)>()),
        (named(&[]), false),
        "its own listener has no access checks"
    );
    let public = ["/events", "/results/{id}", "/upload"];
    assert_eq!(turned_away(spec::<(Public, Watch, Health)>()), (named(&public), true));
    assert_eq!(turned_away(spec::<(Public, Health)>()), (named(&public[1..]), true));
    let all = [&public[..], &["/doorbell", "/metrics", "/status"]].concat();
    assert_eq!(turned_away(spec::<(Public, Watch, GuardedAdmin, Health)>()), (named(&all), true));
}

#[test]
fn every_tag_scheme_and_reference_of_a_description_exists() {
    for spec in [
        spec::<(Public, Health)>(),
        spec::<(Public, Watch, Health)>(),
        spec::<(Admin, Health)>(),
        spec::<(Public, Watch, GuardedAdmin, Health)>(),
    ] {
        for (path, _, operation) in operations(&spec) {
            for tag in operation["tags"].as_array().into_iter().flatten() {
                let known = spec["tags"].as_array().expect("tags").iter().any(|known| known["name"] == *tag);
                assert!(known, "{path}: {tag}");
            }
            let schemes = operation["security"].as_array().into_iter().flatten();
            for scheme in schemes.flat_map(|choice| choice.as_object().expect("a choice").keys()) {
                assert!(spec["components"]["securitySchemes"][scheme].is_object(), "{path}: {scheme}");
            }
        }
        let text = spec.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(spec.pointer(reference).is_some(), "{reference}");
        }
    }
}

#[test]
fn every_answer_is_explained_and_every_refusal_is_a_problem_with_an_example() {
    for (path, method, operation) in operations(&spec::<(Public, Watch, GuardedAdmin, Health)>()) {
        assert!(operation["description"].is_string() && operation["summary"].is_string(), "{method} {path}");
        for (status, answer) in operation["responses"].as_object().expect("answers") {
            let place = format!("{method} {path}: {status}");
            assert_ne!(answer["description"], "", "{place}");
            let Some(bodies) = answer["content"].as_object() else {
                assert_eq!(status, "204", "{place}: only this status has no body");
                continue;
            };
            for (content_type, body) in bodies {
                let example = &body["schema"]["example"];
                assert!(!example.is_null(), "{place} {content_type} has an example");
                if status.as_str() >= "400" {
                    assert_eq!(content_type, "application/problem+json", "{place}");
                    assert_eq!(example["status"].to_string(), *status, "{place}");
                    let (title, description) =
                        (example["title"].as_str().expect("a title"), answer["description"].as_str());
                    let description = description.expect("a description");
                    assert!(description.contains(&format!("`{title}`")), "{place} says `{title}`");
                }
            }
            let comes_back = answer["headers"]["Location"].is_object();
            if comes_back || ["429", "503"].contains(&status.as_str()) {
                assert_eq!(answer["headers"]["Retry-After"]["required"], true, "{place}");
            }
        }
    }
}
