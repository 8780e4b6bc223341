use std::{collections::BTreeMap, time::Duration};

use eirs_controller::{
    observe,
    operator::{Cordon, Operator, Order},
    refusals::{self, Refused},
    status::{Decision, InstanceStatus, Learnt, PoolStatus, RuleWish, Status, Usage},
};
use eirs_platform::settings::Simulate;
use poem_openapi::registry::MetaSchema;
use serde_json::json;

use super::*;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_770_091_500 + second, 0).expect("a time")
}

/// A status with every field set. The struct literals are exhaustive, so a new field does not
/// compile until it is added here.
fn everything() -> Status {
    let order = Order { since: at(0), by: Some("alice".to_owned()) };
    let cordon = Cordon { since: at(0), by: Some("alice".to_owned()), drain: false };
    Status {
        version: "0.1.0".to_owned(),
        pid: 4321,
        started_at: at(0),
        at: at(90),
        tick: Duration::from_secs(5),
        reloads: 1,
        reloaded_at: Some(at(30)),
        pools: vec![PoolStatus {
            name: "default".to_owned(),
            model: Some("default".to_owned()),
            policy_file: "default.toml".to_owned(),
            policy_error: Some("default.toml, line 3: max: should be a number".to_owned()),
            min: 0,
            max: 3,
            launch: 5,
            visible: Some(5),
            in_flight: Some(2),
            arrivals_per_s: 1.5,
            done_per_s: 1.25,
            desired: 1,
            ready: 1,
            starting: 0,
            leaving: 0,
            reason: "7 jobs at 10 for each instance".to_owned(),
            wishes: vec![RuleWish { rule: "backlog".to_owned(), instances: 1, because: "7 jobs".to_owned() }],
            holds: vec!["it drains none before 60s are over".to_owned()],
            paused: Some(order.clone()),
            would: vec!["start default-2".to_owned()],
            service_s: Some(0.25),
            learnt: Learnt {
                start_delay_s: Some(20.5),
                start_delay_p95_s: Some(30.5),
                launch_delay_s: Some(60.5),
                service_s: Some(0.25),
                concurrency: Some(2.0),
                expected_per_s: Some(1.5),
            },
            today: Usage {
                instance_hours: Some(0.5),
                budget_hours: Some(8.0),
                cost_usd: Some(0.125),
                images: Some(1000),
                cost_usd_per_1000: Some(0.125),
            },
            instances: vec![InstanceStatus {
                id: "default-1".to_owned(),
                state: observe::Stage::Ready,
                since: at(10),
                generation: Some("3f2a".to_owned()),
                pid: Some(4330),
                machine: Some("i-0123456789abcdef0".to_owned()),
                in_flight: Some(2),
                slots: Some(4),
                done: Some(120),
                done_per_s: 1.25,
                engine: Some("rten".to_owned()),
                version: Some("0f1e2d3c4b5a6978".to_owned()),
                failing: Some("the script ended with exit status: 1".to_owned()),
                service_mean_ms: Some(250.5),
                service_p95_ms: Some(400.5),
                idle_since: Some(at(80)),
                reported_at: Some(at(89)),
                drain_until: Some(at(180)),
                crashes: 1,
                last_error: Some("exit code 1".to_owned()),
                not_before: Some(at(120)),
                cordoned: Some(cordon.clone()),
                refused: Some(Refused {
                    verb: refusals::Verb::Start,
                    count: 2,
                    since: at(1),
                    at: at(5),
                    error: "starting default-1: none left".to_owned(),
                    capacity: true,
                }),
            }],
        }],
        policy_errors: vec!["default.toml, line 3: max: should be a number".to_owned()],
        problems: vec!["the queue of default cannot be read".to_owned()],
        decisions: vec![Decision {
            at: at(10),
            pool: "default".to_owned(),
            backlog: Some(7),
            desired: 1,
            running: 0,
            actions: vec!["start default-1".to_owned()],
            reason: "7 jobs at 10 for each instance".to_owned(),
            paused: false,
        }],
        throughput_per_s: 1.25,
        operator: Operator {
            all_paused: Some(order.clone()),
            paused: BTreeMap::from([("default".to_owned(), order)]),
            cordoned: BTreeMap::from([("default-1".to_owned(), cordon)]),
        },
        operator_error: Some("operator.json: cannot be read".to_owned()),
        policies: "/etc/eirs/policies".to_owned(),
        instance_limit: 10,
        simulated: Some(Simulate {
            start_delay: "25s~lognormal:0.3".parse().expect("a distribution"),
            boot_failure: 0.125,
            capacity_error: 0.125,
            seed: 1,
        }),
    }
}

/// The schemas as a client sees them.
struct Described(Value);

impl Described {
    fn new() -> Self {
        let mut registry = Registry::new();
        Controller::register(&mut registry);
        let schemas = registry.schemas.iter().map(|(name, schema)| (name.clone(), written(schema)));
        Self(schemas.collect())
    }

    fn named(&self, name: &str) -> &Value {
        let name = name.rsplit('/').next().unwrap_or_default();
        self.0.get(name).unwrap_or_else(|| panic!("{name} is referenced but not described"))
    }

    /// Panics if a value does not match the schema.
    fn hold(&self, schema: &Value, value: &Value, place: &str) {
        if value.is_null() {
            assert_eq!(schema["nullable"], true, "{place} may be null");
            return;
        }
        let reference = &schema["allOf"][0]["$ref"];
        if let Some(name) = schema["$ref"].as_str().or(reference.as_str()) {
            return self.hold(self.named(name), value, place);
        }
        let fits = match schema["type"].as_str().expect("a type") {
            "string" if schema["format"] == "date-time" => {
                value.as_str().is_some_and(|text| DateTime::parse_from_rfc3339(text).is_ok())
            }
            "string" => {
                let of = schema["enum"].as_array();
                value.is_string() && of.is_none_or(|values| values.contains(value))
            }
            "integer" => value.is_u64(),
            "number" => value.is_f64(),
            "boolean" => value.is_boolean(),
            "array" => {
                let items = value.as_array();
                items.into_iter().flatten().for_each(|item| self.hold(&schema["items"], item, place));
                items.is_some()
            }
            "object" => {
                self.hold_object(schema, value, place);
                value.is_object()
            }
            other => panic!("{place}: what is the type {other}?"),
        };
        assert!(fits, "{place}: {value} is not what {schema} says");
    }

    fn hold_object(&self, schema: &Value, object: &Value, place: &str) {
        for (key, value) in object.as_object().into_iter().flatten() {
            let property = &schema["properties"][key];
            let property = if property.is_null() { &schema["additionalProperties"] } else { property };
            assert!(property.is_object(), "{place}.{key} is written by the controller but not described");
            self.hold(property, value, &format!("{place}.{key}"));
        }
        for key in schema["required"].as_array().into_iter().flatten() {
            assert!(object.get(key.as_str().expect("a key")).is_some(), "{place}: {key} is not always there");
        }
    }

    /// Returns every property of a schema, including nested ones.
    fn properties(&self, schema: &Value) -> Vec<String> {
        let reference = schema["$ref"].as_str().or(schema["allOf"][0]["$ref"].as_str());
        let schema = reference.map_or(schema, |name| self.named(name));
        let inner = |property: &Value| {
            let inside = [property, &property["items"], &property["additionalProperties"]];
            inside.into_iter().flat_map(|schema| self.properties(schema)).collect::<Vec<_>>()
        };
        let properties = schema["properties"].as_object().into_iter().flatten();
        properties.flat_map(|(key, property)| [vec![key.clone()], inner(property)].concat()).collect()
    }
}

/// A schema as in `/openapi.json`.
fn written(schema: &MetaSchema) -> Value {
    serde_json::to_value(schema).expect("JSON")
}

/// Returns every key of a value, including nested ones.
fn keys(value: &Value) -> Vec<String> {
    match value {
        Value::Object(object) => {
            object.iter().flat_map(|(key, value)| [vec![key.clone()], keys(value)].concat()).collect()
        }
        Value::Array(items) => items.iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}

/// Returns the JSON pointers to everything in a value.
fn places(value: &Value) -> Vec<String> {
    let below = |key: &str, value: &Value| {
        let inner = places(value).into_iter().map(|place| format!("/{key}{place}"));
        std::iter::once(format!("/{key}")).chain(inner).collect::<Vec<_>>()
    };
    match value {
        Value::Object(object) => object.iter().flat_map(|(key, value)| below(key, value)).collect(),
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(place, value)| below(&place.to_string(), value)).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn the_description_has_exactly_what_the_controller_writes() {
    let (described, status) = (Described::new(), serde_json::to_value(everything()).expect("JSON"));
    let controller = described.named(&Controller::name()).clone();
    described.hold(&controller, &status, "controller");
    let names = ["default", "default-1"];
    let mut written: Vec<_> =
        keys(&status).into_iter().filter(|key| !names.contains(&key.as_str())).collect();
    let mut documented = described.properties(&controller);
    written.sort();
    documented.sort();
    assert_eq!(documented, written, "described and written keys");
}

#[test]
fn optional_fields_are_described_as_nullable() {
    let (described, status) = (Described::new(), serde_json::to_value(everything()).expect("JSON"));
    let controller = described.named(&Controller::name());
    let mut absent = 0;
    for place in places(&status) {
        let mut without = status.clone();
        *without.pointer_mut(&place).expect("the place exists") = Value::Null;
        // Skip fields that the controller's own type requires.
        if let Ok(without) = serde_json::from_value::<Status>(without) {
            let without = serde_json::to_value(without).expect("JSON");
            described.hold(controller, &without, &format!("without {place}: controller"));
            absent += 1;
        }
    }
    assert!(absent > 30, "{absent}");
}

#[test]
fn every_state_and_order_is_described() {
    let described = Described::new();
    // The error for an unknown variant lists the known ones.
    let none = json!("none");
    let stages = serde_json::from_value::<observe::Stage>(none.clone()).expect_err("unknown").to_string();
    let verbs = serde_json::from_value::<refusals::Verb>(none).expect_err("unknown").to_string();
    for (name, complaint) in [(Stage::name(), stages), (Verb::name(), verbs)] {
        let known: Vec<_> = complaint.split('`').skip(3).step_by(2).collect();
        assert!(known.len() >= 3, "{complaint}");
        assert_eq!(described.named(&name)["enum"], json!(known), "{name}");
    }
}

#[test]
fn the_example_is_what_the_controller_writes() {
    let expected = serde_json::to_string_pretty(&everything()).expect("JSON");
    assert_eq!(
        EXAMPLE.trim_end(),
        expected,
        "web/src/operator/controller/example.json should be:\n{expected}\n"
    );
}
