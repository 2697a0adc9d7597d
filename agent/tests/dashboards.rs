//! The committed dashboard: generated, valid, and about metrics that exist.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy.toml exempts only within #[test]")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use gobuild_trace::telemetry::catalogue::{CATALOGUE, Instrument};
use gobuild_trace::telemetry::dashboard;
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};
use serde_json::Value;

fn generated() -> Value {
    serde_json::from_str(&dashboard::json()).unwrap()
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row").collect()
}

#[test]
fn the_committed_file_is_up_to_date() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dashboards").join(dashboard::FILE_NAME);
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text == dashboard::json(), "dashboards/ is out of date: run `cargo xtask dashboards`");
}

#[test]
fn the_dashboard_follows_the_rules_of_grafanas_linter() {
    let dashboard = generated();
    assert_eq!(dashboard["schemaVersion"], 39);
    assert_eq!(dashboard["editable"], false);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "job", "instance"]);
    assert_eq!(variables[0]["type"], "datasource");
    assert_eq!(variables[0]["label"], "Data Source");
    for variable in &variables[1..] {
        assert_eq!(variable["multi"], true);
        assert_eq!(variable["allValue"], ".+");
        assert_eq!(variable["refresh"], 2);
        assert_eq!(variable["datasource"]["uid"], "${datasource}");
    }
    let mut ids = BTreeSet::new();
    let mut titles = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: id twice");
        assert!(!title.is_empty() && titles.insert(title), "{title}: title twice");
        assert!(panel["description"].as_str().unwrap().ends_with('.'), "{title}: no description");
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap();
        assert!(["s", "Bps", "cps", "percentunit", "short"].contains(&unit), "{title}: unit {unit}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title}: no target");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(!target["legendFormat"].as_str().unwrap().is_empty(), "{title}");
        }
    }
    assert_no_overlap(&dashboard);
}

fn assert_no_overlap(dashboard: &Value) {
    let mut cells = BTreeMap::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                if let Some(other) = cells.insert((x, y), &panel["title"]) {
                    panic!("{} overlaps {other}", panel["title"]);
                }
            }
        }
    }
}

/// Sample name → its labels, and whether it is a counter.
fn samples() -> BTreeMap<String, (BTreeSet<String>, bool)> {
    let mut samples = BTreeMap::new();
    for metric in CATALOGUE {
        let mut labels: BTreeSet<String> = metric.attributes.iter().map(|attribute| attribute.label()).collect();
        labels.extend(["job", "instance", "otel_metric_overflow"].map(str::to_owned));
        let name = metric.prometheus_name();
        if metric.instrument == Instrument::Histogram {
            samples.insert(format!("{name}_sum"), (labels.clone(), true));
            samples.insert(format!("{name}_count"), (labels.clone(), true));
            labels.insert("le".to_owned());
            samples.insert(format!("{name}_bucket"), (labels, true));
        } else {
            samples.insert(name, (labels, metric.instrument == Instrument::Counter));
        }
    }
    samples
}

#[derive(Default)]
struct Found {
    selectors: Vec<VectorSelector>,
    grouped_by: Vec<Vec<String>>,
    rates: usize,
    aggregated_rates: usize,
}

fn walk(expr: &Expr, in_aggregation: bool, found: &mut Found) {
    match expr {
        Expr::Aggregate(aggregate) => {
            match &aggregate.modifier {
                Some(LabelModifier::Include(labels)) => found.grouped_by.push(labels.labels.clone()),
                Some(LabelModifier::Exclude(_)) => panic!("`without` hides which labels are used"),
                None => {}
            }
            walk(&aggregate.expr, true, found);
        }
        Expr::Binary(binary) => {
            walk(&binary.lhs, in_aggregation, found);
            walk(&binary.rhs, in_aggregation, found);
        }
        Expr::Paren(paren) => walk(&paren.expr, in_aggregation, found),
        Expr::Call(call) => {
            if matches!(call.func.name, "rate" | "increase" | "irate") {
                found.rates += 1;
                found.aggregated_rates += usize::from(in_aggregation);
            }
            for arg in &call.args.args {
                walk(arg, in_aggregation, found);
            }
        }
        Expr::VectorSelector(selector) => found.selectors.push(selector.clone()),
        Expr::MatrixSelector(selector) => found.selectors.push(selector.vs.clone()),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => {}
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn every_expression_is_promql_about_the_catalogue() {
    let samples = samples();
    let mut used = BTreeSet::new();
    let dashboard = generated();
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().unwrap() {
            let text = target["expr"].as_str().unwrap();
            assert_eq!(text.matches("[$__rate_interval]").count(), text.matches('[').count(), "{text}");
            let substituted = text.replace("$__rate_interval", "5m").replace("$job", ".+").replace("$instance", ".+");
            let expr = parser::parse(&substituted).unwrap_or_else(|error| panic!("{text}: {error}"));
            let mut found = Found::default();
            walk(&expr, false, &mut found);
            assert_eq!(found.aggregated_rates, found.rates, "{text}: a rate without aggregation");
            for selector in &found.selectors {
                let name = selector.name.clone().unwrap_or_default();
                let (labels, counter) = samples.get(&name).unwrap_or_else(|| panic!("{text}: no metric {name}"));
                assert_eq!(*counter, found.rates > 0, "{text}: rates are for counters");
                let matched: BTreeSet<&str> =
                    selector.matchers.matchers.iter().map(|matcher| matcher.name.as_str()).collect();
                assert!(matched.contains("job") && matched.contains("instance"), "{text}");
                for label in matched.into_iter().chain(found.grouped_by.iter().flatten().map(String::as_str)) {
                    assert!(labels.contains(label), "{text}: {name} has no label {label}");
                }
                used.insert(name);
            }
            let legend = target["legendFormat"].as_str().unwrap();
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                assert!(found.grouped_by.iter().all(|by| by.iter().any(|l| l == label)), "{text}: legend {legend}");
            }
        }
    }
    // Every metric of the catalogue has a panel, runs of probes aside: they only explain the run time.
    for metric in CATALOGUE.iter().filter(|metric| metric.name != "gobuild.agent.probe.runs") {
        let name = metric.prometheus_name();
        assert!(used.iter().any(|sample| sample.starts_with(&name)), "{} is on no panel", metric.name);
    }
}
