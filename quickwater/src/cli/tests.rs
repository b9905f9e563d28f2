//! The command line: what parses, what is refused, exit codes.

use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::command()
        .try_get_matches_from(line.split_whitespace())
        .and_then(|m| Cli::from_arg_matches(&m))
}

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_has_help_with_an_example_or_is_plain() {
    fn walk(command: &clap::Command, path: &str) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name());
            assert!(sub.get_about().is_some(), "{path} has no help");
            let leaf = sub.get_subcommands().next().is_none();
            if leaf && sub.get_name() != "version" {
                let after = sub.get_after_help().map(ToString::to_string);
                assert!(
                    after.unwrap_or_default().contains("Examples:"),
                    "{path} has no example"
                );
            }
            walk(sub, &path);
        }
    }
    walk(&Cli::command(), "quickwater");
}

#[test]
fn serve_takes_a_flag_for_every_setting() {
    let line = "quickwater serve --dir /d --s3-listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
        --metrics-listen 127.0.0.1:0 --capacity 1GiB --threads 2 --memory 512MiB --ufs file:///u \
        --mount abc=/x --mount def=/y --s3-anonymous --s3-folder-objects true --io-pin-threads=false --config /nonexistent";
    let Verb::Serve(args) = parse(line).unwrap().verb else {
        panic!("not serve")
    };
    let texts = |name: &str| {
        let found = args.flags.0.iter().find(|(key, ..)| key.name == name);
        found.map(|(_, texts, _)| texts.join(" "))
    };
    assert_eq!(texts("mounts").as_deref(), Some("abc=/x def=/y"));
    assert_eq!(texts("s3.anonymous").as_deref(), Some("true"));
    assert_eq!(texts("s3.folder_objects").as_deref(), Some("true"));
    assert_eq!(texts("io.pin_threads").as_deref(), Some("false"));
    assert_eq!(texts("store.capacity").as_deref(), Some("1GiB"));
    assert_eq!(texts("log.level"), None);
    assert_eq!(exit::code_of(&args.values().unwrap_err()), 2);
}

#[test]
fn every_setting_is_in_the_help_of_serve() {
    let mut command = Cli::command();
    let serve = command.find_subcommand_mut("serve").unwrap();
    let help = serve.render_long_help().to_string();
    for key in crate::settings::keys::KEYS {
        assert!(
            help.contains(&format!("--{} ", key.flag))
                || help.contains(&format!("--{}[", key.flag)),
            "{}",
            key.flag
        );
        assert!(help.contains(&key.variable()), "{}", key.variable());
    }
}

#[test]
fn admin_verbs_parse() {
    for line in [
        "quickwater mount add b s3://x --option a=b --option c=d --ttl 5s --dir /d",
        "quickwater mount list --control 127.0.0.1:1 --token-file /t --output json",
        "quickwater mount remove b",
        "quickwater status --output json",
        "quickwater admin-token --dir /d --output json",
        "quickwater fs ls b/p/ -r --limit 5",
        "quickwater fs ls",
        "quickwater fs ls /",
        "quickwater fs stat b/k",
        "quickwater async-persist list --worker local --state failing --prefix /b/p --limit 5",
        "quickwater async-persist list --output json",
        "quickwater async-persist stat --path /b/k",
        "quickwater async-persist retry --path s3://b",
        "quickwater async-persist wait --path /b/p --timeout 2h --control 127.0.0.1:1",
        "quickwater doctor --dir /d --capacity 1GiB",
        "quickwater conf get s3.listen --dir /d",
        "quickwater conf show --defaults",
        "quickwater version",
    ] {
        parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    for line in [
        "quickwater",
        "quickwater fly",
        "quickwater mount add b",
        "quickwater status --output xml",
        "quickwater async-persist list --state lost",
        "quickwater async-persist stat",
        "quickwater serve --nonsense 1",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn async_persist_says_what_is_wrong_before_it_asks() {
    for (line, hint) in [
        ("stat --path /b", "write /BUCKET/KEY"),
        ("stat --path /", "write /BUCKET"),
        ("retry --path //", "write /BUCKET"),
        ("wait --path s3:// --timeout 1s", "write /BUCKET"),
        ("wait --path /b --timeout soon", "--timeout: "),
    ] {
        let Verb::AsyncPersist(verb) = parse(&format!("quickwater async-persist {line}"))
            .unwrap()
            .verb
        else {
            panic!("{line}")
        };
        let error = async_persist::run(verb).unwrap_err();
        assert_eq!(exit::code_of(&error), 2, "{line}");
        assert!(format!("{error:#}").contains(hint), "{line}: {error:#}");
    }
}

#[test]
fn a_missing_service_has_its_own_code() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::local(dir.path().to_owned());
    let error = target.with(|_| async { Ok(()) }).unwrap_err();
    assert_eq!(exit::code_of(&error), 3);
    assert!(format!("{error:#}").contains("quickwater serve --dir"));
    assert_eq!(exit::code_of(&anyhow::anyhow!("other")), 1);
}

#[test]
fn a_dead_address_has_the_same_code() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "abc\n").unwrap();
    let target = Target {
        control: Some("127.0.0.1:1".into()),
        token_file: Some(token),
        ..Target::local(dir.path().to_owned())
    };
    let error = target.with(|_| async { Ok(()) }).unwrap_err();
    assert_eq!(exit::code_of(&error), 3);
}

#[test]
fn a_refusal_is_not_an_unreachable_service() {
    for code in [
        tonic::Code::Unavailable,
        tonic::Code::DeadlineExceeded,
        tonic::Code::Cancelled,
        tonic::Code::NotFound,
    ] {
        let answer = tonic::Status::new(code, "open the UFS directory /x: not there");
        let error = explain(&answer);
        assert_eq!(exit::code_of(&error), 1, "{code}");
        let text = format!("{error:#}");
        assert!(text.contains("open the UFS directory /x"), "{text}");
        assert!(!text.contains("cannot be reached"), "{text}");
    }
}

#[test]
fn a_connection_that_breaks_during_a_call_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let hangs_up = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "abc\n").unwrap();
    let target = Target {
        control: Some(address.to_string()),
        token_file: Some(token),
        ..Target::local(dir.path().to_owned())
    };
    let error = target
        .with(|mut remote| async move {
            let reply = remote.status(quickwater_rpc::admin::StatusRequest {}).await;
            reply.map_err(|s| explain(&s)).map(drop)
        })
        .unwrap_err();
    hangs_up.join().unwrap();
    assert_eq!(exit::code_of(&error), 3, "{error:#}");
}

#[test]
fn a_mount_takes_no_relative_path() {
    for fine in ["/a/b", "file:///a", "s3://b/p"] {
        assert_eq!(mount::absolute(fine), Ok(()), "{fine}");
    }
    for relative in ["a/b", "./a", "..", "~/a"] {
        let why = mount::absolute(relative).unwrap_err();
        assert!(why.contains("file:///ABSOLUTE/PATH"), "{why}");
    }
}

#[test]
fn a_path_is_a_bucket_and_a_key() {
    for (path, pieces) in [
        ("/", ("", "")),
        ("s3://", ("", "")),
        ("b", ("b", "")),
        ("/b/", ("b", "")),
        ("b/k/l", ("b", "k/l")),
        ("s3://b//k", ("b", "/k")),
    ] {
        assert_eq!(fs::split(path), pieces, "{path}");
    }
}

#[test]
fn an_unknown_setting_is_told_with_a_hint() {
    assert_eq!(
        conf::unknown("nope"),
        "unknown setting `nope`; `quickwater conf show` lists all"
    );
    assert_eq!(
        conf::unknown("s3.listn"),
        "unknown setting `s3.listn`; did you mean `s3.listen`? `quickwater conf show` lists all"
    );
}

#[test]
fn output_is_readable() {
    assert_eq!(output::size(512), "512 B");
    assert_eq!(output::size(3 << 30), "3.0 GiB");
    let rows = [
        vec!["A".into(), "B".into()],
        vec!["long".into(), String::new()],
    ];
    assert_eq!(output::table(&rows), "A     B\nlong\n");
}
