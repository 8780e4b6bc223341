use super::*;
use crate::policy::Rule;

/// Asserts all complaints about a text, each without the file's name.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let complaints = parse(Path::new("p.toml"), text).expect_err("this text is bad");
    let said: Vec<_> = complaints.iter().map(ToString::to_string).collect();
    let expected: Vec<_> = expected.iter().map(|complaint| format!("p.toml:{complaint}")).collect();
    assert_eq!(said, expected);
}

#[test]
fn an_empty_file_is_a_pool_with_the_defaults() {
    let policy = parse(Path::new("p.toml"), "").unwrap();
    assert_eq!((policy.pool.model.as_str(), policy.pool.min, policy.pool.max), ("default", 0, 10));
    assert_eq!((policy.rules, policy.scale_in), (vec![], ScaleIn::default()));
}

#[test]
fn every_key_is_read() {
    let text = "
        [pool]
        model = 'dogs'
        min = 1
        max = 0x13
        spare = 2
        start_delay = '1m 5s'
        service_time = '20ms'
        canary = '12h'
        [[rule]]
        kind = 'backlog'
        per_instance = 1_000
        [scale_in]
        idle = '1s'
        window = '2s'
        drain_deadline = '3s'
        max_step = 4
        [scale_out]
        max_step = 6
        [budget]
        instance_hours_per_day = 48
        timezone = 'Europe/Berlin'
        [instance]
        usd_per_hour = 0.5
        billing_minimum = '0s'
        [launch]
        most = 30
        types = ['t3.small', 't3a.small']
        market = 'spot'
        start_delay = '90s'
        usd_per_hour = 0.007";
    let policy = parse(Path::new("p.toml"), text).unwrap();
    let expected = Policy {
        pool: Pool {
            model: "dogs".into(),
            min: 1,
            max: 19,
            spare: 2,
            weight: 1.0,
            observe: false,
            start_delay: Duration::from_secs(65),
            service_time: Duration::from_millis(20),
            canary: Some(Duration::from_secs(12 * 3600)),
        },
        rules: vec![Rule::Backlog { per_instance: 1000 }],
        scale_out: ScaleOut { max_step: 6 },
        scale_in: ScaleIn {
            idle: Duration::from_secs(1),
            window: Duration::from_secs(2),
            keep: Duration::from_secs(600),
            drain_deadline: Duration::from_secs(3),
            max_step: 4,
        },
        budget: Budget {
            instance_hours_per_day: Some(48.0),
            pace: false,
            timezone: chrono_tz::Europe::Berlin,
        },
        instance: Price { usd_per_hour: 0.5, billing_minimum: Duration::ZERO, ..Price::default() },
        launch: Launch {
            most: 30,
            types: vec!["t3.small".into(), "t3a.small".into()],
            market: Market::Spot,
            start_delay: Duration::from_secs(90),
            usd_per_hour: Some(0.007),
        },
    };
    assert_eq!(policy, expected);
}

#[test]
fn all_mistakes_are_found_at_once_with_line_key_value_and_correction() {
    check(
        "[pool]\nmax = -3\nmaxx = 5\nmodel = 7\n[[rule]]\nkind = 'backlg'\n[[rule]]\nkind = 'backlog'\n\
         per_instance = 0\n\
         [scale_in]\nidle = 30\nwindow = '2h'\n[costs]\n",
        &[
            "2: pool.max: is -3; must be a whole number from 0 to 10000",
            "3: unknown key `pool.maxx`; did you mean `pool.max`?",
            "4: pool.model: is 7; must be a text in quotes",
            "6: rule[1].kind: is \"backlg\", which is unknown; did you mean \"backlog\"? The \
            known ones are \"backlog\", \"latency\", \"step\", \"schedule\", \"forecast\"",
            "9: rule[2].per_instance: is 0; must be a whole number from 1 to 1000000000",
            "11: scale_in.idle: is 30; must be a time in quotes with its unit, from \"0s\" to \
            \"1day\"",
            "12: scale_in.window: is '2h'; must be a time in quotes with its unit, from \"0s\" \
            to \"1h\"",
            "13: unknown key `costs`; the known ones are pool, rule, scale_out, scale_in, budget, instance, \
             launch",
        ],
    );
}

#[test]
fn the_right_key_is_suggested_for_one_in_the_wrong_section_and_for_a_misspelt_one() {
    check(
        "[pool]\nidle = '30s'\n[[rule]]\nkind = 'latency'\np59 = '20s'\nmax = 3",
        &[
            "2: unknown key `pool.idle`; did you mean `scale_in.idle`?",
            "4: rule[1].p95: is missing: how long 95 of 100 jobs may take, like `p95 = \"30s\"`",
            "5: unknown key `rule[1].p59`; did you mean `rule[1].p95`?",
            "6: unknown key `rule[1].max`; did you mean `pool.max`?",
        ],
    );
}

#[test]
fn an_invalid_instance_type_or_market_is_a_complaint() {
    check(
        "[launch]\ntypes = ['T3.small']\nmarket = 'auction'\nmost = 3\n[pool]\n",
        &[
            "2: launch.types: has \"T3.small\"; an instance type is written like \"t3.small\"",
            "3: launch.market: is \"auction\", which is unknown; the known ones are \"on-demand\", \"spot\"",
        ],
    );
    check("[launch]\ntypes = [3]", &["2: launch.types: is [3]; must be a list of texts in quotes"]);
}

#[test]
fn a_min_above_the_max_is_a_complaint() {
    check("[pool]\nmin = 4\nmax = 3", &["2: pool.min: is 4, more than `max` (3); lower it or raise `max`"]);
}

#[test]
fn a_rule_without_a_kind_is_a_complaint() {
    check(
        "[[rule]]\nper_instance = 4",
        &["2: rule[1].kind: is missing; a rule needs a kind, like `kind = \"backlog\"`"],
    );
}

#[test]
fn invalid_toml_is_reported_with_its_line() {
    let complaints = parse(Path::new("p.toml"), "[pool]\nmax = = 3").unwrap_err();
    assert!(complaints[0].to_string().starts_with("p.toml:2: is not TOML: "), "{complaints:?}");
}

#[test]
fn a_table_where_a_list_belongs_is_a_complaint() {
    check(
        "[rule]\nkind = 'backlog'",
        &["1: rule: is [rule]; must be a list of tables, each written `[[rule]]`"],
    );
}

#[test]
fn only_toml_files_directly_in_the_folder_are_pools() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.toml", "b.toml~", ".c.toml", "d.txt", "examples/e.toml"] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let policies = load_dir(folder.path()).unwrap();
    assert_eq!(policies.pools.keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_folder_or_a_pipe_instead_of_a_policy_file_is_a_complaint_and_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("a.toml")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("b.toml"), rustix::fs::Mode::RWXU).unwrap();
    std::os::unix::fs::symlink("gone", at("c.toml")).unwrap();
    fs::write(at("d.toml"), b"# gr\xfc\xdf").unwrap();
    let said: Vec<_> = load_dir(folder.path()).unwrap_err().iter().map(ToString::to_string).collect();
    let expected =
        ["a.toml: is a folder", "b.toml: is not a file", "c.toml: cannot be read", "d.toml: is not UTF-8"];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_single_file_is_read_like_one_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad, misnamed) =
        (folder.path().join("a.toml"), folder.path().join("b.toml"), folder.path().join("d e.toml"));
    fs::write(&good, "[pool]\nmax = 3").unwrap();
    fs::write(&bad, "[pool]\nmax = 'x'").unwrap();
    fs::write(&misnamed, "").unwrap();
    assert_eq!(load_file(&good).unwrap().pools["a"].pool.max, 3);
    assert!(load_file(&bad).unwrap_err()[0].to_string().contains("b.toml:2: pool.max: is 'x'"));
    assert!(load_file(&misnamed).unwrap_err()[0].to_string().contains("a pool is named by its file"));
    assert!(
        load_dir(&good).unwrap_err()[0].to_string().contains("a.toml: is a file; the policies are a folder")
    );
}

#[test]
fn complaints_about_all_files_are_collected_including_a_shared_model() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("a.toml", "[pool]\nmodel = 'dogs'");
    write("b.toml", "[pool]\nmodel = 'dogs'");
    write("c.toml", "[pool]\nmax = 'many'");
    write("d e.toml", "");
    let said: Vec<_> = load_dir(folder.path()).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3, "{said:#?}");
    assert!(said[0].contains("d e.toml: a pool is named by its file"), "{said:#?}");
    assert!(
        said[1].contains("b.toml: pool.model: is \"dogs\", which the pool \"a\" serves already"),
        "{said:#?}"
    );
    assert!(said[2].contains("c.toml:2: pool.max: is 'many'"), "{said:#?}");
}

#[test]
fn every_shipped_policy_is_valid_and_fits_the_default_settings() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let settings = eirs_platform::settings::Settings::default();
    let policies = load_dir(&shipped).unwrap();
    assert_eq!(policies.pools.keys().collect::<Vec<_>>(), ["default"]);
    assert_eq!(policies.complaints(&shipped, &settings), []);
    // Each example is meant to be used by itself.
    let examples = read_folder(&shipped.join("examples")).unwrap();
    assert!(examples.files.len() >= 5 && examples.misnamed.is_empty());
    for (name, policy) in examples.files {
        let policy = policy.unwrap_or_else(|complaints| panic!("{name}: {complaints:?}"));
        let policies = Policies { pools: BTreeMap::from([(name, policy)]), ..Policies::default() };
        assert_eq!(policies.complaints(&shipped, &settings), []);
    }
}

#[test]
fn a_missing_folder_is_a_complaint() {
    let complaints = load_dir(Path::new("no/such/folder")).unwrap_err();
    assert!(complaints[0].to_string().starts_with("no/such/folder: the policy folder cannot be read"));
}
