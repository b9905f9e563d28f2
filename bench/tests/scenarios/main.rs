//! Every scenario against a small S3 server, with and without faults.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod toy;

use clap::Parser;
use quickwater_bench::cli::RunArgs;
use quickwater_bench::model::Report;
use quickwater_bench::{BenchError, run};
use toy::{Fault, Toy};

#[derive(Parser)]
#[command(args_override_self = true)]
struct Command {
    #[command(flatten)]
    run: RunArgs,
}

/// Runs `bench` with these arguments against a server.
fn bench(toy: &Toy, words: &str) -> Report {
    try_bench(toy, words).unwrap()
}

fn try_bench(toy: &Toy, words: &str) -> Result<Report, BenchError> {
    let fixed = format!(
        "bench --endpoint {} --access-key-id AK --secret-access-key SK --quiet --warmup 0 --concurrency 4 --prepare-concurrency 4 {words}",
        toy.url
    );
    let words: Vec<&str> = fixed.split_whitespace().collect();
    run(&Command::parse_from(words).run, Vec::new())
}

/// A run without a fault: nothing failed, everything was verified.
fn sound(words: &str) -> (Toy, Report) {
    let toy = Toy::start();
    let report = bench(&toy, &format!("--verify {words}"));
    for round in report.scenarios.iter().flat_map(|s| &s.rounds) {
        assert_eq!(round.failures(), 0, "{round:?}");
        assert_eq!(round.latency.count, round.requests + round.unsent);
        assert!(round.seconds > 0.0 && round.calls >= round.requests);
        let (requests, bytes) = round
            .series
            .iter()
            .fold((0, 0), |(r, b), s| (r + s.requests, b + s.bytes));
        assert_eq!(requests, round.requests);
        assert!(bytes >= round.bytes, "{bytes} {}", round.bytes);
    }
    assert_eq!(toy.world.lock().unwrap().unsigned, 0);
    (toy, report)
}

fn requests(report: &Report) -> Vec<u64> {
    report
        .scenarios
        .iter()
        .flat_map(|s| &s.rounds)
        .map(|r| r.requests)
        .collect()
}

fn errors(report: &Report) -> Vec<(String, u64)> {
    let rounds = report.scenarios.iter().flat_map(|s| &s.rounds);
    rounds.flat_map(|r| r.errors.clone()).collect()
}

#[test]
fn hits() {
    let (toy, report) =
        sound("get-hit -n 50 --rounds 2 --objects 10 --size uniform:0-70000 --threads 2");
    assert_eq!(requests(&report), [50, 50]);
    assert_eq!(
        (
            toy.count("GET", "/bench/bench/data-"),
            toy.count("PUT", "/data-")
        ),
        (100, 10)
    );
    assert_eq!(report.scenarios[0].rounds[0].cache["hit"], 50);
}

#[test]
fn large_bodies_read_and_written_in_many_steps() {
    let (_, report) = sound("get-hit,put -n 6 --rounds 1 --objects 3 --size 9000001");
    assert_eq!(requests(&report), [6, 6]);
    assert!(
        report
            .scenarios
            .iter()
            .all(|s| s.rounds[0].bytes == 6 * 9_000_001)
    );
}

#[test]
fn large_bodies_are_dropped_unread_without_verify() {
    let toy = Toy::start();
    let report = bench(&toy, "get-hit -n 6 --rounds 1 --objects 3 --size 9000001");
    assert_eq!(
        (errors(&report), report.scenarios[0].rounds[0].bytes),
        (vec![], 6 * 9_000_001)
    );
}

#[test]
fn misses_read_every_object_once() {
    let (toy, report) = sound("get-miss --rounds 2 --objects 40 --size 1000");
    assert_eq!(requests(&report), [20, 20]);
    let world = toy.world.lock().unwrap();
    let mut read: Vec<_> = world.journal.iter().filter(|(m, _)| m == "GET").collect();
    read.sort();
    read.dedup();
    assert_eq!(read.len(), 40);
}

#[test]
fn puts_are_new_objects_also_after_a_warmup() {
    let (toy, report) = sound("put -n 30 --rounds 2 --size 5000 --warmup 50ms");
    assert_eq!(requests(&report), [30, 30]);
    let world = toy.world.lock().unwrap();
    let puts = world
        .journal
        .iter()
        .filter(|(m, p)| m == "PUT" && p.contains("/put-a-"))
        .count();
    assert!(puts >= 60);
    assert_eq!(world.objects.len(), puts, "an object was written twice");
}

#[test]
fn uploads_in_parts() {
    let (toy, report) =
        sound("put-multipart -n 5 --rounds 1 --size 2500 --part-size 1000 --objects 5");
    assert_eq!(
        (requests(&report), report.scenarios[0].rounds[0].calls),
        (vec![5], 25)
    );
    let world = toy.world.lock().unwrap();
    assert!(world.uploads.is_empty() && world.objects.values().all(|(b, _)| b.len() == 2500));
}

#[test]
fn uploads_in_parts_that_fail_are_aborted() {
    let toy = Toy::start().with_fault(Fault::RefuseParts);
    let report = bench(
        &toy,
        "put-multipart -n 5 --rounds 1 --size 2500 --part-size 1000",
    );
    assert_eq!(errors(&report), [("server_error".to_owned(), 5)]);
    assert!(toy.world.lock().unwrap().uploads.is_empty());
}

#[test]
fn reads_after_writes_time_the_read() {
    let (_, report) = sound("get-after-write -n 20 --rounds 1 --size 3000");
    let round = &report.scenarios[0].rounds[0];
    assert_eq!((round.requests, round.calls, round.bytes), (20, 40, 60_000));
}

#[test]
fn mixes_heads_lists_ranges() {
    let (toy, report) = sound(
        "mixed,head,list,range -n 40 --rounds 1 --objects 30 --size 9000 --range-size 100 --page 7",
    );
    assert_eq!(requests(&report), [40; 4]);
    assert_eq!(report.scenarios[3].rounds[0].bytes, 4000);
    // A verified mix has objects of its own, for it changes them.
    let (gets, puts) = (toy.count("GET", "/mixed-"), toy.count("PUT", "/mixed-"));
    assert_eq!((gets + puts, puts > 30), (40 + 30, true), "{gets} {puts}");
    let (gets, puts) = (toy.count("GET", "/data-"), toy.count("PUT", "/data-"));
    assert_eq!((gets, puts), (40 + 40, 30), "lists name their prefix");
}

#[test]
fn deletes_have_objects_to_delete() {
    let (toy, report) = sound("delete --rounds 2 --objects 15 --size 10");
    assert_eq!(requests(&report), [15, 15]);
    assert!(toy.world.lock().unwrap().objects.is_empty());
    assert_eq!(toy.count("PUT", "/delete-a-"), 30);
}

#[test]
fn epochs_read_every_sample_once_in_other_orders() {
    let (toy, report) = sound("epoch --rounds 2 --objects 50 --size 100 -c 1");
    assert_eq!(requests(&report), [50, 50]);
    let world = toy.world.lock().unwrap();
    let read: Vec<_> = world
        .journal
        .iter()
        .filter(|(m, _)| m == "GET")
        .map(|(_, p)| p)
        .collect();
    let (first, second) = read.split_at(50);
    assert_ne!(first, second);
    let sorted = |part: &[&String]| {
        part.iter()
            .map(|p| (*p).clone())
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!((sorted(first).len(), sorted(first)), (50, sorted(second)));
}

#[test]
fn checkpoints_are_written_restored_and_replaced() {
    let (toy, report) = sound("checkpoint --rounds 3 --ranks 4 --size 3000 --part-size 1000");
    for round in &report.scenarios[0].rounds {
        let phases: Vec<_> = round
            .phases
            .iter()
            .map(|p| (p.name.as_str(), p.requests, p.bytes))
            .collect();
        assert_eq!(phases, [("write", 4, 12_000), ("restore", 4, 12_000)]);
        assert!(
            round
                .phases
                .iter()
                .all(|p| p.seconds > 0.0 && p.latency.count == 4)
        );
    }
    assert_eq!(
        toy.world.lock().unwrap().objects.len(),
        4,
        "only the last one is left"
    );
}

#[test]
fn the_open_loop_sends_what_is_due() {
    let (toy, report) =
        sound("get-hit --rate 500 --duration 200ms --rounds 1 --objects 5 --size 10 --threads 2");
    // On a machine that stands still some are not sent; then they are counted so.
    let round = &report.scenarios[0].rounds[0];
    assert_eq!(round.requests + round.unsent, 100);
    assert_eq!(toy.count("GET", "/data-") as u64, round.requests);
}

#[test]
fn the_open_loop_counts_those_that_wait_for_a_mute_server() {
    let toy = Toy::start();
    bench(&toy, "head -n 1 --rounds 1 --objects 5 --size 10");
    let toy = toy.with_fault(Fault::Mute);
    let report = bench(
        &toy,
        "get-hit --rate 1000 --duration 300ms --timeout 600ms --rounds 1 --objects 5 --size 10 --no-prepare",
    );
    let round = &report.scenarios[0].rounds[0];
    // Four connections hold one request each; all others wait, up to the end.
    let failed = round.failures();
    assert!(failed <= 4 && errors(&report).iter().all(|(kind, _)| kind == "timeout"));
    assert_eq!((round.requests, round.unsent + failed), (0, 300));
    // All have waited: those that were sent for the timeout, the others until then.
    assert_eq!(round.latency.count, 300);
    assert!(
        round.latency.max_us >= 600_000.0,
        "{:?}",
        round.latency.max_us
    );
    assert!(
        round.latency.p50_us > 300_000.0,
        "{:?}",
        round.latency.p50_us
    );
    assert_eq!(report.unsent(), round.unsent);
}

#[test]
fn wrong_bytes_and_lengths_are_errors() {
    for (fault, words, kind) in [
        (Fault::Corrupt, "get-hit --verify", "wrong_bytes"),
        (
            Fault::Corrupt,
            "range --verify --range-size 9",
            "wrong_bytes",
        ),
        (Fault::Short, "get-hit", "wrong_length"),
        (Fault::Break, "get-hit --size 100KB", "closed"),
    ] {
        let toy = Toy::start();
        let words = format!("-n 8 --rounds 1 --objects 3 {words}");
        assert_eq!(errors(&bench(&toy, &words)), []);
        let report = bench(&toy.with_fault(fault), &words);
        assert_eq!(errors(&report), [(kind.to_owned(), 8)], "{fault:?}");
        assert_eq!((report.failures(), requests(&report)), (8, vec![0]));
        assert!(!report.scenarios[0].rounds[0].error_examples.is_empty());
    }
}

#[test]
fn refusals_are_counted_and_the_round_goes_on() {
    let toy = Toy::start();
    bench(&toy, "head -n 1 --rounds 1 --objects 5");
    let report = bench(
        &toy.with_fault(Fault::SlowDown),
        "get-hit -n 100 --rounds 1 --objects 5 -c 1",
    );
    let failed = report.failures();
    assert_eq!(errors(&report), [("slow_down".to_owned(), failed)]);
    assert!((40..=60).contains(&failed) && requests(&report) == [100 - failed]);
    assert!(
        report.scenarios[0].rounds[0].error_examples[0].ends_with("answered 503 SlowDown later")
    );
}

#[test]
fn closing_servers_are_connected_to_again() {
    for fault in [Fault::CloseAlways, Fault::CloseSilently] {
        let toy = Toy::start().with_fault(fault);
        let report = bench(
            &toy,
            "get-hit,put -n 20 --rounds 1 --objects 5 --size 20000",
        );
        assert_eq!(
            (errors(&report), requests(&report)),
            (vec![], vec![20, 20]),
            "{fault:?}"
        );
    }
}

#[test]
fn requests_that_a_server_drops_are_shown() {
    let toy = Toy::start();
    let words = "get-hit -n 40 --rounds 1 --objects 5 --size 10 -c 1";
    assert_eq!(bench(&toy, words).scenarios[0].rounds[0].resent, 0);
    let report = bench(&toy.with_fault(Fault::DropSecond), words);
    let round = &report.scenarios[0].rounds[0];
    assert_eq!((round.requests, round.failures()), (40, 0));
    assert!((38..=40).contains(&round.resent), "{round:?}");
    assert!(round.flawed());
}

#[test]
fn ranges_and_pages_that_nobody_asked_for_are_errors_without_verify() {
    for (fault, words, kind) in [
        (Fault::WrongRange, "range --range-size 9", "wrong_range"),
        (Fault::StrangeKey, "list --page 5", "wrong_listing"),
        (Fault::MissingKey, "list --page 5", "wrong_listing"),
    ] {
        let toy = Toy::start();
        let words = format!("-n 20 --rounds 1 --objects 200 --size 100 --seed 3 {words}");
        assert_eq!(errors(&bench(&toy, &words)), [], "{fault:?}");
        let report = bench(&toy.with_fault(fault), &words);
        // A range may happen to begin at 0, a page to have one key.
        let failed = report.failures();
        assert!((15..=20).contains(&failed), "{fault:?} {failed}");
        assert_eq!(errors(&report), [(kind.to_owned(), failed)], "{fault:?}");
    }
}

#[test]
fn a_verified_mix_sees_stale_and_torn_reads() {
    let words = "mixed --verify -n 400 --rounds 2 --objects 9 --size 30000 --threads 2";
    let (_, sound) = sound(words);
    assert_eq!(requests(&sound), [400, 400]);
    for fault in [Fault::Stale, Fault::Torn] {
        let report = bench(&Toy::start().with_fault(fault), words);
        let failed = report.failures();
        assert!(failed > 200, "{fault:?}: {failed}");
        assert_eq!(
            errors(&report)
                .iter()
                .map(|(k, _)| k.as_str())
                .collect::<Vec<_>>(),
            ["wrong_bytes", "wrong_bytes"],
            "{fault:?}"
        );
    }
}

#[test]
fn prepared_objects_are_found_again_and_cleaned_up() {
    let toy = Toy::start();
    bench(&toy, "get-hit -n 5 --rounds 1 --objects 20 --size 50");
    assert_eq!(toy.count("PUT", "/data-50-1/"), 20);
    toy.forget();
    bench(&toy, "get-hit -n 5 --rounds 1 --objects 25 --size 50");
    assert_eq!(toy.count("PUT", "/data-50-1/"), 5);
    bench(
        &toy,
        "get-hit,put,delete,checkpoint,put-multipart,get-after-write -d 20ms --rounds 2 --objects 25 --size 50 --warmup 10ms --cleanup",
    );
    let left: Vec<String> = toy.world.lock().unwrap().objects.keys().cloned().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn files_hold_what_puts_write() {
    let toy = Toy::start();
    let dir = tempfile::tempdir().unwrap();
    bench(&toy, "head -n 1 --rounds 1 --objects 3 --size 300000");
    let report = bench(
        &toy,
        &format!(
            "head -n 1 --rounds 1 --objects 3 --size 300000 --prepare-dir {}",
            dir.path().display()
        ),
    );
    assert_eq!(report.failures(), 0);
    for (path, (bytes, _)) in &toy.world.lock().unwrap().objects {
        let key = path.strip_prefix("/bench/").unwrap();
        assert!(
            std::fs::read(dir.path().join(key)).unwrap() == *bytes,
            "{key}"
        );
    }
}

#[test]
fn two_endpoints_take_turns() {
    let (a, b) = (Toy::start(), Toy::start());
    let me = std::process::id();
    let report = bench(
        &a,
        &format!(
            "get-hit -n 30 --rounds 3 --objects 5 --vs {} --vs-anonymous --vs-bucket other --server-pid {me} --vs-server-pid tree:{me}",
            b.url
        ),
    );
    let turns: Vec<_> = report.scenarios[0]
        .rounds
        .iter()
        .map(|r| (r.number, r.endpoint))
        .collect();
    assert_eq!(turns, [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]);
    assert_eq!(
        report.scenarios[0].ratios(|r| Some(r.requests as f64)),
        [1.0; 3]
    );
    assert_eq!(
        (a.world.lock().unwrap().unsigned, b.count("GET", "/other/")),
        (0, 90)
    );
    assert!(b.world.lock().unwrap().unsigned > 90);
    let cost = report.scenarios[0].rounds[0].server.unwrap();
    assert!(cost.rss_peak_bytes > 100_000);
    assert_eq!(report.endpoints[1].server_pids, [format!("tree:{me}")]);
}

#[test]
fn nobody_there_is_said() {
    let toy = Toy::start();
    let gone = Toy {
        url: "http://127.0.0.1:1".into(),
        world: toy.world,
    };
    assert!(matches!(
        try_bench(&gone, "get-hit -n 3"),
        Err(BenchError::Prepare(_))
    ));
    let report = bench(&gone, "get-hit -n 8 --rounds 1 --no-prepare");
    assert_eq!(errors(&report), [("connect".to_owned(), 8)]);
}

#[test]
fn impossible_wishes_are_wrong_usage() {
    let toy = Toy::start();
    for words in [
        "get-hit --concurrency 0",
        "get-hit --rounds 0",
        "get-hit --rate 0",
        "get-hit --rate -5",
        "get-hit --size huge",
        "get-hit --objects 0",
        "get-hit --get-share 2",
        "get-hit --bucket a/b",
        "get-hit --duration 0",
        "get-hit --server-pid 4194305",
        "get-hit --vs https://example.invalid",
        "get-after-write --rate 5",
        "checkpoint -n 5",
        "put-multipart --size 1GiB --part-size 1KiB",
    ] {
        let words = words.replace("--rate -5", "--rate=-5");
        let error = try_bench(&toy, &words).unwrap_err();
        assert!(error.is_usage(), "{words}: {error}");
    }
    assert!(toy.world.lock().unwrap().journal.is_empty());
}
