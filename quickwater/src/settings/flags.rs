//! Flags of `serve` (and of `conf`), generated from the table of keys.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::keys::{KEYS, Kind};
use super::layers::{Layer, Source};

/// The settings given on the command line.
#[derive(Debug, Clone, Default)]
pub(crate) struct SettingFlags(pub Layer);

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut layer = Layer::new();
        for key in KEYS {
            if let Ok(Some(values)) = matches.try_get_many::<String>(key.name) {
                let texts = values.cloned().collect();
                layer.push((key, texts, Source::Flag(key.flag.into())));
            }
        }
        Ok(Self(layer))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        KEYS.iter().fold(command, |command, key| {
            let action = if key.kind == Kind::Mounts {
                ArgAction::Append
            } else {
                ArgAction::Set
            };
            let default = match key.default {
                "" => String::new(),
                text => format!(" [default: {text}]"),
            };
            let arg = Arg::new(key.name)
                .long(key.flag)
                .value_name(value_name(key.kind))
                .action(action)
                .help(format!(
                    "{}{default} [env: {}]",
                    key.doc.replace('`', ""),
                    key.variable()
                ));
            // A bare `--s3-anonymous` reads as true.
            command.arg(match key.kind {
                Kind::Switch => arg.num_args(0..=1).default_missing_value("true"),
                _ => arg,
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "TEXT",
        Kind::Path => "PATH",
        Kind::Address => "ADDR:PORT",
        Kind::HostPort => "HOST:PORT",
        Kind::Bytes => "BYTES",
        Kind::Duration | Kind::Ttl => "TIME",
        Kind::Count => "N",
        Kind::Ratio => "RATIO",
        Kind::Switch => "BOOL",
        Kind::Choice(_) => "WORD",
        Kind::Uri => "URI",
        Kind::Options => "K=V,...",
        Kind::Mounts => "BUCKET=URI",
    }
}
