//! Checks that can be judged without the machine they run on.

use std::time::{Duration, SystemTime};

use quickwater_controlplane::client::LinkError;

use super::*;

#[test]
fn kernel_releases_are_read() {
    assert_eq!(machine::version_of("6.18.0-generic"), Some((6, 18)));
    assert_eq!(machine::version_of("5.10.0+"), Some((5, 10)));
    assert_eq!(machine::version_of("odd"), None);
}

#[test]
fn an_unset_clock_fails() {
    let verdict = |seconds| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        clock::judge(time, None).verdict
    };
    assert_eq!(verdict(0), Verdict::Fail);
    assert_eq!(verdict(1_800_000_000), Verdict::Ok);
    assert_eq!(verdict(5_000_000_000), Verdict::Fail);
}

#[test]
fn what_the_kernel_says_of_its_clock_is_told() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let found = |synchronized| {
        let kernel = kernel_clock::Discipline {
            synchronized,
            estimated_error: Duration::from_micros(1_500),
            largest_error: Duration::from_millis(30),
        };
        clock::judge(time, Some(kernel)).found
    };
    assert!(found(true).contains("kept in step, estimated error 1.5ms, 30.0ms at most"));
    assert!(found(false).contains("unsynchronized"));
    // The call itself.
    assert!(kernel_clock::discipline().is_some());
}

#[test]
fn clocks_are_compared_as_far_as_an_answer_tells() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let fail = Duration::from_secs(300);
    let beside = |date, took| {
        let took = Duration::from_secs(took);
        clock::beside("clock of the UFS", "s3://b", date, at, took, fail)
    };
    let apart = |seconds: i64, took| {
        let by = Duration::from_secs(seconds.unsigned_abs());
        beside(if seconds < 0 { at - by } else { at + by }, took)
    };
    for (seconds, took, verdict) in [
        (0, 0, Verdict::Ok),
        (6, 0, Verdict::Ok),
        (7, 0, Verdict::Warn),
        (-7, 0, Verdict::Warn),
        // An answer that took as long says nothing.
        (7, 1, Verdict::Ok),
        (301, 0, Verdict::Warn),
        (302, 0, Verdict::Fail),
        (-302, 0, Verdict::Fail),
    ] {
        let check = apart(seconds, took);
        assert_eq!(check.verdict, verdict, "{seconds} s in {took} s");
        assert_eq!(check.advice.is_empty(), verdict == Verdict::Ok);
    }
    assert!(
        apart(-400, 0)
            .found
            .contains("400 s ahead of that of s3://b")
    );
    assert!(apart(400, 0).found.contains("400 s behind that of"));
    assert!(apart(400, 0).advice.contains("RequestTimeTooSkewed"));
}

#[test]
fn only_a_worker_has_slots_that_go_to_others() {
    assert!(service::go_on(7, service::WORKER).contains("slots"));
    let other = service::go_on(7, "service");
    assert_eq!(other, "let it go on: `kill -CONT 7`");
}

#[test]
fn a_file_is_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "text").unwrap();
    for given in [file.clone(), file.join("below")] {
        let checks = disk::checks(&settings(&given, "64MiB"), Role::Whole);
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].verdict, Verdict::Fail);
        let found = format!("{} is no directory", file.display());
        assert_eq!(checks[0].found, found);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
}

#[test]
fn disks_that_are_no_good_are_told_with_what_to_do() {
    for good in [0xef53, 0x5846_5342] {
        assert_eq!(device::file_system(good).verdict, Verdict::Ok);
    }
    // Signs of a 32-bit field.
    let btrfs = device::file_system(0xffff_ffff_9123_683e);
    assert_eq!(
        (btrfs.verdict, btrfs.found.as_str()),
        (Verdict::Warn, "btrfs")
    );
    assert!(
        device::file_system(0x0102_1994)
            .advice
            .contains("lost with the power")
    );
    assert!(
        device::file_system(0x794c_7630)
            .advice
            .contains("container")
    );
    assert!(device::file_system(0x1234).found.contains("0x1234"));
    assert_eq!(device::kind(Some(false)).verdict, Verdict::Ok);
    assert_eq!(device::kind(None).verdict, Verdict::Ok);
    let rotating = device::kind(Some(true));
    assert!(rotating.verdict == Verdict::Warn && rotating.advice.contains("NVMe"));
    let slow = disk::flush_took(Duration::from_millis(30));
    assert!(slow.verdict == Verdict::Warn && slow.found.starts_with("30.0ms"));
    assert_eq!(
        disk::flush_took(Duration::from_millis(2)).verdict,
        Verdict::Ok
    );
}

#[test]
fn an_alignment_the_store_does_not_have_fails() {
    let verdict = |told| device::alignment(told).verdict;
    assert_eq!(verdict(None), Verdict::Ok);
    assert_eq!(verdict(Some((4, 512))), Verdict::Ok);
    assert_eq!(verdict(Some((4096, 4096))), Verdict::Ok);
    assert_eq!(verdict(Some((512, 16384))), Verdict::Fail);
    assert_eq!(verdict(Some((8192, 512))), Verdict::Fail);
    assert_eq!(verdict(Some((0, 0))), Verdict::Fail);
}

#[test]
fn a_filter_is_blamed_only_for_what_it_refuses() {
    const EPERM: i32 = 1;
    const EMFILE: i32 = 24;
    let check = |mode, error| privileges::seccomp(Some(mode), error);
    assert_eq!(check("0", Some(EPERM)).verdict, Verdict::Ok);
    assert_eq!(check("2", None).verdict, Verdict::Ok);
    assert_eq!(check("2", Some(EMFILE)).verdict, Verdict::Ok);
    let refused = check("2", Some(EPERM));
    assert!(refused.verdict == Verdict::Warn && refused.advice.contains("io_uring_setup"));
    assert_eq!(privileges::seccomp(None, None).verdict, Verdict::Ok);
}

#[test]
fn the_right_to_load_ebpf_is_read_from_capabilities() {
    let found = |effective| privileges::ebpf(Some(effective), true).found;
    for may in ["000001ffffffffff", "000000c000000000", "0000000000200000"] {
        assert_eq!(found(may), "programs are built in; they may be loaded");
    }
    assert!(found("0000000000000000").contains("no CAP_BPF"));
    assert!(found("0000008000000000").contains("no CAP_PERFMON"));
    assert!(found("odd").contains("no CAP_BPF"));
    let without = privileges::ebpf(None, false).found;
    assert!(without.starts_with("not built"));
}

#[test]
fn the_role_of_a_process_that_was_killed_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), "64MiB");
    assert!(service::found(&settings).unwrap().is_none());
    // No process has this number: it is above what the kernel gives.
    let left = |addresses: &str| {
        let text = format!(r#"{{"pid":2000000000,"metrics":"127.0.0.1:1"{addresses}}}"#);
        std::fs::write(dir.path().join("run.json"), text).unwrap();
        let found = service::found(&settings);
        let role = service::role(&settings, &found, None);
        let found = found.unwrap().unwrap();
        assert!(!found.is_alive);
        let gone = service::gone(&found.run, role);
        assert_eq!(gone.verdict, Verdict::Warn);
        (role, gone.found)
    };
    let (s3, admin) = (r#","s3":"127.0.0.1:2""#, r#","admin":"127.0.0.1:3""#);
    for (addresses, role, said) in [
        (s3.to_owned(), Role::Worker, "the worker is not running"),
        (
            admin.to_owned(),
            Role::Control,
            "the control plane is not running",
        ),
        (
            format!("{s3}{admin}"),
            Role::Whole,
            "the service is not running",
        ),
    ] {
        let (seen, found) = left(&addresses);
        assert_eq!(seen, role);
        assert!(found.starts_with(said), "{found}");
    }
}

#[test]
fn the_role_of_a_process_that_ended_well_is_known() {
    let role = |files: &[&str], verb| {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let settings = settings(dir.path(), "64MiB");
        service::role(&settings, &service::found(&settings), verb)
    };
    assert_eq!(role(&[], None), Role::Whole);
    for (verb, wanted) in [
        (Verb::Worker, Role::Worker),
        (Verb::Control, Role::Control),
        (Verb::Serve, Role::Whole),
    ] {
        assert_eq!(role(&[], Some(verb)), wanted);
    }
    // By what was there before starts were noted.
    for (files, wanted) in [
        (&["cluster.json", "store", "credentials"][..], Role::Worker),
        (&["store", "admin-token", "credentials"], Role::Whole),
        (&["admin-token"], Role::Control),
    ] {
        assert_eq!(role(files, None), wanted, "{files:?}");
    }
}

#[test]
fn a_worker_whose_settings_are_not_known_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path(), "64MiB");
    let told = not_given(&settings, Role::Worker).unwrap();
    assert!(told.verdict == Verdict::Warn && told.found.contains("defaults"));
    assert!(not_given(&settings, Role::Whole).is_none());
    settings.cluster.control = Some("control:29990".into());
    assert!(not_given(&settings, Role::Worker).is_none());
}

fn settings(dir: &std::path::Path, capacity: &str) -> Settings {
    let mut values = crate::settings::Values::defaults();
    let flag = |name: &str, text: &str| {
        let key = crate::settings::keys::find(name).unwrap();
        let source = crate::settings::Source::Flag(key.flag.into());
        (key, vec![text.to_owned()], source)
    };
    let dir = dir.to_str().unwrap();
    values.lay(vec![
        flag("dir", dir),
        flag("store.capacity", capacity),
        flag("store.threads", "1"),
    ]);
    Settings::from_values(&values).unwrap()
}

#[test]
fn disk_checks_leave_nothing_behind() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let checks = disk::checks(&settings(dir.path(), "64MiB"), Role::Whole);
    let names: Vec<&str> = checks.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "directory",
            "file system",
            "disk",
            "O_DIRECT alignment",
            "O_DIRECT",
            "flush",
            "space"
        ]
    );
    assert!(checks.iter().all(|c| !c.found.is_empty()));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_cache_larger_than_the_disk_fails_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let checks = disk::checks(&settings(dir.path(), "1000000TiB"), Role::Whole);
    let space = checks.last().unwrap();
    assert_eq!(space.verdict, Verdict::Fail);
    assert!(space.advice.contains("store.capacity"));
}

#[test]
fn the_text_counts_verdicts_and_shows_advice() {
    let checks = [Check::ok("a", "fine"), Check::fail("b", "bad", "mend it")];
    let text = text(&checks);
    assert!(text.contains("-> mend it"));
    assert!(text.ends_with("1 ok, 0 warnings, 1 failure\n"));
}

#[test]
fn a_control_plane_needs_no_space_for_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let checks = disk::checks(&settings(dir.path(), "1000000TiB"), Role::Control);
    assert!(checks.iter().all(|check| check.name != "space"));
}

#[test]
fn what_keeps_rings_from_being_made_is_told_apart() {
    const ENOMEM: i32 = 12;
    const EPERM: i32 = 1;
    let found = |limit, single, forced| {
        let checks = machine::no_rings("why", (limit, single), forced, false);
        let verdicts: Vec<Verdict> = checks.iter().map(|check| check.verdict).collect();
        (verdicts, checks[0].advice.contains("LimitMEMLOCK"))
    };
    let limit = Some(64 << 10);
    // One fits, all do not; not even one fits.
    for single in [None, Some(ENOMEM)] {
        assert_eq!(found(limit, single, false), (vec![Verdict::Warn; 2], true));
        assert_eq!(found(limit, single, true), (vec![Verdict::Fail; 2], true));
    }
    let refused = vec![Verdict::Warn, Verdict::Ok];
    assert_eq!(found(limit, Some(EPERM), false), (refused.clone(), false));
    assert_eq!(found(None, None, false), (refused, false));
}

#[test]
fn a_certificate_of_the_cluster_is_judged_by_date_and_name() {
    use std::time::{Duration, SystemTime};
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    let validity = |from, until| quickwater_worker::tls::Validity {
        from,
        until,
        names: vec!["n1".into()],
    };
    let verdict = |validity, node| cluster::valid(&validity, node, now).verdict;
    let good = validity(now - days(1), now + days(300));
    assert_eq!(verdict(good.clone(), Some("n1")), Verdict::Ok);
    assert_eq!(verdict(good.clone(), None), Verdict::Ok);
    assert_eq!(verdict(good, Some("n2")), Verdict::Fail);
    let soon = validity(now - days(300), now + days(29));
    assert_eq!(verdict(soon, Some("n1")), Verdict::Warn);
    let over = validity(now - days(300), now - days(1));
    assert_eq!(verdict(over, Some("n1")), Verdict::Fail);
    let early = validity(now + days(1), now + days(300));
    assert_eq!(verdict(early, Some("n1")), Verdict::Fail);
}

#[test]
fn a_certificate_that_was_renewed_behind_a_process_is_told_of() {
    let there = quickwater_worker::tls::Validity {
        from: SystemTime::UNIX_EPOCH,
        until: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        names: vec!["n1".into()],
    };
    let metric = |role: &str, value: &str| {
        format!(
            "quickwater_cluster_certificate_not_after_timestamp_seconds{{certificate=\"{role}\"}} {value}\n"
        )
    };
    let told = |metrics: &str| cluster::in_use_of(&there, metrics);
    assert!(told("").is_none(), "of a version that does not tell");
    assert!(told(&metric("own", "1800000000")).is_none());
    assert!(told(&metric("authority", "1700000000")).is_none());
    for (value, day) in [("1700000000", "2023-11-14"), ("1900000000.0", "2030-03-17")] {
        let check = told(&metric("own", value)).unwrap();
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.found.contains(day), "{}", check.found);
        assert!(check.advice.contains("restart"));
    }
}

#[test]
fn a_node_that_is_drained_is_not_a_bad_disk() {
    let check = |state: &str| {
        service::node(&quickwater_rpc::admin::Node {
            name: "n1".into(),
            state: state.into(),
            ..Default::default()
        })
    };
    for state in ["ready", "draining", "drained"] {
        assert_eq!(check(state).verdict, Verdict::Ok, "{state}");
    }
    assert!(check("silent").advice.contains("process"));
    for state in ["starting", "stopping", "removed"] {
        assert_eq!(check(state).verdict, Verdict::Warn, "{state}");
    }
    assert!(check("suspect").advice.contains("disk"));
}

#[test]
fn settings_that_cannot_be_read_are_told_from_damaged_ones() {
    let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let denied = anyhow::Error::from(denied).context("cannot read last-start.json");
    let advice = super::not_used(&denied).advice;
    assert!(advice.contains("as root") && !advice.contains("restart"));
    let damaged = serde_json::from_str::<u8>("{").unwrap_err();
    let damaged = anyhow::Error::from(damaged).context("last-start.json is damaged");
    let advice = super::not_used(&damaged).advice;
    assert!(advice.contains("restart") && !advice.contains("as root"));
}

#[test]
fn what_keeps_a_worker_from_its_control_plane_is_told_apart() {
    let refused = |error| super::control::refused("control:1", &error);
    let strange = refused(LinkError::Certificates("BadSignature".into()));
    assert_eq!(strange.verdict, Verdict::Fail);
    assert!(strange.found.contains("BadSignature") && strange.advice.contains("cluster init"));
    let other = refused(LinkError::Unreached {
        address: "control:1".into(),
        why: "no TLS".into(),
    });
    assert_eq!(other.verdict, Verdict::Fail);
    assert!(other.found.contains("no TLS") && other.advice.contains("cluster.listen"));
}

#[test]
fn a_control_plane_is_asked_only_with_certificates() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let found = super::control::checks(&address, dir.path());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].verdict, Verdict::Warn);
    assert!(found[0].found.contains("ca.pem"), "{}", found[0].found);
    let found = super::control::checks("no address", dir.path());
    assert_eq!(found[0].verdict, Verdict::Fail);
}
