//! Reports rendered and judged; the page's structure is held against a golden list.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::model::{
    Endpoint, Latency, Machine, Recorder, Round, Scenario, Second, ServerCost, Settings,
};

fn latency(from_us: u64) -> Latency {
    let mut recorder = Recorder::new();
    (0..1000u64).for_each(|i| recorder.record((from_us + i * i / 100) * 1000));
    recorder.latency()
}

fn round(number: u32, endpoint: usize, cpu_seconds: f64) -> Round {
    Round {
        number,
        endpoint,
        requests: 1000,
        calls: 1000,
        errors: BTreeMap::new(),
        error_examples: Vec::new(),
        unsent: 0,
        reconnects: 0,
        resent: 0,
        bytes: 10_240_000,
        seconds: 2.0,
        latency: latency(100 * (endpoint as u64 + 1)),
        series: vec![
            Second {
                requests: 500,
                errors: 0,
                bytes: 5_120_000
            };
            2
        ],
        phases: Vec::new(),
        cache: BTreeMap::new(),
        server: Some(ServerCost {
            cpu_seconds,
            rss_peak_bytes: 64 << 20,
        }),
        client_cpu_seconds: 0.1,
    }
}

fn endpoint(label: &str) -> Endpoint {
    Endpoint {
        label: label.into(),
        url: "http://127.0.0.1:1".into(),
        bucket: "b".into(),
        signed: true,
        server_pids: Vec::new(),
    }
}

fn report() -> Report {
    let rounds = [
        (1, 0, 0.010),
        (1, 1, 0.020),
        (2, 0, 0.012),
        (2, 1, 0.010),
        (3, 0, 0.030),
        (3, 1, 0.030),
    ];
    Report {
        format_version: FORMAT_VERSION,
        tool_version: "0.1.0".into(),
        started: "2026-01-02T03:04:05Z".into(),
        interrupted: false,
        settings: Settings {
            command: vec!["bench".into(), "get-hit".into()],
            concurrency: 64,
            threads: 1,
            rounds: 3,
            duration_seconds: Some(2.0),
            requests: None,
            warmup_seconds: 0.0,
            rate: None,
            seed: 1,
            objects: 100,
            size: "10KiB".into(),
            verify: false,
            sign_payload: false,
            quick: false,
        },
        machine: Machine {
            cpu: "test".into(),
            cpus: 2,
            memory_bytes: 1 << 34,
            ..Machine::default()
        },
        endpoints: vec![endpoint("ours"), endpoint("nginx")],
        scenarios: vec![Scenario {
            name: "get-hit".into(),
            description: "reads".into(),
            rounds: rounds
                .into_iter()
                .map(|(n, e, cpu)| round(n, e, cpu))
                .collect(),
        }],
    }
}

/// Opening tags in order, runs of the same tag counted once, `svg` content aside.
fn structure(html: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside_svg = false;
    for piece in html.split('<').skip(1) {
        let tag: String = piece
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '/')
            .collect();
        match tag.as_str() {
            "svg" => inside_svg = true,
            "/svg" => inside_svg = false,
            _ if inside_svg => continue,
            _ => {}
        }
        let opening = !tag.is_empty() && !tag.starts_with('/');
        if opening && found.last() != Some(&tag) {
            found.push(tag);
        }
    }
    found
}

/// Every opened element is closed, in order; void elements aside.
fn assert_well_formed(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    for piece in html.split('<').skip(1) {
        let (inside, _) = piece.split_once('>').expect("a tag ends");
        let name = inside.split([' ', '\n']).next().unwrap_or_default();
        if inside.ends_with('/') || inside.starts_with('!') || name == "meta" {
            continue;
        }
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_page_has_its_parts_in_order() {
    let html = render(&report(), Format::Html).unwrap();
    let golden = "html head meta title style body header h1 p code p section h2 p \
        h3 div table thead tr th tbody tr td tr td \
        h3 div table thead tr th tbody tr td tr td tr td tr td tr td \
        h3 p span svg span svg h3";
    let found = structure(&html).join(" ");
    let normal = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(found.starts_with(&normal(golden)), "{found}");
    for heading in [
        "Medians of the rounds",
        "Ratios within a round",
        "Latency",
        "Throughput over time",
        "Ratio by round: server CPU per request",
        "CPU us/request",
        "CPU s/GB",
    ] {
        assert_eq!(
            html.matches(&format!("<h3>{heading}</h3>")).count(),
            1,
            "{heading}"
        );
    }
    assert_eq!(html.matches("role=\"img\"").count(), 3);
    assert_eq!(html.matches("class=\"bar ").count(), 4);
    assert_well_formed(&html);
}

#[test]
fn the_page_needs_nothing_else_and_runs_nothing() {
    let html = render(&report(), Format::Html).unwrap();
    for word in [
        "<script", "<link", "<img", "src=", "href=", "url(", "@import", "NaN", "inf",
    ] {
        assert!(!html.contains(word), "{word}");
    }
    assert!(html.contains("prefers-color-scheme: dark"));
}

#[test]
fn nothing_of_a_report_becomes_markup() {
    let evil = "\"><script>alert('x')</script>&\u{1b}[31m";
    let mut bad = report();
    bad.started = evil.into();
    bad.tool_version = evil.into();
    bad.settings.command = vec![evil.into()];
    bad.machine.cpu = evil.into();
    bad.machine.kernel = evil.into();
    for endpoint in &mut bad.endpoints {
        (endpoint.label, endpoint.url, endpoint.bucket) = (evil.into(), evil.into(), evil.into());
    }
    let scenario = &mut bad.scenarios[0];
    (scenario.name, scenario.description) = (evil.into(), evil.into());
    scenario.rounds[0].errors.insert(evil.into(), 3);
    scenario.rounds[0].error_examples.push(evil.into());
    scenario.rounds[0].phases.push(crate::model::Phase {
        name: evil.into(),
        seconds: 1.0,
        bytes: 1,
        requests: 1,
        server_cpu_seconds: None,
        latency: crate::model::Latency::default(),
    });
    let html = render(&bad, Format::Html).unwrap();
    assert!(!html.contains("<script") && !html.contains("alert('") && !html.contains('\u{1b}'));
    assert_well_formed(&html);
    let table = render(&bad, Format::Table).unwrap();
    assert!(!table.contains('\u{1b}'), "{table}");
}

#[test]
fn an_empty_or_broken_round_still_makes_a_page() {
    let mut odd = report();
    odd.interrupted = true;
    for round in &mut odd.scenarios[0].rounds {
        (round.requests, round.bytes, round.seconds) = (0, 0, 0.0);
        (round.latency, round.series, round.server) = (Latency::default(), Vec::new(), None);
        round.endpoint += 7; // names nobody
    }
    let html = render(&odd, Format::Html).unwrap();
    assert!(html.contains("Interrupted") && !html.contains("NaN"));
    assert_well_formed(&html);
    assert!(render(&odd, Format::Table).unwrap().contains("Interrupted"));
}

#[test]
fn the_table_says_medians_and_ratios() {
    let table = render(&report(), Format::Table).unwrap();
    let golden = "\
get-hit: reads
  endpoint  rounds  failed  requests/s  MB/s";
    assert!(table.starts_with(golden), "{table}");
    let line = |start: &str| {
        let found = table.lines().find(|l| l.trim_start().starts_with(start));
        found
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        line("ours  "),
        [
            "ours", "3", "0", "500", "5.12", "2.59", "8.18", "9.89", "10.1", "10.1", "12.0",
            "1.17", "64.0"
        ]
    );
    let cpu = table
        .lines()
        .find(|l| l.contains("ours / nginx") && l.contains("CPU us/request"))
        .unwrap();
    assert!(
        cpu.contains("1.00x") && cpu.contains("0.500 .. 1.20"),
        "{cpu}"
    );
}

#[test]
fn a_later_format_is_refused() {
    let mut later = report();
    later.format_version = FORMAT_VERSION + 1;
    let text = serde_json::to_string(&later).unwrap();
    assert!(matches!(parse(&text), Err(ReportError::Version(v)) if v == FORMAT_VERSION + 1));
    assert!(matches!(parse("{}"), Err(ReportError::Json(_))));
    let json = render(&report(), Format::Json).unwrap();
    assert_eq!(parse(&json).unwrap(), report());
}

fn budgets(text: &str) -> Vec<Budget> {
    parse_budgets(text).unwrap()
}

fn budget(more: &str) -> String {
    format!(
        "[[budget]]\nrow = \"get-hit\"\nwhat = \"w\"\nmeasure = \"server_us_per_request\"\nof = \"ours\"\n{more}\n"
    )
}

#[test]
fn ratios_are_judged_by_the_median_of_rounds() {
    // Per round 0.5, 1.2 and 1.0; the medians of the columns would say 0.6.
    for (bounds, want) in [
        ("at_most = 1.0", Outcome::Met),
        ("at_most = 0.99", Outcome::Missed),
        ("at_least = 1.0", Outcome::Met),
        ("at_least = 1.01", Outcome::Missed),
    ] {
        let all = budgets(&budget(&format!("to = [\"nginx\"]\n{bounds}")));
        let verdicts = judge(&all, &[report()]);
        assert_eq!(verdicts[0].values.len(), 3);
        assert_eq!(verdicts[0].outcome(false), want, "{bounds}");
    }
    let absolute = budgets(&budget("at_most = 12.0"));
    let verdict = &judge(&absolute, &[report()])[0];
    assert!((verdict.median().unwrap() - 12.0).abs() < 1e-9);
    let smallest = budgets(&budget("to = [\"absent\", \"nginx\"]\nat_most = 1.0"));
    assert_eq!(
        judge(&smallest, &[report()])[0].outcome(false),
        Outcome::Met
    );
}

#[test]
fn what_nobody_measured_is_not_met() {
    let all = budgets(&budget("to = [\"absent\"]\nat_most = 1.0"));
    assert_eq!(
        judge(&all, &[report()])[0].outcome(false),
        Outcome::Unmeasured
    );
    let all = budgets(&budget("at_most = 1.0"));
    assert_eq!(judge(&all, &[])[0].outcome(false), Outcome::Unmeasured);
}

#[test]
fn wrong_budget_files_are_refused() {
    for (text, word) in [
        (budget(""), "at_most"),
        (budget("at_most = nan"), "numbers"),
        (budget("at_most = 1.0\nat_least = 2.0"), "numbers"),
        (budget("at_most = 1.0\ncolour = 3"), "colour"),
        (
            budget("at_most = 1.0").replace("server_us", "server_eons"),
            "server_eons",
        ),
        ("budget = []".into(), "1 to"),
        (String::new(), "budget"),
        (format!("rounds = 0\n{}", budget("at_most = 1.0")), "rounds"),
    ] {
        let error = parse_budgets(&text).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn the_budgets_of_the_project_are_readable() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/budgets.toml");
    let all = budgets(&std::fs::read_to_string(path).unwrap());
    assert!(all.len() > 20);
    assert!(
        all.iter()
            .any(|b| b.row == "get-small-ram" && b.at_most == Some(1.0))
    );
    assert!(all.iter().all(|b| b.rounds == Some(5) || b.row == "index"));
}

/// Runs `check` with other words; the way it ends and what it prints.
fn run_check(
    budget_text: &str,
    report: &Report,
    change: impl FnOnce(&mut CheckArgs),
) -> (Result<bool, CheckError>, String) {
    let home = tempfile::tempdir().unwrap();
    let (budgets, json) = (home.path().join("b.toml"), home.path().join("r.json"));
    std::fs::write(&budgets, budget_text).unwrap();
    std::fs::write(&json, render(report, Format::Json).unwrap()).unwrap();
    let mut out = Vec::new();
    let mut args = CheckArgs {
        budgets,
        allow_missing: false,
        allow_quick: false,
        reports: vec![json],
    };
    change(&mut args);
    let well = check(&args, &mut out);
    (well, String::from_utf8(out).unwrap())
}

#[test]
fn check_prints_every_budget_and_fails_on_a_missed_one() {
    let (good, bad) = (budget("at_most = 12.0"), budget("at_most = 11.0"));
    let (well, text) = run_check(&good, &report(), |_| {});
    assert!(well.unwrap());
    assert!(
        text.contains("<= 12.0")
            && text.contains("1 met, 0 missed, 0 in too few rounds, 0 not measured"),
        "{text}"
    );
    let (well, text) = run_check(&format!("{good}{bad}"), &report(), |_| {});
    assert!(!well.unwrap());
    assert!(
        text.contains("MISSED") && text.contains("1 met, 1 missed"),
        "{text}"
    );
}

#[test]
fn check_wants_every_budget_measured() {
    let absent = budget("to = [\"absent\"]\nat_most = 1.0");
    let relax = |args: &mut CheckArgs| args.allow_missing = true;
    assert!(!run_check(&absent, &report(), relax).0.unwrap());
    let both = format!("{}{absent}", budget("at_most = 12.0"));
    let (well, text) = run_check(&both, &report(), |_| {});
    assert!(!well.unwrap() && text.contains("NOT MEASURED"), "{text}");
    assert!(run_check(&both, &report(), relax).0.unwrap());
}

#[test]
fn check_wants_enough_rounds() {
    let of = |rounds: u32| format!("rounds = {rounds}\n{}", budget("at_most = 12.0"));
    assert!(run_check(&of(3), &report(), |_| {}).0.unwrap());
    let (well, text) = run_check(&of(4), &report(), |args| args.allow_missing = true);
    assert!(!well.unwrap() && text.contains("3 OF 4 ROUNDS"), "{text}");
    let quick = |args: &mut CheckArgs| args.allow_quick = true;
    assert!(run_check(&of(4), &report(), quick).0.unwrap());
    // A budget's own number counts before that of the file.
    let own = format!("rounds = 9\n{}", budget("at_most = 12.0\nrounds = 3"));
    assert!(run_check(&own, &report(), |_| {}).0.unwrap());
}

#[test]
fn check_believes_no_broken_report() {
    let good = budget("at_most = 12.0");
    type Breaker = fn(&mut Report);
    let broken: [(&str, Breaker); 5] = [
        ("5000000 wrong_bytes", |r| {
            let round = &mut r.scenarios[0].rounds[2];
            round.errors.insert("wrong_bytes".into(), 5_000_000);
        }),
        ("interrupted", |r| r.interrupted = true),
        ("12 due but never sent", |r| {
            r.scenarios[0].rounds[1].unsent = 12;
        }),
        ("7 dropped by the server", |r| {
            r.scenarios[0].rounds[0].resent = 7;
        }),
        ("--quick run", |r| r.settings.quick = true),
    ];
    for (word, break_it) in broken {
        let mut report = report();
        break_it(&mut report);
        let (well, text) = run_check(&good, &report, |args| args.allow_missing = true);
        assert!(!well.unwrap() && text.contains(word), "{word}: {text}");
    }
    let mut quick = report();
    quick.settings.quick = true;
    assert!(
        run_check(&good, &quick, |args| args.allow_quick = true)
            .0
            .unwrap()
    );
}

#[test]
fn the_table_shows_what_was_dropped_and_never_sent() {
    let mut report = report();
    (
        report.scenarios[0].rounds[0].unsent,
        report.scenarios[0].rounds[1].resent,
    ) = (12, 7);
    let text = render(&report, Format::Table).unwrap();
    assert!(
        text.contains("ours, round 1: 12 due but never sent\n"),
        "{text}"
    );
    assert!(
        text.contains("resent") && text.contains("7 dropped"),
        "{text}"
    );
    assert!(!text.contains("failed: ;"), "{text}");
}

#[test]
fn check_names_the_file_it_cannot_use() {
    let args = CheckArgs {
        budgets: PathBuf::from("/nonexistent/b.toml"),
        allow_missing: false,
        allow_quick: false,
        reports: vec![PathBuf::from("r.json")],
    };
    let error = check(&args, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/b.toml"), "{error}");
    assert_eq!(error.matches("No such file").count(), 1, "{error}");
}

#[test]
fn the_last_part_of_a_second_is_not_drawn_as_a_whole_one() {
    let mut taken = round(1, 0, 0.01);
    taken.series.push(Second {
        requests: 3,
        errors: 0,
        bytes: 30,
    });
    for (seconds, want) in [(2.1, 2), (2.99, 2), (3.0, 3), (9.0, 3), (0.2, 1)] {
        taken.seconds = seconds;
        assert_eq!(charts::whole_seconds(&taken).len(), want, "{seconds}");
    }
    taken.series.clear();
    assert!(charts::whole_seconds(&taken).is_empty());
}

#[test]
fn a_saved_report_is_shown_again() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("r.json");
    std::fs::write(&path, render(&report(), Format::Json).unwrap()).unwrap();
    let mut out = Vec::new();
    let args = ShowArgs {
        report: path,
        output: Format::Html,
    };
    show(&args, &mut out).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        render(&report(), Format::Html).unwrap()
    );
}
